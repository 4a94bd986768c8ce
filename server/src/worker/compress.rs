//! A compress job: into a file below the image root, into a new image of the store, or into the slim companion of one.

use std::fs::File;
use std::sync::Arc;

use imageops_catalogue::{Companion, ImageRow, JobOutcome, JobRow, LastCheck};
use imageops_image::Control;
use imageops_image::check::{CheckOptions, CheckOutcome, CheckReport, check};
use imageops_image::compress::{CompressOptions, CompressReport};
use imageops_image::digest::Digests;
use imageops_image::format::Format;
use imageops_image::storage::FileStorage;
use imageops_model::{CompanionKind, CompressSpec, ImageDetails, ImageId, Source};
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::Stop;
use super::output::{ImageOutput, make_file};
use super::run::result_of;
use super::tracker::Tracker;
use crate::app::{App, OpenSource};
use crate::clock::now;
use crate::compression::engine_options;
use crate::failure::{Failure, Result};
use crate::stored::{self, ImageOf};

/// Where the check of a slim companion begins in the whole of its job: only tables are read.
const SLIMMED: f64 = 0.95;

/// What a compress job leaves in its row.
#[derive(Debug, Serialize, Deserialize)]
pub struct CompressOutcome {
    /// The engine's report.
    pub report: CompressReport,
    /// Name of the output below the image root.
    pub output_file: Option<String>,
    /// The image that was made.
    pub output_image: Option<ImageId>,
    /// Digests of the image that was made.
    pub digests: Option<Digests>,
}

/// Compresses the source.
pub(super) async fn compress(
    app: &Arc<App>,
    row: &JobRow,
    spec: &CompressSpec,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let source = app.open_source(&row.tenant, &spec.source).await?;
    let options =
        CompressOptions { threads: app.config.job_threads as usize, ..engine_options(&spec.compression) };
    match (&spec.source, &spec.output_file, spec.output_image) {
        (Source::File(_), Some(name), _) => {
            let write = move |source: OpenSource, file: &File, control: &Control| {
                run_engine(source, file, &options, control)
            };
            let report = make_file(app, source, name, (stop, tracker, tracker.control(stop)), write).await?;
            let output_file = Some(name.clone());
            outcome(CompressOutcome { report, output_file, output_image: None, digests: None }, None)
        }
        (Source::Image(id), _, Some(output)) => {
            into_image(app, row, spec, source, (*id, output), options, stop, tracker).await
        }
        _ => Err(Failure::internal("a compress job without an output")),
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, from the dispatcher above")]
async fn into_image(
    app: &Arc<App>,
    row: &JobRow,
    spec: &CompressSpec,
    source: OpenSource,
    (derived_from, output): (ImageId, ImageId),
    options: CompressOptions,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let place = ImageOutput::place(app, output, row.attempt, source.storage.allocated_bytes()).await?;
    let end = if spec.companion { SLIMMED } else { 1.0 };
    let control = tracker.control_between(stop, 0.0, end);
    let check_control = spec.companion.then(|| tracker.control_between(stop, end, 1.0));
    let write = move |file: &File, control: &Control| {
        let report = run_engine(source, file, &options, control)?;
        let check = check_control.map(|control| check_output(file, options.threads, &control));
        Ok((report, check.transpose()?))
    };
    let ((report, check), made) = place.make(app, (stop, tracker, control), write).await?;
    let digests = made.digests.clone();
    let companion = Companion { of: derived_from, kind: CompanionKind::Slim, key: None };
    let image = ImageOf {
        id: output,
        tenant: row.tenant.clone(),
        label: spec.output_label.clone(),
        details: ImageDetails::default(),
        derived_from: Some(derived_from),
        companion: spec.companion.then_some(companion),
        quarantine: None,
    };
    let bytes = made.into_bytes(Format::Qcow2, report.virtual_size_bytes);
    let image = stored::image(image, bytes, now());
    let check = check.map(|report| last_check(row, report, &digests));
    let image = ImageRow { check: check.transpose()?, ..image };
    let made =
        CompressOutcome { report, output_file: None, output_image: Some(output), digests: Some(digests) };
    outcome(made, Some(image))
}

fn run_engine(
    source: OpenSource,
    output: &File,
    options: &CompressOptions,
    control: &Control,
) -> Result<CompressReport> {
    Ok(imageops_image::compress::compress(source.storage, source.format, output, options, control)?)
}

/// Checks what was written. Its digests are taken later, with those of every output.
fn check_output(file: &File, threads: usize, control: &Control) -> Result<CheckReport> {
    let file = file.try_clone().map_err(imageops_image::Error::from)?;
    let storage = FileStorage::new(file).map_err(imageops_image::Error::from)?;
    let options = CheckOptions { format: Some(Format::Qcow2), md5: false, sha256: false, threads };
    let report = check(Arc::new(storage), &options, control)?;
    if report.outcome != CheckOutcome::Consistent {
        tracing::error!(outcome = ?report.outcome, findings = report.findings_total, "an output is not sound");
        let message = "the output does not pass its check; nothing was made";
        return Err(Failure::new(Code::Internal, imageops_image::reason::OUTPUT_DIFFERS, message));
    }
    Ok(report)
}

/// The check of an output as the image keeps it, under the job that made both.
fn last_check(row: &JobRow, mut report: CheckReport, digests: &Digests) -> Result<LastCheck> {
    // Those that a check job takes.
    report.digests =
        Digests { md5: digests.md5.clone(), sha256: digests.sha256.clone(), ..Digests::default() };
    Ok(LastCheck { job: row.id, result: Some(result_of(&report)?), failure: None, time: Some(now()) })
}

fn outcome(outcome: CompressOutcome, image: Option<ImageRow>) -> Result<JobOutcome> {
    Ok(JobOutcome::Succeeded { result: result_of(&outcome)?, image, replica: None })
}
