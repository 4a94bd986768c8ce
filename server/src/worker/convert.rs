//! A convert job: the guest's disk in another format, as a file, as a new image, or as a companion that is kept for the next
//! one who asks.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use imageops_catalogue::{Companion, ImageRow, JobOutcome, JobRow};
use imageops_image::compress::{CompressOptions, compress};
use imageops_image::convert::{ConvertOptions, convert_to_raw};
use imageops_image::digest::{Digests, Selection, digest_storage};
use imageops_image::format::Format;
use imageops_image::inspect::{InspectOptions, Verdict, inspect};
use imageops_image::storage::{FileStorage, Storage};
use imageops_image::{Control, ErrorKind};
use imageops_model::{CompanionKind, CompressionChoice, ConvertSpec, ImageDetails, ImageId, Source};
use rustix::fs::fstat;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::Stop;
use super::output::{ImageOutput, Made, make_file};
use super::run::result_of;
use super::tracker::Tracker;
use crate::app::{App, OpenSource};
use crate::clock::now;
use crate::compression::engine_options;
use crate::failure::{Failure, Result};
use crate::stored::{self, ImageOf};
use crate::{blob_storage, reason, replicas};

/// What a convert job leaves in its row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConvertOutcome {
    /// What was written.
    pub written: Written,
    /// Name of the output below the image root.
    pub output_file: Option<String>,
    /// The image that was made.
    pub output_image: Option<ImageId>,
    /// Digests of the image that was made.
    pub digests: Option<Digests>,
}

/// What is known of an output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Written {
    /// Format that the source was read as.
    pub source_format: Format,
    /// Format of the output.
    pub format: Format,
    /// Size that the guest sees.
    pub virtual_size_bytes: u64,
    /// Length of the output.
    pub output_bytes: u64,
    /// What it occupies on its medium.
    pub allocated_bytes: u64,
    /// Whether it was read back and compared.
    pub verified: bool,
}

/// The key of the conversion of some bytes that is kept.
pub(crate) fn conversion_key(sha256: &str, format: Format) -> String {
    format!("{sha256}/{format}")
}

/// Refuses raw images that are longer than any upload may be (SEC-14): of a few kilobytes that promise terabytes every zero
/// would have to be digested.
pub(crate) fn require_room_for_raw(app: &App, virtual_size_bytes: Option<u64>) -> Result<()> {
    let limit = app.config.upload_max_bytes;
    match virtual_size_bytes.filter(|size| *size > limit) {
        None => Ok(()),
        Some(size) => {
            let message = format!(
                "as raw the image has {size} bytes, more than the {limit} that any image may have; take it in its own format"
            );
            Err(Failure::new(Code::InvalidArgument, reason::TOO_LARGE, message).with("limit_bytes", limit))
        }
    }
}

/// Converts the source.
pub(super) async fn convert(
    app: &Arc<App>,
    row: &JobRow,
    spec: &ConvertSpec,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let engine = Engine::new(app, spec)?;
    match (&spec.source, &spec.output_file, spec.output_image) {
        (Source::File(_), Some(name), _) => {
            let source = app.open_source(&row.tenant, &spec.source).await?;
            let write = move |source: OpenSource, file: &File, control: &Control| {
                engine.run(source.storage, source.format, file, control)
            };
            let written = make_file(app, source, name, (stop, tracker, tracker.control(stop)), write).await?;
            let output_file = Some(name.clone());
            outcome(ConvertOutcome { written, output_file, output_image: None, digests: None }, None)
        }
        (Source::Image(id), _, Some(output)) => {
            let image = app.active_image(&row.tenant, *id).await?;
            if engine.format == Format::Raw {
                require_room_for_raw(app, image.virtual_size_bytes)?;
            }
            let key = spec.cached.then(|| conversion_key(&image.sha256, engine.format));
            if let Some(key) = &key
                && let Some(known) = app.catalogue.find_conversion(&row.tenant, key).await?
            {
                return outcome(known_outcome(&image, &known)?, None);
            }
            let (written, made) = into_image(app, row, &image, output, &engine, stop, tracker).await?;
            // A companion has none: what is made of it stands beside its image as well.
            let of = image.companion.as_ref().map_or(image.id, |companion| companion.of);
            let companion = key.map(|key| Companion { of, kind: CompanionKind::Conversion, key: Some(key) });
            let digests = Some(made.digests.clone());
            let row = new_image(row, spec, &image, output, companion, made, &written);
            let made = ConvertOutcome { written, output_file: None, output_image: Some(output), digests };
            outcome(made, Some(row))
        }
        _ => Err(Failure::internal("a convert job without an output")),
    }
}

/// Reads one copy after the other until one is converted. One that does not have its digest is marked as damaged, whatever
/// came of it (reliability R-9).
async fn into_image(
    app: &Arc<App>,
    row: &JobRow,
    image: &ImageRow,
    output: ImageId,
    engine: &Engine,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<(Written, Made)> {
    let mut failure = replicas::none_there();
    for source in replicas::readable(app, image) {
        let blob = match replicas::open(app, source.store, &source.blob).await? {
            Ok(blob) => blob,
            Err(error) => {
                tracing::warn!(image = %image.id, store = %source.store, %error, "a copy cannot be opened");
                failure = error.into();
                continue;
            }
        };
        let storage = blob_storage::open(blob).map_err(imageops_store::Error::from)?;
        let place = ImageOutput::place(app, output, row.attempt, storage.allocated_bytes()).await?;
        let (engine, format, sha256) = (engine.clone(), image.format.parse().ok(), image.sha256.clone());
        let is_damaged = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&is_damaged);
        let write = move |file: &File, control: &Control| {
            engine.run_verified(storage, format, &sha256, file, control).inspect_err(|failure| {
                found.store(failure.reason == reason::BYTES_DAMAGED, Ordering::Release);
            })
        };
        match place.make(app, (stop, tracker, tracker.control(stop)), write).await {
            // The source: a store that holds another output than it was given fails with the same reason.
            Err(damaged) if is_damaged.load(Ordering::Acquire) => {
                replicas::mark_damaged(app, source.store, &source.blob).await?;
                failure = damaged;
            }
            made => return made,
        }
    }
    Err(failure)
}

fn new_image(
    row: &JobRow,
    spec: &ConvertSpec,
    source: &ImageRow,
    id: ImageId,
    companion: Option<Companion>,
    made: Made,
    written: &Written,
) -> ImageRow {
    let image = ImageOf {
        id,
        tenant: row.tenant.clone(),
        label: spec.output_label.clone(),
        details: ImageDetails::default(),
        derived_from: Some(source.id),
        companion,
        quarantine: None,
    };
    stored::image(image, made.into_bytes(written.format, written.virtual_size_bytes), now())
}

/// Someone else was faster: what is kept already is what was asked for.
fn known_outcome(source: &ImageRow, known: &ImageRow) -> Result<ConvertOutcome> {
    let format = |name: &str| name.parse().map_err(|_| Failure::internal("a row with an unknown format"));
    let written = Written {
        source_format: format(&source.format)?,
        format: format(&known.format)?,
        virtual_size_bytes: known.virtual_size_bytes.unwrap_or_default(),
        output_bytes: known.size_bytes,
        allocated_bytes: known.size_bytes,
        verified: true,
    };
    let digests =
        Digests { md5: Some(known.md5.clone()), sha256: Some(known.sha256.clone()), ..Digests::default() };
    Ok(ConvertOutcome { written, output_file: None, output_image: Some(known.id), digests: Some(digests) })
}

fn outcome(outcome: ConvertOutcome, image: Option<ImageRow>) -> Result<JobOutcome> {
    Ok(JobOutcome::Succeeded { result: result_of(&outcome)?, image, replica: None })
}

/// The engine, set up for one conversion.
#[derive(Clone)]
struct Engine {
    format: Format,
    compression: CompressionChoice,
    threads: usize,
    virtual_size_max_bytes: u64,
}

impl Engine {
    fn new(app: &App, spec: &ConvertSpec) -> Result<Self> {
        let format = spec.format.parse().ok().filter(|format| [Format::Raw, Format::Qcow2].contains(format));
        Ok(Self {
            format: format.ok_or_else(|| Failure::internal("a convert job without a format"))?,
            compression: CompressionChoice { keep_free_space: true, ..spec.compression.unwrap_or_default() },
            threads: app.config.job_threads as usize,
            virtual_size_max_bytes: app.config.virtual_size_max_bytes,
        })
    }

    fn run(
        &self,
        source: Arc<dyn Storage>,
        format: Option<Format>,
        output: &File,
        control: &Control,
    ) -> Result<Written> {
        let (source_format, virtual_size_bytes, verified) = if self.format == Format::Raw {
            let options = ConvertOptions { threads: self.threads, ..ConvertOptions::default() };
            let report = convert_to_raw(source, format, output, &options, control)?;
            (report.source_format, report.virtual_size_bytes, report.verified)
        } else {
            let options = CompressOptions { threads: self.threads, ..engine_options(&self.compression) };
            let report = compress(source, format, output, &options, control)?;
            (report.source_format, report.virtual_size_bytes, report.verified)
        };
        let stat = fstat(output).map_err(std::io::Error::from).map_err(imageops_image::Error::from)?;
        Ok(Written {
            source_format,
            format: self.format,
            virtual_size_bytes,
            output_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            allocated_bytes: u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512),
            verified,
        })
    }

    /// Runs for an image: its bytes are digested meanwhile and must be those that its row tells of.
    fn run_verified(
        &self,
        source: Arc<dyn Storage>,
        format: Option<Format>,
        sha256: &str,
        output: &File,
        control: &Control,
    ) -> Result<Written> {
        let selection = Selection { sha256: true, ..Selection::default() };
        // Stopped with the rest, and told to nobody: the conversion tells how far both are.
        let quiet = Control::new(|_| {}, control.cancel_token().clone());
        let (digests, written) = thread::scope(|scope| {
            let digests = scope.spawn(|| digest_storage(&*source, selection, &quiet));
            let written = self.run(Arc::clone(&source), format, output, control);
            (digests.join(), written)
        });
        let digests = digests.map_err(|_| Failure::internal("the digest thread failed"))?;
        match digests {
            Ok(digests) if digests.sha256.as_deref() == Some(sha256) => {}
            Ok(_) => return Err(replicas::damaged()),
            Err(error) if error.kind == ErrorKind::Cancelled => return Err(error.into()),
            // The same medium failed the conversion, or would have.
            Err(error) => return Err(written.err().unwrap_or_else(|| error.into())),
        }
        let written = written?;
        Ok(Written { format: self.judge(output)?, ..written })
    }

    /// The format of an image that was made. A guest may have written what looks like another container onto its disk: as
    /// raw bytes that would be taken for one, so it is not handed out (SEC-27).
    fn judge(&self, output: &File) -> Result<Format> {
        if self.format != Format::Raw {
            return Ok(self.format);
        }
        let file = output.try_clone().map_err(imageops_image::Error::from)?;
        let storage: Arc<dyn Storage> =
            Arc::new(FileStorage::new(file).map_err(imageops_image::Error::from)?);
        let options = InspectOptions {
            declared_format: None,
            virtual_size_max_bytes: self.virtual_size_max_bytes,
            layout: false,
        };
        let seen = inspect(&storage, &options)?;
        match (seen.verdict, seen.format) {
            (Verdict::Valid, Format::Raw | Format::Iso) => Ok(seen.format),
            (Verdict::Valid, other) => {
                let message = format!(
                    "the guest's disk is itself a {other} image: as raw bytes it would be taken for that"
                );
                Err(Failure::new(
                    Code::FailedPrecondition,
                    imageops_image::reason::INVALID_FORMAT_MISMATCH,
                    message,
                ))
            }
            _ => {
                let first = seen.reasons.into_iter().next();
                let (reason, message) = first.map_or_else(
                    || (reason::IMAGE_REFUSED.to_owned(), "the output would be refused".to_owned()),
                    |first| (first.code, first.message),
                );
                Err(Failure::new(Code::FailedPrecondition, reason, message))
            }
        }
    }
}
