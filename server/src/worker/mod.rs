//! Workers: claim jobs, run them, keep their leases, end them.

mod check;
mod compress;
mod convert;
mod copy;
mod drain;
mod ending;
mod estimate;
mod import;
mod output;
mod run;
mod scrub;
mod stop;
mod tracker;
mod transfer;

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use imageops_catalogue::Lease;
use imageops_model::Lane;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use compress::CompressOutcome;
pub use convert::ConvertOutcome;
pub(crate) use convert::{conversion_key, require_room_for_raw};
pub use copy::CopyOutcome;
pub use drain::DrainOutcome;
pub use estimate::EstimateOutcome;
pub use import::ImportOutcome;
pub use output::{invalid_output, output_is_source};
pub use scrub::ScrubOutcome;
pub use stop::{Stop, StopCause};

use crate::app::App;
use crate::clock::{latest, steady};
use crate::failure::{Result, stopped};

/// Name of the file with the id that leases are held under.
const IDENTITY: &str = "worker-id";
/// Length of a lease.
const LEASE_MS: i64 = 30_000;
/// How often a lease is extended and progress is stored: what a crash can take from the percentage that was shown.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the dispatcher waits for a bell before it looks for leases that ran out.
const POLL: Duration = Duration::from_secs(1);
/// Imports that run at the same time, where fewer workers are configured: they wait for sources, and take little else.
const IMPORTS_MIN: usize = 4;

/// The id under which a server holds leases. It lies in the data directory, whose lock its server holds: after a restart
/// the leases of its former life are known by it, and those of other servers on the same catalogue are left alone.
pub fn identity(data_dir: &Path) -> io::Result<Uuid> {
    let path = data_dir.join(IDENTITY);
    match fs::read_to_string(&path) {
        Ok(text) => Uuid::try_parse(text.trim())
            .map_err(|_| io::Error::other(format!("{} holds no id; remove it", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            let draft = data_dir.join(format!("{IDENTITY}.new"));
            fs::write(&draft, format!("{id}\n"))?;
            fs::File::open(&draft)?.sync_all()?;
            fs::rename(&draft, &path)?;
            fs::File::open(data_dir)?.sync_all()?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// Claims jobs and runs them until shutdown; returns when the last has let go. Of what users ask for run as many at a time as
/// configured, and beside them as many imports, of one tenant at most half of them, one scrub and one drain.
pub async fn dispatch(app: Arc<App>) {
    let workers = app.config.workers as usize;
    let imports = workers.max(IMPORTS_MIN);
    app.catalogue.limit_imports(u32::try_from(imports.div_ceil(2)).unwrap_or(u32::MAX));
    tokio::join!(
        dispatch_lane(Arc::clone(&app), Lane::Work, workers),
        dispatch_lane(Arc::clone(&app), Lane::Import, imports),
        dispatch_lane(Arc::clone(&app), Lane::Scrub, 1),
        dispatch_lane(app, Lane::Drain, 1),
    );
}

async fn dispatch_lane(app: Arc<App>, lane: Lane, workers: usize) {
    let slots = Arc::new(Semaphore::new(workers));
    let running = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = app.shutdown.cancelled() => break,
        };
        let Ok(slot) = slot else { break };
        let Some(job) = next_job(&app, lane).await else { break };
        let app = Arc::clone(&app);
        running.spawn(async move {
            run::run(Arc::clone(&app), job).await;
            // The next job need not wait for this.
            drop(slot);
            // Bytes whose place was taken. What cannot go now goes with a sweep.
            if let Err(failure) = app.remove_doomed().await {
                tracing::warn!(reason = failure.reason, "bytes that nobody needs were not removed yet");
            }
        });
    }
    running.close();
    running.wait().await;
}

/// Waits for a job to claim; `None` at shutdown.
async fn next_job(app: &App, lane: Lane) -> Option<imageops_catalogue::JobRow> {
    loop {
        // Listened to from before the look: a job that is queued behind it rings.
        let mut bell = pin!(app.bells.heard(lane));
        bell.as_mut().enable();
        if app.shutdown.is_cancelled() {
            return None;
        }
        match app.catalogue.claim_job(app.worker, lane, lease(), latest(), app.config.job_attempts).await {
            Ok(Some(job)) => return Some(job),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "no job could be claimed"),
        }
        tokio::select! {
            _ = timeout(POLL, bell) => {}
            () = app.shutdown.cancelled() => return None,
        }
    }
}

/// A lease that begins now.
fn lease() -> Lease {
    let now = steady();
    Lease { now, until: now.plus_ms(LEASE_MS) }
}

/// The last look before a name changes hands: a worker that was told to stop, or lost its job, publishes nothing.
fn publish_allowed(stop: &Stop) -> Result<()> {
    match stop.cause() {
        None | Some(StopCause::Shutdown) => Ok(()),
        Some(_) => Err(stopped()),
    }
}

/// Ends work of many pieces between two of them, once it was told to stop.
fn still_wanted(stop: &Stop) -> Result<()> {
    if stop.cause().is_some() { Err(stopped()) } else { Ok(()) }
}
