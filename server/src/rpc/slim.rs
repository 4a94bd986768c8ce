//! Slim companions: whether one can be made of an image, and its job.

use imageops::v1;
use imageops_catalogue::{Created, Error, ImageRow, NewJob, RequestKey};
use imageops_model::{CompressSpec, CompressionChoice, ImageId, ImageState, JobId, JobSpec, Source};
use tonic::Code;
use uuid::Uuid;

use super::jobs::{Asked, queue, repeated};
use crate::app::App;
use crate::auth::Caller;
use crate::clock::latest;
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
        // The faces that show the image tell of it too.
        return Err(if validate_only {
            failure
        } else {
            recorded(app, caller, image.id, spec, failure).await
        });
    }
    refuse_second(app, caller, image).await?;
    if validate_only {
        return queue(app, caller, Asked { validate_only, ..Asked::new(spec) }).await;
    }
    let new = NewJob {
        request,
        coalesce_key: Some(coalesce_key(image.id)),
        reserve_bytes: image.size_bytes,
        ..NewJob::new(JobId(Uuid::new_v4()), caller.tenant.clone(), spec.clone(), latest())
    };
    match app.catalogue.create_job(new, app.config.queue_limit).await {
        Err(error @ (Error::QueueFull | Error::QuotaExceeded { .. })) => {
            Err(recorded(app, caller, image.id, spec, error.into()).await)
        }
        Err(error) => Err(error.into()),
        Ok(Created::New(row)) => {
            app.bells.ring(row.spec.kind());
            wire::job(&row, &app.config)
        }
        // The same request, or another one that was faster.
        Ok(Created::Existing(_)) => repeated(app, caller, request, false).await?.ok_or_else(in_progress),
    }
}

/// Why the slim companion of `source`, which cannot be read, is not made: the image tells of it from now on, unless its
/// companion is there or on its way.
pub(super) async fn not_begun(
    app: &App,
    caller: &Caller,
    source: Source,
    compression: CompressionChoice,
    failure: Failure,
) -> Failure {
    let Source::Image(id) = source else { return failure };
    let Ok(image) = app.catalogue.get_image(&caller.tenant, id).await else { return failure };
    if image.companion.is_some() || !matches!(image.state, ImageState::Active | ImageState::Quarantined) {
        return failure;
    }
    if let Err(refused) = refuse_second(app, caller, &image).await {
        return refused;
    }
    let spec = JobSpec::Compress(CompressSpec {
        source,
        output_file: None,
        output_image: Some(ImageId(Uuid::new_v4())),
        output_label: image.label,
        companion: true,
        compression,
    });
    recorded(app, caller, image.id, spec, failure).await
}

/// `failure`, which the image tells of from now on.
async fn recorded(app: &App, caller: &Caller, image: ImageId, spec: JobSpec, failure: Failure) -> Failure {
    match record(app, caller, image, spec, &failure).await {
        Ok(()) => failure,
        Err(error) => error,
    }
}

/// One that has been begun meanwhile stays what the image tells of.
async fn record(app: &App, caller: &Caller, image: ImageId, spec: JobSpec, failure: &Failure) -> Result<()> {
    let new = NewJob {
        coalesce_key: Some(coalesce_key(image)),
        failure: Some(failure.clone().into_job_failure()),
        ..NewJob::new(JobId(Uuid::new_v4()), caller.tenant.clone(), spec, latest())
    };
    app.catalogue.create_job(new, app.config.queue_limit).await?;
    Ok(())
}

/// What two slims of one image have in common.
fn coalesce_key(image: ImageId) -> String {
    format!("slim:{}", image.0)
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
