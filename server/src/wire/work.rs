//! What was last done with an image.

use imageops::v1;
use imageops_catalogue::{ImageRow, LastCheck, LastSlim};
use imageops_model::JobId;

use super::jobs::{error, read};
use super::{results, timestamp};
use crate::failure::Result;

/// The last check and the last slimming of an image; `is_live` knows the jobs that have not ended.
pub(crate) fn work(row: &ImageRow, is_live: impl Fn(JobId) -> bool) -> Result<v1::ImageWork> {
    Ok(v1::ImageWork {
        check: row.check.as_ref().map(|last| check(last, is_live(last.job))).transpose()?,
        slim: row.slim.as_ref().and_then(|last| slim(last, is_live(last.job))),
    })
}

fn check(last: &LastCheck, is_live: bool) -> Result<v1::ImageCheck> {
    let state = state(is_live, last.failure.is_none() && last.result.is_some());
    let failed = state == v1::ImageWorkState::Failed;
    // While a newer one runs: what the one before found.
    let result = last.result.as_deref().filter(|_| !failed).map(read).transpose()?.map(results::check);
    Ok(v1::ImageCheck {
        job: last.job.to_string(),
        state: state.into(),
        result,
        error: last.failure.as_ref().filter(|_| failed).map(error),
        end_time: last.time.filter(|_| !is_live).map(timestamp),
    })
}

/// `None` also when what was made is gone.
fn slim(last: &LastSlim, is_live: bool) -> Option<v1::ImageSlim> {
    if !is_live && last.image.is_none() && last.failure.is_none() {
        return None;
    }
    let state = state(is_live, last.failure.is_none() && last.image.is_some());
    let image = last.image.filter(|_| state == v1::ImageWorkState::Succeeded);
    Some(v1::ImageSlim {
        job: last.job.to_string(),
        state: state.into(),
        image: image.map(|id| id.to_string()).unwrap_or_default(),
        error: last.failure.as_ref().filter(|_| state == v1::ImageWorkState::Failed).map(error),
        end_time: last.time.filter(|_| !is_live).map(timestamp),
    })
}

fn state(is_live: bool, succeeded: bool) -> v1::ImageWorkState {
    match (is_live, succeeded) {
        (true, _) => v1::ImageWorkState::InProgress,
        (false, true) => v1::ImageWorkState::Succeeded,
        (false, false) => v1::ImageWorkState::Failed,
    }
}
