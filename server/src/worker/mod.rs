//! Workers: claim jobs, run them, keep their leases, end them.

mod check;
mod compress;
mod estimate;
mod run;
mod stop;
mod tracker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use compress::{CompressOutcome, invalid_output, output_is_source};
pub use estimate::EstimateOutcome;
pub use stop::{Stop, StopCause};

use crate::app::App;
use crate::clock::now;

/// Length of a lease.
const LEASE_MS: i64 = 30_000;
/// How often a lease is extended and progress is stored: what a crash can take from the percentage that was shown.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the dispatcher waits for a bell before it looks for leases that ran out.
const POLL: Duration = Duration::from_secs(1);

/// Claims jobs and runs as many at a time as configured, until shutdown; returns when the last has let go.
pub async fn dispatch(app: Arc<App>) {
    let worker = crate::sweep::worker_id(&app.store);
    let slots = Arc::new(Semaphore::new(app.config.workers as usize));
    let running = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = app.shutdown.cancelled() => break,
        };
        let Ok(slot) = slot else { break };
        let Some(job) = next_job(&app, worker).await else { break };
        let app = Arc::clone(&app);
        running.spawn(async move {
            run::run(app, job).await;
            drop(slot);
        });
    }
    running.close();
    running.wait().await;
}

/// Waits for a job to claim; `None` at shutdown.
async fn next_job(app: &App, worker: Uuid) -> Option<imageops_catalogue::JobRow> {
    loop {
        if app.shutdown.is_cancelled() {
            return None;
        }
        let time = now();
        match app.catalogue.claim_job(worker, time, time.plus_ms(LEASE_MS), app.config.job_attempts).await {
            Ok(Some(job)) => return Some(job),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "no job could be claimed"),
        }
        tokio::select! {
            _ = timeout(POLL, app.job_queued.notified()) => {}
            () = app.shutdown.cancelled() => return None,
        }
    }
}
