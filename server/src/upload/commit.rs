//! Makes the bytes of an upload an image. The only place that does so.
//!
//! Order (reliability R-1): flush, compare the digests, inspect, link into the store, flush its directory, write the row,
//! answer. A crash anywhere before the row leaves an open upload that can be committed again.

use std::sync::Arc;

use imageops_catalogue::{ImageRow, Replica, UploadRow};
use imageops_image::Control;
use imageops_image::check::{CheckOptions, check};
use imageops_image::format::Format;
use imageops_image::inspect::{InspectOptions, Inspection, Reason, Verdict};
use imageops_image::storage::Storage;
use imageops_model::{ImageId, ImageState, ReplicaState};
use tonic::Code;
use uuid::Uuid;

use super::ingest::Ingest;
use crate::app::{App, blocking};
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::reason;

/// What the client says the whole must be.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    /// Length in bytes.
    pub size_bytes: Option<u64>,
    /// Lower-case hexadecimal.
    pub md5: Option<String>,
    /// Lower-case hexadecimal.
    pub sha256: Option<String>,
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

/// Makes the image.
pub async fn commit(
    app: &App,
    upload: &UploadRow,
    ingest: &mut Ingest,
    promises: &[Promise],
) -> Result<(UploadRow, ImageRow), CommitError> {
    let size_bytes = ingest.received_bytes();
    for promise in promises {
        if let Some(promised) = promise.size_bytes.filter(|promised| *promised != size_bytes) {
            // Not a refusal: bytes may be missing that are still to come.
            let message = format!("{size_bytes} bytes came, but {promised} were promised");
            let failure = Failure::new(Code::FailedPrecondition, reason::SIZE_MISMATCH, message);
            return Err(CommitError::Other(failure.with("received_bytes", size_bytes)));
        }
    }
    ingest.flush_all().await?;
    let digests = ingest.digests().await?;
    let (md5, sha256) = (digests.md5.unwrap_or_default(), digests.sha256.unwrap_or_default());
    for promise in promises {
        compare("md5", promise.md5.as_deref(), &md5)?;
        compare("sha256", promise.sha256.as_deref(), &sha256)?;
    }
    let inspection = inspect(app, upload, ingest).await?;
    refuse_unless_valid(&inspection)?;
    if inspection.format == Format::Qcow2 {
        refuse_unless_valid(&check_tables(app, ingest).await?)?;
    }

    let image = ImageId(Uuid::new_v4());
    let (store, staged, blob) = (Arc::clone(&app.store), upload.id.0.to_string(), image.0.to_string());
    let key = blob.clone();
    let publishing = staged.clone();
    blocking(move || store.publish(&publishing, &key)).await??;
    let time = now();
    let row = ImageRow {
        id: image,
        tenant: upload.tenant.clone(),
        label: upload.label.clone(),
        state: ImageState::Active,
        format: inspection.format.as_str().to_owned(),
        size_bytes,
        virtual_size_bytes: inspection.virtual_size_bytes,
        md5,
        sha256,
        sha512: None,
        crc32: None,
        replicas: vec![Replica {
            store: app.store.id(),
            blob: blob.clone(),
            state: ReplicaState::Ready,
            create_time: time,
            update_time: time,
            verify_time: None,
        }],
        derived_from: None,
        details: upload.details.clone(),
        enabled: true,
        companion: None,
        use_time: None,
        quarantine: None,
        check: None,
        slim: None,
        upload: None,
        revision: 1,
        create_time: time,
        update_time: time,
        trash_time: None,
        purge_time: None,
    };
    let committed = app.catalogue.commit_upload(upload.id, row, None, time).await;
    if committed.is_err() {
        app.remove_unless_referenced(&blob).await;
    }
    let committed = committed?;
    if committed.image.ready_replica().is_some_and(|replica| replica.blob != blob) {
        // The tenant has these bytes already; what came is doomed.
        app.remove_doomed().await?;
    }
    // Only now: until the row was there, the staged name was what a resume would go on with.
    let store = Arc::clone(&app.store);
    if let Err(error) = blocking(move || store.discard_staged(&staged)).await? {
        tracing::warn!(%error, "a staged name was not removed; the next start removes it");
    }
    metrics::counter!("imageops_uploads_acknowledged_total").increment(1);
    Ok((committed.upload, committed.image))
}

fn compare(algorithm: &str, promised: Option<&str>, found: &str) -> Result<(), CommitError> {
    match promised {
        Some(promised) if !promised.eq_ignore_ascii_case(found) => {
            let message =
                format!("the {algorithm} of what came is {found}, but {promised} was promised; upload again");
            Err(CommitError::Refused(Failure::new(Code::InvalidArgument, reason::DIGEST_MISMATCH, message)))
        }
        _ => Ok(()),
    }
}

async fn inspect(app: &App, upload: &UploadRow, ingest: &Ingest) -> Result<Inspection> {
    let storage: Arc<dyn Storage> = Arc::new(ingest.storage()?);
    let options = InspectOptions {
        declared_format: upload.declared_format.as_deref().and_then(|format| format.parse().ok()),
        virtual_size_max_bytes: app.config.virtual_size_max_bytes,
        // What is inside the guest plays no part in the verdict.
        layout: false,
    };
    Ok(blocking(move || imageops_image::inspect::inspect(&storage, &options)).await??)
}

/// Walks all tables: those of an image that contradict each other are refused (security.md 1, SEC-12). Reads no data.
async fn check_tables(app: &App, ingest: &Ingest) -> Result<Inspection> {
    let storage: Arc<dyn Storage> = Arc::new(ingest.storage()?);
    let options = CheckOptions {
        md5: false,
        sha256: false,
        threads: app.config.job_threads as usize,
        format: Some(Format::Qcow2),
    };
    Ok(blocking(move || check(storage, &options, &Control::default())).await??.inspection)
}

/// Turns every verdict but `valid` into the refusal that it stands for (security.md 1).
fn refuse_unless_valid(inspection: &Inspection) -> Result<(), CommitError> {
    match inspection.verdict {
        Verdict::Valid => Ok(()),
        verdict => Err(CommitError::Refused(refusal(verdict, &inspection.reasons))),
    }
}

/// What a client is told of an image that is not taken.
pub fn refusal(verdict: Verdict, reasons: &[Reason]) -> Failure {
    let code = if verdict == Verdict::Corrupt { Code::FailedPrecondition } else { Code::InvalidArgument };
    match reasons.first() {
        Some(first) => {
            let failure = Failure::new(code, first.code.clone(), first.message.clone());
            match first.offset_bytes {
                Some(offset) => failure.with("offset_bytes", offset),
                None => failure,
            }
        }
        None => Failure::new(code, reason::IMAGE_REFUSED, "the image was refused"),
    }
}
