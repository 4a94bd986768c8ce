//! Jobs.

use imageops::v1;
use imageops_catalogue::JobRow;
use imageops_image::check::CheckReport;
use imageops_model::{JobKind, JobPhase, JobProgress, JobSpec, JobState, Source};

use super::{compression, results, timestamp};
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::worker::{CompressOutcome, EstimateOutcome};

/// A job.
pub(crate) fn job(row: &JobRow, config: &Config) -> Result<v1::Job> {
    let expire = row.end_time.map(|end| end.plus_ms(i64::from(config.job_retention_days) * 86_400_000));
    Ok(v1::Job {
        name: row.id.to_string(),
        kind: kind(row.spec.kind()).into(),
        state: state(row.state).into(),
        progress: Some(progress(&row.progress)),
        source: row.spec.source().as_ref().map(source),
        error: row.failure.as_ref().map(|failure| v1::JobError {
            code: failure.code,
            reason: failure.reason.clone(),
            message: failure.message.clone(),
        }),
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
            | JobSpec::Drain(_) => String::new(),
        },
        compression: row.spec.compression().map(compression::settings),
        store: String::new(),
    })
}

fn read_result(spec: &JobSpec, text: &str) -> Result<v1::job::Result> {
    Ok(match spec {
        JobSpec::Check(_) => {
            let report: CheckReport = serde_json::from_str(text).map_err(Failure::internal)?;
            v1::job::Result::Check(results::check(report))
        }
        JobSpec::Compress(_) => {
            let outcome: CompressOutcome = serde_json::from_str(text).map_err(Failure::internal)?;
            v1::job::Result::Compress(results::compress(outcome))
        }
        JobSpec::Estimate(_) => {
            let outcome: EstimateOutcome = serde_json::from_str(text).map_err(Failure::internal)?;
            v1::job::Result::Estimate(results::estimate(outcome))
        }
        JobSpec::Convert(_) | JobSpec::Copy(_) | JobSpec::Scrub(_) | JobSpec::Drain(_) => {
            return Err(Failure::internal("a result of a kind that the contract does not know"));
        }
    })
}

fn kind(kind: JobKind) -> v1::JobKind {
    match kind {
        JobKind::Check => v1::JobKind::Check,
        JobKind::Compress => v1::JobKind::Compress,
        JobKind::Estimate => v1::JobKind::Estimate,
        JobKind::Convert | JobKind::Copy | JobKind::Scrub | JobKind::Drain => v1::JobKind::Unspecified,
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
        JobPhase::Converting | JobPhase::Copying => v1::JobPhase::Unspecified,
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
