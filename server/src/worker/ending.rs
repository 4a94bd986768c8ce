//! How a job's end comes into the catalogue, and what goes when it does not.

use std::time::Duration;

use imageops_catalogue::{Error, JobOutcome, JobRow};
use imageops_model::{JobState, StoreId};
use tokio::time::sleep;
use tonic::Code;

use super::{Stop, StopCause};
use crate::app::App;
use crate::clock::latest;
use crate::failure::{Failure, Result};
use crate::reason;

/// How long the end of a job is tried to be written; the lease, and so another attempt, comes after it.
const FINISH_TRIES: u32 = 20;

/// Writes how the job ended; `None` when that was not this worker's to say, or could not be written.
pub(super) async fn end(app: &App, row: JobRow, stop: &Stop, result: Result<JobOutcome>) -> Option<JobRow> {
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
        (Err(_), Some(StopCause::Shutdown)) => return release(app, row, 1).await,
        (Err(_), Some(StopCause::Fenced)) => {
            tracing::warn!(job = %row.id, attempt = row.attempt, "another worker has taken the job over");
            return None;
        }
        // The job had no fault but that the catalogue was away: another attempt begins once it is back.
        (Err(failure), None) if failure.reason == reason::UNAVAILABLE => {
            return release(app, row, FINISH_TRIES).await;
        }
        (Err(failure), None) => JobOutcome::Failed(failure.into_job_failure()),
    };
    let made = made(&outcome);
    let ended = match finish(app, &row, outcome).await {
        Finish::Ended(ended) => return Some(*ended),
        // The collector finds what may be of no use.
        Finish::Unknown => return None,
        Finish::Fenced => None,
        Finish::Refused(failure) => {
            match finish(app, &row, JobOutcome::Failed(failure.into_job_failure())).await {
                Finish::Ended(ended) => Some(*ended),
                _ => None,
            }
        }
    };
    // What was made was not taken, and its key is this attempt's alone: nothing of it stays.
    for (store, blob) in made {
        app.remove_unless_referenced(store, &blob).await;
    }
    ended
}

/// Bytes that a success would bring into the catalogue.
fn made(outcome: &JobOutcome) -> Vec<(StoreId, String)> {
    let JobOutcome::Succeeded { image, replica, .. } = outcome else { return Vec::new() };
    let replicas = image.iter().flat_map(|image| &image.replicas).chain(replica.iter().map(|(_, copy)| copy));
    replicas.map(|replica| (replica.store, replica.blob.clone())).collect()
}

/// What came of an end that was to be written.
enum Finish {
    /// It is written.
    Ended(Box<JobRow>),
    /// Another worker has the job.
    Fenced,
    /// The catalogue does not take what was made; the job runs on.
    Refused(Failure),
    /// The catalogue gave no answer that says it.
    Unknown,
}

/// Writes an end.
async fn finish(app: &App, row: &JobRow, outcome: JobOutcome) -> Finish {
    let revision = row.revision + 1;
    for attempt in 0..FINISH_TRIES {
        match app.catalogue.finish_job(row.id, row.attempt, outcome.clone(), revision, latest()).await {
            Ok(row) => return Finish::Ended(Box::new(row)),
            Err(Error::Unavailable(cause) | Error::NoSpace(cause)) => {
                tracing::warn!(job = %row.id, %cause, "the end of the job is not stored yet");
                pause(attempt).await;
            }
            Err(
                error @ (Error::QuotaExceeded { .. }
                | Error::NotFound { what: "image" }
                | Error::State { what: "image" }
                | Error::Conflict { .. }
                | Error::OutOfRange { .. }),
            ) => return Finish::Refused(refused(error)),
            // After a try whose answer was lost, what has it may be that try.
            Err(Error::Fenced) => {
                if attempt == 0 {
                    metrics::counter!("imageops_lease_stolen_total").increment(1);
                }
                tracing::warn!(job = %row.id, attempt = row.attempt, "another worker has taken the job over");
                return Finish::Fenced;
            }
            Err(error) => {
                tracing::error!(job = %row.id, %error, "the end of the job cannot be stored");
                return Finish::Unknown;
            }
        }
    }
    Finish::Unknown
}

/// Why what a job made was not taken.
fn refused(error: Error) -> Failure {
    match error {
        Error::NotFound { .. } => {
            let message = "the image that the job read is gone; what was made of it is dropped";
            Failure::new(Code::NotFound, reason::IMAGE_NOT_FOUND, message)
        }
        Error::State { .. } => {
            let message =
                "the image that the job read cannot be read any more; what was made of it is dropped";
            Failure::new(Code::FailedPrecondition, reason::IMAGE_NOT_ACTIVE, message)
        }
        Error::Conflict { what: "replica" | "blob" } => {
            let message = "the store got a copy meanwhile; this one is dropped";
            Failure::new(Code::AlreadyExists, reason::REPLICA_STATE, message)
        }
        other => other.into(),
    }
}

/// Gives a job back to the queue, where another attempt waits for its turn.
async fn release(app: &App, row: JobRow, tries: u32) -> Option<JobRow> {
    for attempt in 1.. {
        match app.catalogue.release_job(row.id, row.attempt, row.revision + 1, latest()).await {
            Ok(()) => break,
            Err(Error::Unavailable(_)) if attempt < tries => pause(attempt).await,
            // An earlier try came through whose answer was lost, or another worker has it: it is not lost.
            Err(Error::Fenced) => {
                tracing::info!(job = %row.id, attempt = row.attempt, "the job is not this worker's any more");
                return None;
            }
            Err(error) => {
                tracing::warn!(job = %row.id, %error, "the job was not given back; its lease runs out");
                return None;
            }
        }
    }
    let row =
        JobRow { state: JobState::Queued, revision: row.revision + 1, worker: None, lease_time: None, ..row };
    tracing::info!(job = %row.id, "job given back to the queue");
    let kind = row.spec.kind();
    app.hub.publish(row);
    app.bells.ring(kind);
    None
}

/// Longer from try to try.
async fn pause(attempt: u32) {
    sleep(Duration::from_millis(50 << attempt.min(5))).await;
}
