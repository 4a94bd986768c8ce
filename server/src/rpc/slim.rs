//! Slim companions: whether one can be made of an image, and its job.

use imageops::v1;
use imageops_catalogue::{Created, Error, ImageRow, NewJob, RequestKey};
use imageops_model::{CompressSpec, ImageState, JobId, JobSpec};
use tonic::Code;
use uuid::Uuid;

use super::jobs::{Asked, queue, repeated};
use crate::app::App;
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::{reason, wire};

/// Queues the making of the slim companion of `image`.
pub(super) async fn start(
    app: &App,
    caller: &Caller,
    image: &ImageRow,
    spec: CompressSpec,
    request: Option<RequestKey>,
    validate_only: bool,
) -> Result<v1::Job> {
    if image.companion.is_some() {
        let message = "the image is a companion itself; name the image that it stands beside";
        return Err(Failure::new(Code::FailedPrecondition, reason::IMAGE_IS_COMPANION, message));
    }
    let spec = JobSpec::Compress(spec);
    if image.format != "qcow2" {
        let message = "only a QCOW2 image has a slim companion; convert it first";
        let failure = Failure::new(Code::FailedPrecondition, reason::SLIM_NOT_SUPPORTED, message);
        if !validate_only {
            // The image tells of it from now on, and so do the faces that show it.
            record(app, caller, spec, &failure).await?;
        }
        return Err(failure);
    }
    refuse_second(app, caller, image).await?;
    if validate_only {
        return queue(app, caller, Asked { validate_only, ..Asked::new(spec) }).await;
    }
    let new = NewJob {
        request,
        coalesce_key: Some(format!("slim:{}", image.id.0)),
        reserve_bytes: image.size_bytes,
        ..NewJob::new(JobId(Uuid::new_v4()), caller.tenant.clone(), spec, now())
    };
    match app.catalogue.create_job(new, app.config.queue_limit).await? {
        Created::New(row) => {
            app.job_queued.notify_waiters();
            wire::job(&row, &app.config)
        }
        // The same request, or another one that was faster.
        Created::Existing(_) => repeated(app, caller, request, false).await?.ok_or_else(in_progress),
    }
}

async fn record(app: &App, caller: &Caller, spec: JobSpec, failure: &Failure) -> Result<()> {
    let new = NewJob {
        failure: Some(failure.clone().into_job_failure()),
        ..NewJob::new(JobId(Uuid::new_v4()), caller.tenant.clone(), spec, now())
    };
    app.catalogue.create_job(new, app.config.queue_limit).await?;
    Ok(())
}

/// Refuses where a companion is there or on its way. One in quarantine is made anew.
async fn refuse_second(app: &App, caller: &Caller, image: &ImageRow) -> Result<()> {
    let Some(slim) = &image.slim else { return Ok(()) };
    match app.catalogue.get_job(&caller.tenant, slim.job).await {
        Ok(job) if !job.state.is_final() => return Err(in_progress()),
        Ok(_) | Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(companion) = slim.image else { return Ok(()) };
    match app.catalogue.get_image(&caller.tenant, companion).await {
        Ok(companion) if companion.state == ImageState::Active => {
            let message = "the image has a slim companion already";
            Err(Failure::new(Code::AlreadyExists, reason::SLIM_EXISTS, message))
        }
        Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn in_progress() -> Failure {
    let message = "the slim companion of the image is being made already; wait for it";
    Failure::new(Code::AlreadyExists, reason::SLIM_IN_PROGRESS, message)
}
