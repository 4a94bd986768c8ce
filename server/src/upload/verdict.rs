//! What the inspector says of the bytes of an upload, and what follows from it (security.md 1).

use std::sync::Arc;

use imageops_image::Control;
use imageops_image::check::{CheckOptions, check};
use imageops_image::format::Format;
use imageops_image::inspect::{
    InspectOptions, Inspection, PrefixVerdict, Reason, Verdict, inspect, inspect_prefix,
};
use imageops_image::storage::Storage;
use imageops_model::JobFailure;
use tonic::Code;

use imageops_catalogue::UploadRow;

use super::ingest::Ingest;
use crate::app::{App, blocking};
use crate::failure::{Failure, Result};
use crate::reason;

/// Bytes that can be stored.
pub struct Judged {
    /// Their format.
    pub format: Format,
    /// Size that the guest sees.
    pub virtual_size_bytes: Option<u64>,
    /// Why they are never handed out, where they contradict themselves and the client takes that.
    pub quarantine: Option<JobFailure>,
}

/// Judges the whole. The inner error is a refusal: these bytes can never become an image.
pub(super) async fn judge(app: &App, upload: &UploadRow, ingest: &Ingest) -> Result<Result<Judged, Failure>> {
    judge_storage(app, upload, ingest.storage()?).await
}

/// As `judge`, wherever the bytes are.
pub async fn judge_storage(
    app: &App,
    upload: &UploadRow,
    storage: Arc<dyn Storage>,
) -> Result<Result<Judged, Failure>> {
    let options = InspectOptions {
        declared_format: declared_format(upload),
        virtual_size_max_bytes: app.config.virtual_size_max_bytes,
        // What is inside the guest plays no part in the verdict.
        layout: false,
    };
    let (opened, storage) = (Arc::clone(&storage), storage);
    let mut inspection = blocking(move || inspect(&opened, &options)).await??;
    if inspection.verdict == Verdict::Valid && inspection.format == Format::Qcow2 {
        // All tables: those of an image that contradict each other are refused as well (SEC-12). Reads no data.
        let options = CheckOptions {
            md5: false,
            sha256: false,
            threads: app.config.job_threads as usize,
            format: Some(Format::Qcow2),
        };
        inspection = blocking(move || check(storage, &options, &Control::default())).await??.inspection;
    }
    Ok(judged(&inspection, upload.wishes.accept_corrupt))
}

fn judged(inspection: &Inspection, accept_corrupt: bool) -> Result<Judged, Failure> {
    let quarantine = match inspection.verdict {
        Verdict::Valid => None,
        Verdict::Corrupt if accept_corrupt => {
            Some(refusal(inspection.verdict, &inspection.reasons).into_job_failure())
        }
        verdict => return Err(refusal(verdict, &inspection.reasons)),
    };
    Ok(Judged { format: inspection.format, virtual_size_bytes: inspection.virtual_size_bytes, quarantine })
}

/// Judges the first bytes, before the rest comes: refuses what they prove to be unsafe.
pub fn judge_prefix(upload: &UploadRow, prefix: &[u8]) -> Result<()> {
    // The length is that of the archive where there is one.
    let size_bytes = upload.size_bytes.filter(|_| upload.archive.is_none());
    match inspect_prefix(prefix, size_bytes, declared_format(upload)) {
        PrefixVerdict::Undecided => Ok(()),
        PrefixVerdict::Refused { verdict: Verdict::Corrupt, .. } if upload.wishes.accept_corrupt => Ok(()),
        PrefixVerdict::Refused { verdict, reasons } => Err(refusal(verdict, &reasons)),
    }
}

fn declared_format(upload: &UploadRow) -> Option<Format> {
    upload.declared_format.as_deref().and_then(|format| format.parse().ok())
}

/// What a client is told of an image that is not taken.
pub(super) fn refusal(verdict: Verdict, reasons: &[Reason]) -> Failure {
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
