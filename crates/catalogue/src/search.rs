//! Searches that may have to look at every image of a tenant: few at a time, so that whoever asks for what an index finds
//! does not wait behind them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::{ImageFilter, Result};

/// Half of the connections that read of an SQLite file.
const AT_A_TIME: usize = 2;
/// How long a search waits for its place.
const WAIT_MAX: Duration = Duration::from_secs(10);

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
    pub(crate) async fn enter(&self, filter: &ImageFilter) -> Result<Option<SemaphorePermit<'_>>> {
        let is_narrow = !filter.states.is_empty()
            || !filter.formats.is_empty()
            || !filter.labels.is_empty()
            || !filter.tags.is_empty()
            || filter.hidden.is_some();
        // Images of one label are found by it, whatever else they are to be.
        if !is_narrow || filter.label.is_some() {
            return Ok(None);
        }
        let place = timeout(WAIT_MAX, self.0.acquire()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        Ok(Some(place.map_err(|_| sqlx::Error::PoolClosed)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use imageops_model::Label;

    use super::*;

    #[tokio::test]
    async fn searches_wait_for_each_other_and_nothing_else_does() {
        let searches = Searches::default();
        let filter = ImageFilter { hidden: Some(true), ..ImageFilter::default() };
        let named = ImageFilter { label: Some(Label::new("a").unwrap()), ..filter.clone() };
        let places = [searches.enter(&filter).await.unwrap(), searches.enter(&filter).await.unwrap()];
        assert!(places.iter().all(Option::is_some));
        let mut third = pin!(searches.enter(&filter));
        assert!(third.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        for quick in [ImageFilter::default(), named] {
            assert!(searches.enter(&quick).await.unwrap().is_none());
        }
        drop(places);
        assert!(third.await.unwrap().is_some());
    }
}
