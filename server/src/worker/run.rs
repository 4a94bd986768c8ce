//! One job, from its claim to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imageops_catalogue::{Error, JobOutcome, JobRow};
use imageops_model::{JobSpec, JobState};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::Code;

use super::tracker::Tracker;
use super::{HEARTBEAT, LEASE_MS, Stop, StopCause, check, compress, estimate};
use crate::app::App;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::reason;

/// How often watchers get a new state at most.
const TICK: Duration = Duration::from_millis(200);
/// How long the end of a job is tried to be written; the lease, and so another attempt, comes after it.
const FINISH_TRIES: u32 = 20;

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
    let end = end(&app, row, &stop, result).await;
    metrics::gauge!("imageops_jobs_running").decrement(1.0);
    if let Some(row) = end {
        let (kind, state) =
            (format!("{:?}", row.spec.kind()).to_lowercase(), format!("{:?}", row.state).to_lowercase());
        let reason = row.failure.as_ref().map(|failure| failure.reason.as_str()).unwrap_or_default();
        tracing::info!(job = %row.id, kind, state, reason, seconds = started.elapsed().as_secs_f64(), "job ended");
        metrics::counter!("imageops_jobs_ended_total", "kind" => kind, "state" => state).increment(1);
        app.hub.publish(row);
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
            () = &mut timeout, if !timed_out => {
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
    let time = now();
    let lease_until = time.plus_ms(LEASE_MS);
    match app
        .catalogue
        .heartbeat_job(row.id, row.attempt, &row.progress, row.revision, time, lease_until)
        .await
    {
        Ok(beat) => {
            row.cancel_requested = beat.cancel_requested;
            if beat.cancel_requested {
                stop.because(StopCause::Cancelled);
            }
        }
        Err(Error::Fenced) => stop.because(StopCause::Fenced),
        Err(error) => tracing::warn!(job = %row.id, %error, "heartbeat not stored"),
    }
}

async fn execute(app: Arc<App>, row: JobRow, stop: Stop, tracker: Tracker) -> Result<JobOutcome> {
    let control = tracker.control(&stop);
    match &row.spec {
        JobSpec::Check(spec) => check::check(&app, &row.tenant, spec, control).await,
        JobSpec::Compress(spec) => compress::compress(&app, &row, spec, &stop, &tracker, control).await,
        JobSpec::Estimate(spec) => estimate::estimate(&app, &row.tenant, spec, control).await,
        JobSpec::Convert(_) | JobSpec::Copy(_) | JobSpec::Scrub(_) | JobSpec::Drain(_) => {
            Err(Failure::new(Code::Unimplemented, reason::INTERNAL, "this server does not do such jobs yet"))
        }
    }
}

/// Runs engine code on the pool; a panic there fails the job and nothing else.
pub(super) async fn engine<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    crate::app::blocking(move || catch_unwind(AssertUnwindSafe(work)))
        .await?
        .unwrap_or_else(|_| Err(Failure::internal("the engine panicked")))
}

/// Writes how the job ended; `None` when that was not this worker's to say, or could not be written.
async fn end(app: &App, row: JobRow, stop: &Stop, result: Result<JobOutcome>) -> Option<JobRow> {
    let outcome = match (result, stop.cause()) {
        // What is complete stays complete: a wish to stop that came too late changes nothing.
        (Ok(outcome), _) => outcome,
        (Err(_), Some(StopCause::Cancelled)) => JobOutcome::Cancelled,
        (Err(_), Some(StopCause::TimedOut)) => {
            let message = format!("the job took longer than {} seconds", app.config.job_timeout_seconds);
            JobOutcome::Failed(
                Failure::new(Code::DeadlineExceeded, reason::TIMEOUT, message).into_job_failure(),
            )
        }
        (Err(_), Some(StopCause::Shutdown)) => return release(app, row).await,
        (Err(_), Some(StopCause::Fenced)) => {
            tracing::warn!(job = %row.id, attempt = row.attempt, "another worker has taken the job over");
            return None;
        }
        (Err(failure), None) => JobOutcome::Failed(failure.into_job_failure()),
    };
    let revision = row.revision + 1;
    for attempt in 0..FINISH_TRIES {
        match app.catalogue.finish_job(row.id, row.attempt, outcome.clone(), revision, now()).await {
            Ok(row) => return Some(row),
            Err(Error::Unavailable(cause) | Error::NoSpace(cause)) => {
                tracing::warn!(job = %row.id, %cause, "the end of the job is not stored yet");
                sleep(Duration::from_millis(50 << attempt.min(5))).await;
            }
            Err(error) => {
                tracing::error!(job = %row.id, %error, "the end of the job cannot be stored");
                return None;
            }
        }
    }
    None
}

async fn release(app: &App, row: JobRow) -> Option<JobRow> {
    if let Err(error) = app.catalogue.release_job(row.id, row.attempt, row.revision + 1, now()).await {
        tracing::warn!(job = %row.id, %error, "the job was not given back; its lease runs out");
        return None;
    }
    let row =
        JobRow { state: JobState::Queued, revision: row.revision + 1, worker: None, lease_time: None, ..row };
    tracing::info!(job = %row.id, "job given back to the queue");
    app.hub.publish(row);
    None
}
