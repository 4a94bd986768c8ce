//! Searches that may have to look at every image of a tenant: few at a time, so that whoever asks for what an index finds
//! does not wait behind them.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ImageFilter;

/// Half of the connections that read of an SQLite file.
const AT_A_TIME: usize = 2;

/// The places for searches of this handle and its clones.
#[derive(Clone, Debug)]
pub(crate) struct Searches(Arc<Semaphore>);

impl Default for Searches {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Searches {
    /// Waits for a place, where the filter may pass over many images to find one.
    pub(crate) async fn enter(&self, filter: &ImageFilter) -> Option<SemaphorePermit<'_>> {
        let passes_over = !filter.formats.is_empty()
            || !filter.labels.is_empty()
            || !filter.tags.is_empty()
            || filter.hidden.is_some();
        if !passes_over {
            return None;
        }
        // It is never closed.
        self.0.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn searches_wait_for_each_other_and_nothing_else_does() {
        let searches = Searches::default();
        let filter = ImageFilter { hidden: Some(true), ..ImageFilter::default() };
        let places = [searches.enter(&filter).await, searches.enter(&filter).await];
        assert!(places.iter().all(Option::is_some));
        let mut third = pin!(searches.enter(&filter));
        assert!(third.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(searches.enter(&ImageFilter::default()).await.is_none());
        drop(places);
        assert!(third.await.is_some());
    }
}
