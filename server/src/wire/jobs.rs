//! Jobs.

use imageops::v1;
use imageops_catalogue::JobRow;
use imageops_model::{JobFailure, JobKind, JobPhase, JobProgress, JobSpec, JobState, Source, StoreId};
use serde::de::DeserializeOwned;

use super::{compression, results, timestamp};
use crate::config::Config;
use crate::failure::{Failure, Result};

/// A job.
pub(crate) fn job(row: &JobRow, config: &Config) -> Result<v1::Job> {
    let expire = row.end_time.map(|end| end.plus_ms(i64::from(config.job_retention_days) * 86_400_000));
    Ok(v1::Job {
        name: row.id.to_string(),
        kind: kind(row.spec.kind()).into(),
        state: state(row.state).into(),
        progress: Some(progress(&row.progress)),
        source: row.spec.source().as_ref().map(source),
        error: row.failure.as_ref().map(error),
        result: row.result.as_deref().map(|result| read_result(&row.spec, result)).transpose()?,
        revision: row.revision,
        attempt: row.attempt,
        cancel_requested: row.cancel_requested,
        create_time: Some(timestamp(row.create_time)),
        start_time: row.start_time.map(timestamp),
        end_time: row.end_time.map(timestamp),
        expire_time: expire.map(timestamp),
        output_file: match &row.spec {
            JobSpec::Compress(spec) => spec.output_file.clone().unwrap_or_default(),
            JobSpec::Convert(spec) => spec.output_file.clone().unwrap_or_default(),
            JobSpec::Check(_)
            | JobSpec::Estimate(_)
            | JobSpec::Copy(_)
            | JobSpec::Scrub(_)
            | JobSpec::Drain(_)
            | JobSpec::Import(_) => String::new(),
        },
        compression: row.spec.compression().map(compression::settings),
        store: store(&row.spec).map(|id| id.to_string()).unwrap_or_default(),
        source_url: match &row.spec {
            JobSpec::Import(spec) => spec.url.shown().to_owned(),
            _ => String::new(),
        },
    })
}

fn read_result(spec: &JobSpec, text: &str) -> Result<v1::job::Result> {
    Ok(match spec {
        JobSpec::Check(_) => v1::job::Result::Check(results::check(read(text)?)),
        JobSpec::Compress(_) => v1::job::Result::Compress(results::compress(read(text)?)),
        JobSpec::Estimate(_) => v1::job::Result::Estimate(results::estimate(read(text)?)),
        JobSpec::Convert(_) => v1::job::Result::Convert(results::convert(read(text)?)),
        JobSpec::Copy(_) => v1::job::Result::Copy(results::copy(&read(text)?)),
        JobSpec::Scrub(_) => v1::job::Result::Scrub(results::scrub(read(text)?)),
        JobSpec::Drain(_) => v1::job::Result::Drain(results::drain(read(text)?)),
        JobSpec::Import(_) => v1::job::Result::Import(results::import(read(text)?)),
    })
}

/// What a worker wrote into a row.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(Failure::internal)
}

/// The store that a job is about.
fn store(spec: &JobSpec) -> Option<StoreId> {
    match spec {
        JobSpec::Copy(spec) => Some(spec.target),
        JobSpec::Scrub(spec) => Some(spec.store),
        JobSpec::Drain(spec) => Some(spec.store),
        JobSpec::Check(_)
        | JobSpec::Compress(_)
        | JobSpec::Estimate(_)
        | JobSpec::Convert(_)
        | JobSpec::Import(_) => None,
    }
}

/// Why something failed.
pub(super) fn error(failure: &JobFailure) -> v1::JobError {
    v1::JobError { code: failure.code, reason: failure.reason.clone(), message: failure.message.clone() }
}

fn kind(kind: JobKind) -> v1::JobKind {
    match kind {
        JobKind::Check => v1::JobKind::Check,
        JobKind::Compress => v1::JobKind::Compress,
        JobKind::Estimate => v1::JobKind::Estimate,
        JobKind::Convert => v1::JobKind::Convert,
        JobKind::Copy => v1::JobKind::Copy,
        JobKind::Scrub => v1::JobKind::Scrub,
        JobKind::Drain => v1::JobKind::Drain,
        JobKind::Import => v1::JobKind::Import,
    }
}

fn state(state: JobState) -> v1::JobState {
    match state {
        JobState::Queued => v1::JobState::Queued,
        JobState::Running => v1::JobState::Running,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    }
}

fn source(source: &Source) -> v1::Source {
    let source = match source {
        Source::File(name) => v1::source::Source::File(name.clone()),
        Source::Image(id) => v1::source::Source::Image(id.to_string()),
    };
    v1::Source { source: Some(source) }
}

fn progress(progress: &JobProgress) -> v1::Progress {
    let phase = match progress.phase {
        JobPhase::Waiting => v1::JobPhase::Unspecified,
        JobPhase::Planning => v1::JobPhase::Planning,
        JobPhase::Checking => v1::JobPhase::Checking,
        JobPhase::Compressing => v1::JobPhase::Compressing,
        JobPhase::Converting => v1::JobPhase::Converting,
        JobPhase::Copying => v1::JobPhase::Copying,
        JobPhase::Fetching => v1::JobPhase::Fetching,
        JobPhase::Verifying => v1::JobPhase::Verifying,
        JobPhase::Publishing => v1::JobPhase::Publishing,
    };
    v1::Progress {
        phase: phase.into(),
        done_bytes: progress.done_bytes,
        total_bytes: progress.total_bytes,
        bytes_per_second: progress.bytes_per_second,
        remaining: progress.remaining_ms.map(|ms| pbjson_types::Duration {
            seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        }),
        percent: progress.percent,
    }
}
