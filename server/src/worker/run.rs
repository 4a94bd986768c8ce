//! One job, from its claim to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imageops_catalogue::{Error, JobOutcome, JobRow};
use imageops_model::{ImageId, JobSpec, JobState};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::ending::end;
use super::tracker::Tracker;
use super::{
    HEARTBEAT, Stop, StopCause, check, compress, convert, copy, drain, estimate, import, lease, scrub,
};
use crate::app::App;
use crate::audit::Deed;
use crate::clock::now;
use crate::failure::{Failure, Result};

/// How often watchers get a new state at most.
const TICK: Duration = Duration::from_millis(200);

/// Runs a job that was claimed, and ends it.
pub(super) async fn run(app: Arc<App>, mut row: JobRow) {
    let started = Instant::now();
    let stop = Stop::default();
    tracing::info!(job = %row.id, kind = ?row.spec.kind(), attempt = row.attempt, "job started");
    metrics::gauge!("imageops_jobs_running").increment(1.0);
    app.hub.begin(row.clone(), stop.clone());
    let tracker = Tracker::new(row.progress.percent);
    let result = work_and_beat(&app, &mut row, &stop, &tracker).await;
    if result.is_err() {
        // However it ends now, the percentage that was shown stays (design decision 21).
        beat(&app, &mut row, &stop).await;
    }
    let (id, attempt) = (row.id, row.attempt);
    let end = end(&app, row, &stop, result).await;
    metrics::gauge!("imageops_jobs_running").decrement(1.0);
    if end.is_none() {
        app.hub.abandon(id, attempt);
    }
    if let Some(row) = end {
        let (kind, state) =
            (format!("{:?}", row.spec.kind()).to_lowercase(), format!("{:?}", row.state).to_lowercase());
        let reason = row.failure.as_ref().map(|failure| failure.reason.as_str()).unwrap_or_default();
        tracing::info!(job = %row.id, kind, state, reason, seconds = started.elapsed().as_secs_f64(), "job ended");
        metrics::counter!("imageops_jobs_ended_total", "kind" => kind, "state" => state).increment(1);
        app.hub.publish(row.clone());
        record(&app, &row).await;
    }
}

/// The call that began the job is on record with the job's name: this tells what came of it.
async fn record(app: &App, row: &JobRow) {
    let made = match ImageMade::of(row) {
        Some(image) => app.catalogue.get_image(&row.tenant, image).await.ok(),
        None => None,
    };
    let (result, sha256) = made.map(|image| (image.id.to_string(), image.sha256)).unwrap_or_default();
    app.audit.write(
        Deed {
            method: &format!("Job/{:?}", row.spec.kind()),
            outcome: match row.state {
                JobState::Succeeded => "OK",
                JobState::Cancelled => "CANCELLED",
                _ => "FAILED",
            },
            reason: row.failure.as_ref().map_or("", |failure| &failure.reason),
            tenant: &row.tenant.to_string(),
            subject: &row.id.to_string(),
            result: &result,
            sha256: &sha256,
        }
        .told(),
    );
}

/// What results of jobs that make an image have in common.
#[derive(Deserialize)]
struct ImageMade {
    #[serde(alias = "output_image")]
    image: Option<ImageId>,
}

impl ImageMade {
    /// The image that a job made.
    fn of(row: &JobRow) -> Option<ImageId> {
        serde_json::from_str::<Self>(row.result.as_deref()?).ok()?.image
    }
}

/// Runs the engine in a thread of the pool and keeps the lease meanwhile.
async fn work_and_beat(
    app: &Arc<App>,
    row: &mut JobRow,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let mut work = tokio::spawn(execute(Arc::clone(app), row.clone(), stop.clone(), tracker.clone()));
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let timeout = sleep(Duration::from_secs_f64(app.config.job_timeout_seconds));
    tokio::pin!(timeout);
    let mut last_beat = Instant::now();
    let mut timed_out = false;
    let mut shut_down = false;
    loop {
        tokio::select! {
            result = &mut work => return result.map_err(Failure::internal)?,
            _ = tick.tick() => {
                let progress = tracker.snapshot();
                if progress != row.progress {
                    row.progress = progress;
                    row.revision += 1;
                    row.update_time = now();
                    app.hub.publish(row.clone());
                }
                if last_beat.elapsed() >= HEARTBEAT {
                    last_beat = Instant::now();
                    beat(app, row, stop).await;
                }
            }
            () = &mut timeout, if !timed_out && is_timed(&row.spec) => {
                timed_out = true;
                stop.because(StopCause::TimedOut);
            }
            () = app.shutdown.cancelled(), if !shut_down => {
                shut_down = true;
                stop.because(StopCause::Shutdown);
            }
        }
    }
}

async fn beat(app: &App, row: &mut JobRow, stop: &Stop) {
    match app
        .catalogue
        .heartbeat_job(row.id, row.attempt, &row.progress, row.revision, now(), lease().until)
        .await
    {
        Ok(beat) => {
            row.cancel_requested = beat.cancel_requested;
            if beat.cancel_requested {
                stop.because(StopCause::Cancelled);
            }
        }
        Err(Error::Fenced) => {
            if stop.cause().is_none() {
                metrics::counter!("imageops_lease_stolen_total").increment(1);
            }
            stop.because(StopCause::Fenced);
        }
        Err(error) => tracing::warn!(job = %row.id, %error, "heartbeat not stored"),
    }
}

async fn execute(app: Arc<App>, row: JobRow, stop: Stop, tracker: Tracker) -> Result<JobOutcome> {
    match &row.spec {
        JobSpec::Check(spec) => check::check(&app, &row.tenant, spec, tracker.control(&stop)).await,
        JobSpec::Compress(spec) => compress::compress(&app, &row, spec, &stop, &tracker).await,
        JobSpec::Estimate(spec) => estimate::estimate(&app, &row.tenant, spec, tracker.control(&stop)).await,
        JobSpec::Convert(spec) => convert::convert(&app, &row, spec, &stop, &tracker).await,
        JobSpec::Copy(spec) => copy::copy(&app, &row, spec, &stop, &tracker).await,
        JobSpec::Scrub(spec) => scrub::scrub(&app, &row, spec, &stop, &tracker).await,
        JobSpec::Drain(spec) => drain::drain(&app, &row, spec, &stop, &tracker).await,
        JobSpec::Import(spec) => import::import(&app, &row, spec, &stop, &tracker).await,
    }
}

/// The result of a job as its row keeps it.
pub(super) fn result_of(outcome: &impl Serialize) -> Result<String> {
    serde_json::to_string(outcome).map_err(Failure::internal)
}

/// Whether an attempt may take only so long: not where the work is a whole store, or its length shows only on the way.
fn is_timed(spec: &JobSpec) -> bool {
    !matches!(spec, JobSpec::Scrub(_) | JobSpec::Drain(_) | JobSpec::Import(_))
}

/// Runs engine code on the pool; a panic there fails the job and nothing else.
pub(super) async fn engine<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    crate::app::blocking(move || catch_unwind(AssertUnwindSafe(work)))
        .await?
        .unwrap_or_else(|_| Err(Failure::internal("the engine panicked")))
}
