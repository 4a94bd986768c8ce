//! Removes the bytes that lost their last row.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use imageops_model::StoreId;
use imageops_store::Store;

use crate::app::{App, blocking};
use crate::clock::now;
use crate::failure::Result;
use crate::stores::Slot;

/// Blobs that one pass removes of a store at most, and forgets in one transaction.
const PASS_MAX: u32 = 100;
/// So long a sweep removes what is in one store: there is more to do, and removals come faster than they go.
const SWEEP_MAX: Duration = Duration::from_secs(60);
/// So many are removed at a time: a store that is far away answers late.
const REMOVALS: usize = 8;

/// Removals under way. Many ask at once, each for bytes of its own, and each finds those of all others doomed too: one pass
/// over a store at a time removes them for everybody.
#[derive(Default)]
pub struct Doomed {
    passes: Mutex<HashMap<StoreId, Arc<Passes>>>,
}

/// The passes over one store, numbered from 1.
#[derive(Default)]
struct Passes {
    begun: AtomicU64,
    /// The last one that came through.
    done: tokio::sync::Mutex<u64>,
}

impl Doomed {
    /// Removes the bytes that lost their last row by now, up to a bound: what is more, a sweep removes. Those of a store that
    /// is not there, or does not answer, wait.
    pub async fn remove(&self, app: &App) -> Result<()> {
        for slot in app.stores.all().into_iter().filter(Slot::is_connected) {
            if let Some(store) = slot.store {
                let pass = async { pass(app, slot.row.id, &store).await.map(drop) };
                self.of(slot.row.id).through(pass).await?;
            }
        }
        Ok(())
    }

    /// Removes all of them, for a while, a pass at a time: others come in between.
    pub async fn remove_all(&self, app: &App) -> Result<()> {
        for slot in app.stores.all().into_iter().filter(Slot::is_connected) {
            let Some(store) = slot.store else { continue };
            let (passes, end) = (self.of(slot.row.id), Instant::now() + SWEEP_MAX);
            let mut stuck = HashSet::new();
            while Instant::now() < end && !app.shutdown.is_cancelled() {
                let pass = passes.run(pass(app, slot.row.id, &store)).await?;
                // What stays comes again behind all others; then it is enough.
                let mut stays = pass.stays.into_iter();
                if pass.is_last || stays.any(|blob| !stuck.insert(blob)) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn of(&self, store: StoreId) -> Arc<Passes> {
        Arc::clone(self.passes.lock().unwrap_or_else(PoisonError::into_inner).entry(store).or_default())
    }
}

impl Passes {
    /// Returns when a pass that began after the call has come through: this one, or that of another who waited.
    async fn through(&self, pass: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.begun.load(Ordering::Acquire);
        let done = self.done.lock().await;
        if *done > before {
            return Ok(());
        }
        self.run_alone(done, pass).await
    }

    /// Runs a pass when nobody else does.
    async fn run<T>(&self, pass: impl Future<Output = Result<T>>) -> Result<T> {
        let done = self.done.lock().await;
        self.run_alone(done, pass).await
    }

    async fn run_alone<T>(
        &self,
        mut done: tokio::sync::MutexGuard<'_, u64>,
        pass: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let this = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let came = pass.await?;
        *done = this;
        Ok(came)
    }
}

/// What a pass came to.
struct Pass {
    /// There is nothing else, or the store went away.
    is_last: bool,
    /// Blobs that could not be removed, or are read.
    stays: Vec<String>,
}

async fn pass(app: &App, id: StoreId, store: &Arc<dyn Store>) -> Result<Pass> {
    let blobs = app.catalogue.list_doomed(id, PASS_MAX).await?;
    let mut is_last = blobs.len() < PASS_MAX as usize;
    let removals: Vec<_> = blobs.into_iter().map(|blob| remove(app, id, store, blob)).collect();
    let mut removals = stream::iter(removals).buffer_unordered(REMOVALS);
    let (mut removed, mut stays) = (Vec::new(), Vec::new());
    while let Some((blob, result)) = removals.next().await {
        match result? {
            Ok(true) => removed.push(blob),
            Ok(false) => stays.push(blob),
            Err(error) => {
                tracing::warn!(store = %id, %error, "bytes that nobody needs were not removed; tried again later");
                app.stores.report(id, &error);
                is_last |= error.is_away();
                stays.push(blob);
            }
        }
    }
    // No row can name them again, so nobody can have come in between.
    app.catalogue.forget_doomed(id, &removed).await?;
    app.catalogue.postpone_doomed(id, &stays, now()).await?;
    Ok(Pass { is_last, stays })
}

/// Removes bytes, unless they are being read: a pass comes when they are not.
fn remove(
    app: &App,
    id: StoreId,
    store: &Arc<dyn Store>,
    blob: String,
) -> impl Future<Output = (String, Result<imageops_store::Result<bool>>)> + use<> {
    let (readers, store, key) = (Arc::clone(&app.readers), Arc::clone(store), blob.clone());
    let work = move || match readers.remove(id, &key) {
        Some(_removal) => store.remove(&key).map(|()| true),
        None => Ok(false),
    };
    async move { (blob, blocking(work).await) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::future::join_all;
    use tokio::task::yield_now;

    use super::*;
    use crate::failure::Failure;

    #[tokio::test]
    async fn one_pass_serves_all_who_waited() {
        let (passes, runs) = (Passes::default(), AtomicUsize::new(0));
        let pass = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
            Ok(())
        };
        join_all((0..100).map(|_| passes.through(pass()))).await.into_iter().for_each(Result::unwrap);
        // That of the first one began before the others asked: it may have missed their bytes.
        assert_eq!(runs.load(Ordering::Relaxed), 2);
        passes.through(pass()).await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_pass_that_failed_or_was_given_up_serves_nobody() {
        let (passes, runs) = (Passes::default(), AtomicUsize::new(0));
        let failing = async {
            yield_now().await;
            Err(Failure::internal("no answer"))
        };
        let pass = || async {
            runs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let (failed, waited) = tokio::join!(passes.through(failing), passes.through(pass()));
        assert!(failed.is_err());
        waited.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        let given_up = async {
            let endless = passes.through(std::future::pending());
            tokio::select! { biased; _ = endless => {}, () = yield_now() => {} }
        };
        let (waited, ()) = tokio::join!(
            async {
                yield_now().await;
                passes.through(pass()).await
            },
            given_up
        );
        waited.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }
}
