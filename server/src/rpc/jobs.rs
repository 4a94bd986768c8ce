//! Check, Compress, Convert, and what is done with jobs.

use imageops::v1;
use imageops_catalogue::{Created, Cursor, ImageRow, JobRow, Join, NewJob, RequestKey, UploadRow};
use imageops_image::format::Format;
use imageops_model::{
    CheckSpec, CompressSpec, ConvertSpec, EstimateSpec, ImageId, JobFailure, JobId, JobKind, JobProgress,
    JobSpec, JobState, Label, Source, Tenant,
};
use prost::Message;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use uuid::Uuid;

use super::same_work::same_work;
use super::{pages, parse_name, slim};
use crate::app::{App, OpenSource, blocking};
use crate::auth::Caller;
use crate::clock::latest;
use crate::failure::{Failure, Result, no_space};
use crate::worker::{invalid_output, output_is_source};
use crate::{reason, wire};

/// Room that is left free on a file system that outputs go to, besides what the output may need.
const SPARE_BYTES: u64 = 1 << 20;

/// Queues a check.
pub(super) async fn check(app: &App, caller: &Caller, request: v1::CheckRequest) -> Result<v1::Job> {
    let key = request_key(
        JobKind::Check,
        &request.request_id,
        &v1::CheckRequest { request_id: String::new(), ..request.clone() },
    )?;
    if let Some(job) = repeated(app, caller, key, request.validate_only).await? {
        return Ok(job);
    }
    let source = wire::read_source(request.source)?;
    let (md5, sha256) = wire::read_digest_choice(&request.digests, request.skip_digests)?;
    app.open_to_check(&caller.tenant, &source).await?;
    let spec = JobSpec::Check(CheckSpec { source, md5, sha256 });
    let validate_only = request.validate_only;
    queue(app, caller, Asked { request: key, validate_only, ..Asked::new(spec) }).await
}

/// Queues a compression.
pub(super) async fn compress(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::CompressRequest,
) -> Result<v1::Job> {
    let key = request_key(
        JobKind::Compress,
        &request.request_id,
        &v1::CompressRequest { request_id: String::new(), ..request.clone() },
    )?;
    if let Some(job) = repeated(app, caller, key, request.validate_only).await? {
        return Ok(job);
    }
    let compression = wire::read_compression(&request)?;
    let source = wire::read_source(request.source)?;
    let open = match app.open_source(&caller.tenant, &source).await {
        Ok(open) => open,
        Err(failure) if request.companion && !request.validate_only => {
            return Err(slim::not_begun(app, caller, source, compression, failure).await);
        }
        Err(failure) => return Err(failure),
    };
    let output = place(app, caller, &source, &open, request.output_file, request.output_display_name).await?;
    let (failure, reserve_bytes) = (output.no_room(&open), output.image_bytes());
    let spec = CompressSpec {
        source,
        output_file: output.file,
        output_image: output.image,
        output_label: output.label,
        companion: request.companion,
        compression,
    };
    if request.companion {
        let image = output.source.ok_or_else(|| {
            Failure::invalid("companion", "only an image has a companion; name an image as the source")
        })?;
        return slim::start(app, caller, &image, spec, key, request.validate_only).await;
    }
    let asked = Asked {
        request: key,
        failure,
        reserve_bytes,
        validate_only: request.validate_only,
        ..Asked::new(JobSpec::Compress(spec))
    };
    queue(app, caller, asked).await
}

/// Queues a conversion.
pub(super) async fn convert(app: &Arc<App>, caller: &Caller, request: v1::ConvertRequest) -> Result<v1::Job> {
    let key = request_key(
        JobKind::Convert,
        &request.request_id,
        &v1::ConvertRequest { request_id: String::new(), ..request.clone() },
    )?;
    if let Some(job) = repeated(app, caller, key, request.validate_only).await? {
        return Ok(job);
    }
    let (format, compression) = wire::read_conversion(&request)?;
    let source = wire::read_source(request.source)?;
    let open = app.open_source(&caller.tenant, &source).await?;
    let output = place(app, caller, &source, &open, request.output_file, request.output_display_name).await?;
    // How much of a raw disk is no hole, only its conversion tells.
    let failure = if format == Format::Raw { None } else { output.no_room(&open) };
    let reserve_bytes = match &output.source {
        Some(image) if format == Format::Raw => image.virtual_size_bytes.unwrap_or(image.size_bytes),
        _ => output.image_bytes(),
    };
    let spec = JobSpec::Convert(ConvertSpec {
        source,
        format: format.as_str().to_owned(),
        output_file: output.file,
        output_image: output.image,
        output_label: output.label,
        cached: false,
        compression,
    });
    let validate_only = request.validate_only;
    let asked = Asked { request: key, failure, reserve_bytes, validate_only, ..Asked::new(spec) };
    queue(app, caller, asked).await
}

/// Queues an estimate of a compression.
pub(super) async fn estimate(
    app: &App,
    caller: &Caller,
    request: v1::EstimateCompressionRequest,
) -> Result<v1::Job> {
    let key = request_key(
        JobKind::Estimate,
        &request.request_id,
        &v1::EstimateCompressionRequest { request_id: String::new(), ..request.clone() },
    )?;
    let request = wire::request_of_estimate(request);
    if let Some(job) = repeated(app, caller, key, request.validate_only).await? {
        return Ok(job);
    }
    let compression = wire::read_compression(&request)?;
    let source = wire::read_source(request.source)?;
    app.open_source(&caller.tenant, &source).await?;
    let spec = JobSpec::Estimate(EstimateSpec { source, compression });
    let validate_only = request.validate_only;
    queue(app, caller, Asked { request: key, validate_only, ..Asked::new(spec) }).await
}

/// Where an output goes.
struct Output {
    /// Name below the image root, of a file.
    file: Option<String>,
    /// Id of the image to be.
    image: Option<ImageId>,
    label: Label,
    /// The image that is read.
    source: Option<ImageRow>,
    /// Room for a file. Whether an image fits, the placement of its bytes tells.
    free_bytes: u64,
}

impl Output {
    /// The failure of a job that would find no room: the source's own size on disk bounds what its output can need, but for
    /// tables of some clusters.
    fn no_room(&self, open: &OpenSource) -> Option<JobFailure> {
        let needed_bytes = open.storage.allocated_bytes().saturating_add(SPARE_BYTES);
        (needed_bytes > self.free_bytes).then(|| no_space().into_job_failure())
    }

    /// What an image is held to need of the quota: as much as its source.
    fn image_bytes(&self) -> u64 {
        self.source.as_ref().map_or(0, |image| image.size_bytes)
    }
}

/// Checks where an output is to go.
async fn place(
    app: &App,
    caller: &Caller,
    source: &Source,
    open: &OpenSource,
    file: String,
    label: String,
) -> Result<Output> {
    let label =
        Label::new(label).map_err(|error| Failure::invalid("output_display_name", error.to_string()))?;
    let is_labelled = !label.as_str().is_empty();
    let Source::Image(id) = source else {
        if is_labelled {
            return Err(Failure::invalid("output_display_name", "only an image has a label; leave it empty"));
        }
        let free_bytes = place_output(app, open, &file).await?;
        return Ok(Output { file: Some(file), image: None, label, source: None, free_bytes });
    };
    if !file.is_empty() {
        let message = "the output of an image is a new image; leave it empty";
        return Err(Failure::invalid_as(reason::INVALID_OUTPUT_FILE, "output_file", message));
    }
    let source = app.catalogue.get_image(&caller.tenant, *id).await?;
    let label = if is_labelled { label } else { source.label.clone() };
    let image = Some(ImageId(Uuid::new_v4()));
    Ok(Output { file: None, image, label, source: Some(source), free_bytes: u64::MAX })
}

/// Checks where the output of a file goes: the room that is free there.
async fn place_output(app: &App, open: &OpenSource, name: &str) -> Result<u64> {
    if name.chars().any(char::is_control) {
        return Err(invalid_output());
    }
    let (root, wanted) = (Arc::clone(&app.image_root), name.to_owned());
    let file = open.file.as_ref().ok_or_else(invalid_output)?;
    let source = file.try_clone().map_err(Failure::internal)?;
    let (is_source, free_bytes) = blocking(move || -> imageops_store::Result<_> {
        let place = root.output(&wanted)?;
        let room = rustix::fs::fstatvfs(&place.directory).map_err(std::io::Error::from)?;
        Ok((root.is_same_file(&source, &place)?, room.f_bavail.saturating_mul(room.f_frsize)))
    })
    .await?
    .map_err(|error| match error {
        imageops_store::Error::InvalidName | imageops_store::Error::NotFound => invalid_output(),
        other => other.into(),
    })?;
    if is_source { Err(output_is_source()) } else { Ok(free_bytes) }
}

/// A job as a request asks for it.
pub(super) struct Asked {
    pub(super) spec: JobSpec,
    pub(super) request: Option<RequestKey>,
    pub(super) coalesce_key: Option<String>,
    pub(super) failure: Option<JobFailure>,
    pub(super) reserve_bytes: u64,
    pub(super) upload: Option<UploadRow>,
    pub(super) validate_only: bool,
}

impl Asked {
    /// Nothing but the work.
    pub(super) fn new(spec: JobSpec) -> Self {
        Self {
            spec,
            request: None,
            coalesce_key: None,
            failure: None,
            reserve_bytes: 0,
            upload: None,
            validate_only: false,
        }
    }
}

/// Writes the job, or tells what it would be.
pub(super) async fn queue(app: &App, caller: &Caller, asked: Asked) -> Result<v1::Job> {
    let Asked { spec, request, coalesce_key, failure, reserve_bytes, upload, validate_only } = asked;
    let (coalesce_key, join) = match (coalesce_key, request) {
        (Some(key), _) => (Some(key), Join::Any),
        // Who gives an id tells requests apart.
        (None, Some(_)) => (None, Join::Any),
        (None, None) => same_work(&spec)?.map_or((None, Join::Any), |(key, join)| (Some(key), join)),
    };
    let new = NewJob {
        request,
        coalesce_key,
        join,
        failure,
        reserve_bytes,
        upload,
        ..NewJob::new(JobId(Uuid::new_v4()), caller.tenant.clone(), spec, latest())
    };
    if validate_only {
        let mut job = wire::job(&unqueued(new), &app.config)?;
        job.name.clear();
        return Ok(job);
    }
    wire::job(&create(app, new).await?, &app.config)
}

/// Starts work that is done once however often it is asked for: while a job with this key lives, that is answered.
pub(crate) async fn start_once(app: &App, tenant: &Tenant, spec: JobSpec, key: String) -> Result<JobRow> {
    let new = NewJob {
        coalesce_key: Some(key),
        ..NewJob::new(JobId(Uuid::new_v4()), tenant.clone(), spec, latest())
    };
    create(app, new).await
}

async fn create(app: &App, new: NewJob) -> Result<JobRow> {
    Ok(match app.catalogue.create_job(new, app.config.queue_limit).await? {
        Created::New(row) => {
            app.bells.ring(row.spec.kind());
            row
        }
        Created::Existing(row) => row,
    })
}

/// The row that a job would have.
fn unqueued(new: NewJob) -> JobRow {
    JobRow {
        id: new.id,
        tenant: new.tenant,
        spec: new.spec,
        alias: new.alias,
        state: if new.failure.is_some() { JobState::Failed } else { JobState::Queued },
        progress: JobProgress::default(),
        result: None,
        failure: new.failure,
        revision: 0,
        attempt: 0,
        cancel_requested: false,
        worker: None,
        lease_time: None,
        create_time: new.create_time,
        start_time: None,
        update_time: new.create_time,
        end_time: None,
    }
}

/// The job of a request that came before. Asked first: what the request names may have changed or gone since.
pub(super) async fn repeated(
    app: &App,
    caller: &Caller,
    key: Option<RequestKey>,
    validate_only: bool,
) -> Result<Option<v1::Job>> {
    let Some(key) = key.filter(|_| !validate_only) else { return Ok(None) };
    match app.catalogue.find_job(&caller.tenant, key).await? {
        Some(row) => Ok(Some(wire::job(&row, &app.config)?)),
        None => Ok(None),
    }
}

/// The idempotency key of a request: its id, and a digest of everything else in it. The kind is part of that: requests of
/// two kinds may be the same bytes.
pub(super) fn request_key(
    kind: JobKind,
    request_id: &str,
    content: &impl Message,
) -> Result<Option<RequestKey>> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let id = Uuid::try_parse(request_id)
        .map_err(|_| Failure::invalid("request_id", "must be a UUID, or empty"))?;
    let digest = Sha256::new().chain_update(kind.as_str()).chain_update(content.encode_to_vec());
    Ok(Some(RequestKey { id, fingerprint: digest.finalize().into() }))
}

/// A job, as new as this process knows it.
pub(super) async fn find(app: &App, caller: &Caller, id: JobId) -> Result<JobRow> {
    Ok(newest(app, app.catalogue.get_job(&caller.tenant, id).await?))
}

/// The row, or what this process has learned of the job since it was written.
fn newest(app: &App, row: JobRow) -> JobRow {
    match app.hub.newest(row.id) {
        Some(live) if live.revision >= row.revision && !row.state.is_final() => JobRow::clone(&live),
        _ => row,
    }
}

/// GetJob.
pub(super) async fn get(app: &App, caller: &Caller, request: &v1::GetJobRequest) -> Result<v1::Job> {
    let id = parse_name("name", &request.name)?;
    wire::job(&find(app, caller, id).await?, &app.config)
}

/// ListJobs.
pub(super) async fn list(
    app: &App,
    caller: &Caller,
    request: v1::ListJobsRequest,
) -> Result<v1::ListJobsResponse> {
    let filter = format!("{:?}{:?}", request.states, request.kinds);
    let states = wire::read_job_states(&request.states)?;
    let kinds = wire::read_job_kinds(&request.kinds)?;
    let page = pages::page(request.page_size, &request.page_token, &filter)?;
    let rows = app.catalogue.list_jobs(&caller.tenant, &states, &kinds, page.clone()).await?;
    let show = |row: JobRow| {
        // What has another state by now is on another page of a list by states.
        let live = Some(newest(app, row.clone())).filter(|live| live.state == row.state);
        wire::job(live.as_ref().unwrap_or(&row), &app.config).map(|job| (row, job))
    };
    let mut rows = rows.into_iter().map(show).collect::<Result<_>>()?;
    let next_page_token = pages::cut(&mut rows, &page, &filter, |row: &JobRow| Cursor {
        create_time: row.create_time,
        id: row.id.0,
    });
    Ok(v1::ListJobsResponse { jobs: pages::messages(rows), next_page_token })
}

/// CancelJob.
pub(super) async fn cancel(app: &App, caller: &Caller, request: &v1::CancelJobRequest) -> Result<v1::Job> {
    let id = parse_name("name", &request.name)?;
    let row = app.catalogue.cancel_job(&caller.tenant, id, latest()).await.map_err(|error| match error {
        imageops_catalogue::Error::State { .. } => {
            Failure::new(tonic::Code::FailedPrecondition, reason::JOB_ENDED, "the job has ended already")
        }
        other => other.into(),
    })?;
    if row.state.is_final() {
        app.hub.publish(row.clone());
    } else {
        app.hub.cancel(&row);
    }
    wire::job(&newest(app, row), &app.config)
}

/// DeleteJob.
pub(super) async fn delete(app: &App, caller: &Caller, request: &v1::DeleteJobRequest) -> Result<()> {
    let id = parse_name("name", &request.name)?;
    app.catalogue.delete_job(&caller.tenant, id).await.map_err(|error| match error {
        imageops_catalogue::Error::State { .. } => Failure::new(
            tonic::Code::FailedPrecondition,
            reason::JOB_NOT_ENDED,
            "the job has not ended yet; cancel it, or wait for it",
        ),
        other => other.into(),
    })
}
