//! Makes the bytes of an upload an image, or a part of one. The only place that does so.
//!
//! Order (reliability R-1): flush, compare the digests, inspect, link into the store, flush its directory, write the row,
//! answer. A crash anywhere before the row leaves an open upload that can be committed again.

use std::collections::BTreeMap;

use imageops_catalogue::{Committed, Companion, Error, ImageRow, NewJob, UploadPart, UploadRow};
use imageops_image::digest::Digests;
use imageops_model::{
    CheckSpec, ImageDetails, ImageId, ImageState, JobFailure, JobId, JobKind, JobSpec, Micros, Source,
    StoreId, UploadState,
};
use imageops_store::fail_point;
use tonic::Code;
use uuid::Uuid;

use super::ingest::Ingest;
use super::unpack::unpack;
use super::verdict::judge;
use crate::app::App;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::reason;
use crate::stored::{self, ImageOf, Published, StoredBytes};

/// What the client says the whole must be.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// Length in bytes.
    pub size_bytes: Option<u64>,
    /// Lower-case hexadecimal.
    pub md5: Option<String>,
    /// Lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Lower-case hexadecimal.
    pub sha512: Option<String>,
    /// CRC-32 as zip has it.
    pub crc32: Option<u32>,
}

impl Promise {
    /// What the metadata of an upload promised.
    pub fn of(upload: &UploadRow) -> Self {
        Self {
            size_bytes: upload.size_bytes,
            md5: upload.expected_md5.clone(),
            sha256: upload.expected_sha256.clone(),
            sha512: upload.wishes.expected_sha512.clone(),
            crc32: upload.wishes.expected_crc32,
        }
    }
}

/// What an image was before it came, beside what its upload says.
pub struct Origin {
    /// Its id.
    pub id: ImageId,
    /// When it was made; `None`: now.
    pub create_time: Option<Micros>,
    /// The image that it is a companion of.
    pub companion: Option<Companion>,
}

/// Why a commit did not make an image.
pub enum CommitError {
    /// The bytes can never become one: the upload has failed.
    Refused(Failure),
    /// Something else: the upload stays open and can be committed again.
    Other(Failure),
}

impl<E: Into<Failure>> From<E> for CommitError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Where a commit is.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// The image is read out of its archive.
    Unpacking {
        /// Bytes of the image so far.
        done_bytes: u64,
        /// Bytes of the archive that were read for them.
        read_bytes: u64,
    },
    /// The image is durable, and gets its name and its row next.
    Publishing,
}

/// What is asked at each step, and ends the commit by a failure. It is not asked any more once bytes have got their name:
/// from there on a commit happens whole or not at all.
pub type Watch<'a> = dyn Fn(Step) -> Result<()> + Send + Sync + 'a;

/// Lets each step be.
pub fn unwatched(_: Step) -> Result<()> {
    Ok(())
}

/// Makes the image; `labels` are those that the client learned of behind the bytes.
pub async fn commit(
    app: &App,
    upload: &UploadRow,
    ingest: &mut Ingest,
    promises: &[Promise],
    labels: BTreeMap<String, String>,
    watch: &Watch<'_>,
) -> Result<Committed, CommitError> {
    let details = described(upload, labels)?;
    make(app, upload, ingest, promises, (details, None), watch).await
}

/// Makes an image that has been one elsewhere.
pub async fn commit_import(
    app: &App,
    upload: &UploadRow,
    ingest: &mut Ingest,
    promises: &[Promise],
    origin: Origin,
) -> Result<Committed, CommitError> {
    make(app, upload, ingest, promises, (upload.details.clone(), Some(origin)), &unwatched).await
}

async fn make(
    app: &App,
    upload: &UploadRow,
    ingest: &mut Ingest,
    promises: &[Promise],
    (details, origin): (ImageDetails, Option<Origin>),
    watch: &Watch<'_>,
) -> Result<Committed, CommitError> {
    let digests = seal(ingest, promises).await?;
    let staged = upload.id.0.to_string();
    let fresh = Uuid::new_v4();
    // Not the id: a record, and an image from elsewhere, keep that over tries that fail, and no key is ever used twice.
    let blob = fresh.to_string();
    let id = upload.record.unwrap_or(ImageId(fresh));
    let origin = origin.unwrap_or(Origin { id, create_time: None, companion: None });
    let image = ImageOf {
        id: origin.id,
        tenant: upload.tenant.clone(),
        label: upload.label.clone(),
        details,
        derived_from: origin.companion.as_ref().map(|companion| companion.of),
        companion: origin.companion,
        quarantine: None,
    };
    if upload.archive.is_none() {
        return store(app, upload, (ingest, digests), (&staged, blob), (image, origin.create_time), watch)
            .await;
    }
    let mut unpacked = unpack(app, upload, ingest.file()?, watch).await?;
    let digests = seal(&mut unpacked.ingest, &[]).await;
    let stored = match digests {
        Ok(digests) => {
            let bytes = (&unpacked.ingest, digests);
            let image = ImageOf { label: unpacked.label, ..image };
            store(app, upload, bytes, (&unpacked.staged, blob), (image, origin.create_time), watch).await
        }
        Err(error) => Err(error),
    };
    stored::discard(app, store_of(app, upload), unpacked.staged).await;
    stored
}

/// Makes the bytes the part at this place. A crash leaves the open upload, without a place if it had none, or the part.
pub async fn commit_part(
    app: &App,
    upload: &UploadRow,
    part: &UploadPart,
    ingest: &mut Ingest,
    promises: &[Promise],
) -> Result<UploadRow, CommitError> {
    seal(ingest, promises).await?;
    let time = now();
    let expiry = super::admission::expiry(app);
    app.catalogue.extend_upload(upload.id, ingest.durable_bytes(), time, expiry).await?;
    for replaced in app.catalogue.store_part(upload.id, part, time).await? {
        app.uploads.forget(replaced);
        app.discard_staged(replaced).await;
    }
    Ok(app.catalogue.get_upload(&upload.tenant, upload.id).await?)
}

/// Makes all that came durable, and compares it with what was promised.
async fn seal(ingest: &mut Ingest, promises: &[Promise]) -> Result<Digests, CommitError> {
    let size_bytes = ingest.received_bytes();
    for promise in promises {
        if let Some(promised) = promise.size_bytes.filter(|promised| *promised != size_bytes) {
            // Not a refusal: bytes may be missing that are still to come.
            let message = format!("{size_bytes} bytes came, but {promised} were promised");
            let failure = Failure::new(Code::FailedPrecondition, reason::SIZE_MISMATCH, message);
            return Err(CommitError::Other(failure.with("received_bytes", size_bytes)));
        }
    }
    fail_point::reach("before-data-flush");
    ingest.flush_all().await?;
    fail_point::reach("after-data-flush");
    let digests = ingest.digests().await?;
    for promise in promises {
        compare("md5", promise.md5.as_deref(), digests.md5.as_deref())?;
        compare("sha256", promise.sha256.as_deref(), digests.sha256.as_deref())?;
        if let Some(crc32) = promise.crc32 {
            let found = digests.crc32.map(|sum| format!("{sum:08x}"));
            compare("crc32", Some(&format!("{crc32:08x}")), found.as_deref())?;
        }
        if let Some(sha512) = &promise.sha512 {
            if digests.sha512.is_none() {
                let message = "is compared only where `sha512` of the metadata asked for it";
                return Err(CommitError::Other(Failure::invalid("expected_digests.sha512", message)));
            }
            compare("sha512", Some(sha512), digests.sha512.as_deref())?;
        }
    }
    Ok(digests)
}

fn compare(algorithm: &str, promised: Option<&str>, found: Option<&str>) -> Result<(), CommitError> {
    let found = found.unwrap_or_default();
    match promised {
        Some(promised) if !promised.eq_ignore_ascii_case(found) => {
            let message =
                format!("the {algorithm} of what came is {found}, but {promised} was promised; upload again");
            Err(CommitError::Refused(Failure::new(Code::InvalidArgument, reason::DIGEST_MISMATCH, message)))
        }
        _ => Ok(()),
    }
}

/// What is said of the image, with what was said last.
fn described(upload: &UploadRow, labels: BTreeMap<String, String>) -> Result<ImageDetails, CommitError> {
    let mut details = upload.details.clone();
    if labels.is_empty() {
        return Ok(details);
    }
    if upload.record.is_some() {
        let message = "the record keeps what was said of it; change it afterwards";
        return Err(CommitError::Other(Failure::invalid("commit.labels", message)));
    }
    details.labels.extend(labels);
    match details.check() {
        Ok(()) => Ok(details),
        Err(error) => Err(CommitError::Other(Failure::invalid("commit.labels", error.problem))),
    }
}

/// Judges, publishes, and writes the row.
async fn store(
    app: &App,
    upload: &UploadRow,
    (ingest, digests): (&Ingest, Digests),
    (staged, blob): (&str, String),
    (image, create_time): (ImageOf, Option<Micros>),
    watch: &Watch<'_>,
) -> Result<Committed, CommitError> {
    let judged = judge(app, upload, ingest).await?.map_err(CommitError::Refused)?;
    watch(Step::Publishing)?;
    let (id, store) = (image.id, store_of(app, upload));
    let time = now();
    let check_job = is_check_wanted(app, upload).then(|| check_of(&upload.tenant, id, time));
    let image = ImageOf { quarantine: judged.quarantine, ..image };
    let bytes = StoredBytes {
        store,
        blob: blob.clone(),
        size_bytes: ingest.received_bytes(),
        digests,
        format: judged.format.as_str().to_owned(),
        virtual_size_bytes: judged.virtual_size_bytes,
    };
    let mut row = stored::image(image, bytes, time);
    row.create_time = create_time.unwrap_or(time);
    let place = (store, staged, blob.as_str());
    let published = match row.state {
        ImageState::Quarantined => {
            stored::publish(app, store, staged, &blob).await?;
            Published { blob: blob.clone(), shares: None }
        }
        _ => stored::publish_or_share(app, &row.tenant, (&row.sha256, row.size_bytes), place).await?,
    };
    fail_point::reach("before-row-commit");
    let committed = write_row(app, upload, (&row, published), (staged, &blob), check_job).await?;
    fail_point::reach("after-row-commit");
    // Only now: until the row was there, the staged name was what a resume would go on with.
    stored::discard(app, store, upload.id.0.to_string()).await;
    for part in &committed.discard {
        app.uploads.forget(*part);
        app.discard_staged(*part).await;
    }
    if committed.check_job.is_some() {
        app.bells.ring(JobKind::Check);
    }
    fail_point::reach("before-answer");
    metrics::counter!("imageops_uploads_acknowledged_total").increment(1);
    Ok(committed)
}

/// Writes the row with the bytes that were published for it.
async fn write_row(
    app: &App,
    upload: &UploadRow,
    (row, mut published): (&ImageRow, Published),
    (staged, fresh): (&str, &str),
    check_job: Option<NewJob>,
) -> Result<Committed, CommitError> {
    let store = store_of(app, upload);
    let write = async |published: &Published| {
        let mut row = row.clone();
        row.replicas.iter_mut().for_each(|replica| replica.blob.clone_from(&published.blob));
        let now = row.update_time;
        app.catalogue.commit_upload(upload.id, row, published.shares, check_job.clone(), now).await
    };
    let mut written = write(&published).await;
    if matches!(written, Err(Error::Conflict { what: "blob" })) && published.shares.is_some() {
        // The image with the same bytes went in between, and its blob goes with it.
        stored::publish(app, store, staged, fresh).await?;
        published = Published { blob: fresh.to_owned(), shares: None };
        written = write(&published).await;
    }
    match written {
        Ok(committed) => Ok(committed),
        Err(error) => {
            if is_settled(app, upload, &error).await {
                app.remove_unless_referenced(store, &published.blob).await;
            }
            fail_point::reach("after-failed-row-commit");
            match error {
                // What came does not fit; it never will but for what the tenant deletes, and that it may send again.
                error @ Error::QuotaExceeded { .. } => Err(CommitError::Refused(error.into())),
                error => Err(error.into()),
            }
        }
    }
}

/// Whether a row that could not be written stays unwritten. A catalogue that is not available may have failed behind the
/// write, in its flush or its answer: then a crash would bring the row to light, until a later write to the same upload has
/// been made. While none can be, the bytes stay; the next start decides.
async fn is_settled(app: &App, upload: &UploadRow, error: &Error) -> bool {
    if !matches!(error, Error::Unavailable(_)) {
        return true;
    }
    let expiry = super::admission::expiry(app);
    let later = app.catalogue.extend_upload(upload.id, upload.durable_bytes, now(), expiry).await;
    matches!(later, Ok(()) | Err(Error::State { .. } | Error::NotFound { .. }))
}

fn is_check_wanted(app: &App, upload: &UploadRow) -> bool {
    upload.wishes.check.unwrap_or(app.config.check_uploads)
}

/// The check of an image whose digests were taken as it came: its tables alone are left to look at.
fn check_of(tenant: &imageops_model::Tenant, image: ImageId, time: Micros) -> NewJob {
    let spec = JobSpec::Check(CheckSpec { source: Source::Image(image), md5: false, sha256: false });
    NewJob::new(JobId(Uuid::new_v4()), tenant.clone(), spec, time)
}

/// The store that an upload goes to.
pub fn store_of(app: &App, upload: &UploadRow) -> StoreId {
    upload.store.unwrap_or_else(|| app.stores.default_id())
}

/// Ends an upload for good: its bytes can never become an image. Its staged bytes go.
pub async fn refuse(app: &App, upload: &UploadRow, failure: &Failure) -> Result<()> {
    tracing::info!(upload = %upload.id, reason = failure.reason, "upload refused");
    metrics::counter!("imageops_rejected_total", "reason" => failure.reason.clone()).increment(1);
    let why: JobFailure = failure.clone().into_job_failure();
    let ended = app.catalogue.fail_upload(upload.id, why, now()).await?;
    debug_assert_eq!(ended.state, UploadState::Failed);
    stored::discard(app, store_of(app, upload), upload.id.0.to_string()).await;
    Ok(())
}
