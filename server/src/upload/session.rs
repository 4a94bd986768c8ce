//! The state of one upload in this process, and who may write it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

use super::ingest::Ingest;

/// One upload. At most one stream holds it: a newer one takes it over, because the older may hang on a dead connection.
#[derive(Default)]
pub struct Session {
    /// Number of the stream that came last.
    newest: AtomicU64,
    /// Rung when a newer stream came; the holder waits on it.
    taken_over: Notify,
    /// What was received so far; `None` until the first stream has opened the staged file.
    ingest: Mutex<Option<Ingest>>,
}

/// The right to write an upload.
pub struct Hold<'a> {
    number: u64,
    /// What was received so far.
    pub ingest: MutexGuard<'a, Option<Ingest>>,
}

impl Session {
    /// Asks the stream that holds the upload to let go, and waits until it has.
    pub async fn take_over(&self) -> Hold<'_> {
        let number = self.newest.fetch_add(1, Ordering::AcqRel) + 1;
        self.taken_over.notify_waiters();
        let ingest = self.ingest.lock().await;
        Hold { number, ingest }
    }
}

impl Session {
    /// Whether a stream newer than `number` wants the upload.
    pub fn is_lost(&self, number: u64) -> bool {
        self.newest.load(Ordering::Acquire) != number
    }

    /// Returns once a stream newer than `number` wants the upload.
    pub async fn lost(&self, number: u64) {
        loop {
            let rung = self.taken_over.notified();
            if self.is_lost(number) {
                return;
            }
            rung.await;
        }
    }
}

impl Hold<'_> {
    /// The number of this stream.
    pub fn number(&self) -> u64 {
        self.number
    }
}
