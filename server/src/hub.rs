//! Live jobs: the newest state of each running or watched job, and the handle that stops it.
//!
//! The catalogue holds what survives; the hub holds what is newer than the last heartbeat. A watcher waits on a channel that
//! keeps only the newest state, so a slow one never builds up a backlog.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imageops_catalogue::JobRow;
use imageops_model::{JobId, JobState};
use tokio::sync::watch;

use crate::worker::Stop;

/// The newest state of a job, or `None` while only the catalogue knows it.
pub type Live = Option<Arc<JobRow>>;

/// All live jobs of this process.
#[derive(Default)]
pub struct Hub {
    jobs: Mutex<HashMap<JobId, Entry>>,
}

struct Entry {
    /// Written by the job's worker, and by whoever cancels a queued job; awaited by watchers.
    newest: watch::Sender<Live>,
    /// Present while a worker of this process runs the job.
    stop: Option<Stop>,
    /// Whether its end was asked for; its worker hears of that with a heartbeat.
    is_cancelled: bool,
}

impl Hub {
    /// Makes a job known as running here; `stop` is what [`Hub::cancel`] uses.
    pub fn begin(&self, row: JobRow, stop: Stop) {
        let mut jobs = self.lock();
        let entry = jobs.entry(row.id).or_insert_with(Entry::new);
        entry.stop = Some(stop);
        entry.is_cancelled = row.cancel_requested;
        entry.newest.send_replace(Some(Arc::new(row)));
    }

    /// Hands a newer state to the watchers. A final state, and one that no worker here holds any more, ends the entry.
    pub fn publish(&self, row: JobRow) {
        let mut jobs = self.lock();
        let is_final = row.state.is_final();
        if row.state != JobState::Running
            && let Some(entry) = jobs.get_mut(&row.id)
        {
            entry.stop = None;
        }
        let id = row.id;
        if let Some(entry) = jobs.get(&id) {
            let mut row = row;
            row.cancel_requested |= entry.is_cancelled;
            if !is_final && let Some(newest) = &*entry.newest.borrow() {
                // The wish to end it may have counted further.
                row.revision = row.revision.max(newest.revision);
            }
            entry.newest.send_replace(Some(Arc::new(row)));
            // Watchers keep the channel's last value after the sender is gone.
            if is_final || (entry.stop.is_none() && entry.newest.receiver_count() == 0) {
                jobs.remove(&id);
            }
        }
    }

    /// The worker of this attempt lets the job go, and what it told last may be true no more. Who watches asks the catalogue.
    pub fn abandon(&self, id: JobId, attempt: u32) {
        let mut jobs = self.lock();
        let is_newer =
            |entry: &Entry| entry.newest.borrow().as_ref().is_some_and(|row| row.attempt > attempt);
        if jobs.get(&id).is_some_and(|entry| !is_newer(entry)) {
            jobs.remove(&id);
        }
    }

    /// The newest state, when the job runs or is watched here.
    pub fn newest(&self, id: JobId) -> Live {
        self.lock().get(&id).and_then(|entry| entry.newest.borrow().clone())
    }

    /// Stops the worker of a job that runs here, and tells its watchers of the wish; `row` is what the catalogue made of it.
    pub fn cancel(&self, row: &JobRow) {
        let mut jobs = self.lock();
        let Some(entry) = jobs.get_mut(&row.id) else { return };
        let Some(stop) = &entry.stop else { return };
        stop.because(crate::worker::StopCause::Cancelled);
        entry.is_cancelled = true;
        entry.newest.send_if_modified(|newest| {
            let Some(live) = newest.as_mut() else { return false };
            let live = Arc::make_mut(live);
            live.cancel_requested = true;
            live.revision = live.revision.max(row.revision);
            true
        });
    }

    /// Begins to watch a job. Subscribe first, read the catalogue then: nothing falls between.
    pub fn subscribe(self: &Arc<Self>, id: JobId) -> Subscription {
        let receiver = self.lock().entry(id).or_insert_with(Entry::new).newest.subscribe();
        Subscription { id, hub: Arc::clone(self), receiver: Some(receiver) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        // Nothing in here can leave the map half-changed, so a panic elsewhere does no harm.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new() -> Self {
        Self { newest: watch::channel(None).0, stop: None, is_cancelled: false }
    }
}

/// One watcher's hold on a job; dropping it lets go.
pub struct Subscription {
    id: JobId,
    hub: Arc<Hub>,
    receiver: Option<watch::Receiver<Live>>,
}

impl Subscription {
    /// Waits for a newer state; `None` when none will come from here: the job has ended, or another process has it.
    pub async fn changed(&mut self) -> Live {
        let receiver = self.receiver.as_mut()?;
        receiver.changed().await.ok()?;
        receiver.borrow_and_update().clone()
    }

    /// The newest state without waiting.
    pub fn newest(&mut self) -> Live {
        self.receiver.as_mut().and_then(|receiver| receiver.borrow_and_update().clone())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.receiver = None;
        let mut jobs = self.hub.lock();
        let unused = jobs
            .get(&self.id)
            .is_some_and(|entry| entry.stop.is_none() && entry.newest.receiver_count() == 0);
        if unused {
            jobs.remove(&self.id);
        }
    }
}
