//! How much is in each store: counted when someone asks, which reads a row for each image.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imageops_catalogue::{Catalogue, Result, StoreUsage};
use imageops_model::StoreId;
use tokio::time::Instant;

/// A count is told for so many times as long as it took: who asks for it again and again takes this part of one reader, however
/// many images there are.
const AGE_FACTOR: u32 = 20;
/// What took less is counted each time.
const SHORT: Duration = Duration::from_millis(250);

/// What was counted last.
#[derive(Debug, Default)]
pub struct Counts {
    stores: Mutex<HashMap<StoreId, Arc<tokio::sync::Mutex<Option<Count>>>>>,
}

#[derive(Debug)]
struct Count {
    usage: StoreUsage,
    stale_at: Instant,
}

impl Counts {
    /// How much is in a store. Of a million images the count takes seconds, and is told for a minute or two; of a thousand it is
    /// made each time. One at a time counts, and all who wait for a long one are told.
    pub async fn of(&self, catalogue: &dyn Catalogue, store: StoreId) -> Result<StoreUsage> {
        self.count(store, || catalogue.store_usage(store)).await
    }

    async fn count<F: Future<Output = Result<StoreUsage>>>(
        &self,
        store: StoreId,
        count: impl FnOnce() -> F,
    ) -> Result<StoreUsage> {
        let last =
            Arc::clone(self.stores.lock().unwrap_or_else(PoisonError::into_inner).entry(store).or_default());
        let asked = Instant::now();
        let mut last = last.lock().await;
        if let Some(known) = last.as_ref().filter(|known| asked < known.stale_at) {
            return Ok(known.usage);
        }
        let begun = Instant::now();
        let usage = count().await?;
        let took = begun.elapsed();
        *last = (took >= SHORT).then(|| Count { usage, stale_at: begun + took * AGE_FACTOR });
        Ok(usage)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn what_took_long_is_told_for_long() {
        let (counts, counted) = (Counts::default(), AtomicU64::new(0));
        let counted = &counted;
        let count = |store, pause| {
            counts.count(StoreId(Uuid::from_u128(store)), move || async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let images = counted.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(StoreUsage { images, ..StoreUsage::default() })
            })
        };
        // All who wait are told by the one who counts.
        let (one, other) = tokio::join!(count(1, 1_000), count(1, 1_000));
        assert_eq!([one.unwrap().images, other.unwrap().images], [1, 1]);
        assert_eq!(count(1, 1_000).await.unwrap().images, 1);
        assert_eq!(count(2, 0).await.unwrap().images, 2, "another store");
        assert_eq!(count(2, 0).await.unwrap().images, 3, "it took no time");
    }
}
