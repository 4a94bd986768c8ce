//! What jobs do to images: an image knows its newest check and its newest slimming, and gets what jobs made. The upload of
//! an import ends with its job.

use imageops_model::{ImageId, JobFailure, JobSpec, JobState, Micros, UploadId, UploadState};

use super::usage::{self, Amount};
use super::{Connection, companions, image_rows, jobs, uploads};
use crate::rows::{StoredJob, write_failure, write_uuid};
use crate::{ImageRow, JobRow, Result};

/// gRPC status code `CANCELLED`.
const CODE_CANCELLED: i32 = 1;

const BEGIN_CHECK: &str = "UPDATE images SET check_job = $1 WHERE tenant = $2 AND id = $3";

const BEGIN_SLIM: &str = "UPDATE images SET slim_job = $1, slim_failure = NULL WHERE tenant = $2 AND id = $3";

// Of an older job than the newest nobody wants to know.
const END_CHECK: &str = "UPDATE images SET check_result = $1, check_failure = $2, check_time = $3 \
     WHERE tenant = $4 AND id = $5 AND check_job = $6";

const FAIL_SLIM: &str = "UPDATE images SET slim_failure = $1, slim_time = $2 \
     WHERE tenant = $3 AND id = $4 AND slim_job = $5";

/// What an image wants to know of a job that reads it.
fn concerns(job: &JobRow) -> Option<(ImageId, Concern)> {
    let concern = match &job.spec {
        JobSpec::Check(_) => Concern::Check,
        JobSpec::Compress(spec) if spec.companion => Concern::Slim,
        _ => return None,
    };
    Some((job.spec.image()?, concern))
}

enum Concern {
    Check,
    Slim,
}

/// A job was added.
pub(super) async fn begun(db: &mut Connection, job: &JobRow) -> Result<()> {
    let Some((image, concern)) = concerns(job) else { return Ok(()) };
    let statement = match concern {
        Concern::Check => BEGIN_CHECK,
        Concern::Slim => BEGIN_SLIM,
    };
    sqlx::query(statement)
        .bind(write_uuid(job.id.0))
        .bind(job.tenant.as_str())
        .bind(write_uuid(image.0))
        .execute(db)
        .await?;
    Ok(())
}

/// A job is in a final state.
pub(super) async fn ended(db: &mut Connection, job: &JobRow, now: Micros) -> Result<()> {
    if let JobSpec::Import(spec) = &job.spec {
        return end_upload(db, job, spec.upload, now).await;
    }
    let Some((image, concern)) = concerns(job) else { return Ok(()) };
    let cancelled = || JobFailure {
        code: CODE_CANCELLED,
        reason: "CANCELLED".to_owned(),
        message: "the job was cancelled".to_owned(),
    };
    let failure = match job.state {
        JobState::Cancelled => Some(cancelled()),
        _ => job.failure.clone(),
    };
    let query = match concern {
        Concern::Check => {
            sqlx::query(END_CHECK).bind(job.result.as_deref()).bind(write_failure(failure.as_ref())?)
        }
        Concern::Slim if failure.is_none() => return Ok(()),
        Concern::Slim => sqlx::query(FAIL_SLIM).bind(write_failure(failure.as_ref())?),
    };
    query
        .bind(now.0)
        .bind(job.tenant.as_str())
        .bind(write_uuid(image.0))
        .bind(write_uuid(job.id.0))
        .execute(db)
        .await?;
    Ok(())
}

/// Ends the upload of an import that brought no image.
async fn end_upload(db: &mut Connection, job: &JobRow, upload: UploadId, now: Micros) -> Result<()> {
    let Some(row) = uploads::find(db, upload).await?.filter(|row| row.state == UploadState::Open) else {
        return Ok(());
    };
    match &job.failure {
        Some(failure) => drop(uploads::fail(db, upload, failure.clone(), now).await?),
        None => drop(uploads::give_up(db, &row, now).await?),
    }
    Ok(())
}

/// Adds the image that a job made; `job` as it was before its end.
pub(super) async fn bring(db: &mut Connection, job: &StoredJob, image: &ImageRow, now: Micros) -> Result<()> {
    if let Some(companion) = &image.companion {
        return companions::insert(db, job, image, companion, now).await;
    }
    let came = Amount { images: 1, bytes: image.size_bytes };
    usage::ensure_room(db, &job.row.tenant, came, jobs::held(job)).await?;
    usage::charge(db, &job.row.tenant, came).await?;
    image_rows::insert(db, &job.row.tenant, image, image.size_bytes).await
}
