//! A compress job: into a file below the image root, or into a new image of the store.

use std::fs::File;
use std::sync::Arc;

use imageops_catalogue::{ImageRow, JobOutcome, JobRow};
use imageops_image::Control;
use imageops_image::compress::{CompressOptions, CompressReport};
use imageops_image::digest::Digests;
use imageops_image::output::{Existing, OutputFile};
use imageops_model::{CompressSpec, ImageDetails, ImageId, Source};
use serde::{Deserialize, Serialize};

use super::output::ImageOutput;
use super::run::engine;
use super::tracker::Tracker;
use super::{Stop, publish_allowed};
use crate::app::{App, OpenSource, blocking};
use crate::clock::now;
use crate::compression::engine_options;
use crate::failure::{Failure, Result};
use crate::reason;
use crate::stored::{self, ImageOf};

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

/// Mode of outputs in the image root: other services on the same volume read them.
const OUTPUT_MODE: u32 = 0o644;

/// Compresses the source.
pub(super) async fn compress(
    app: &Arc<App>,
    row: &JobRow,
    spec: &CompressSpec,
    stop: &Stop,
    tracker: &Tracker,
    control: Control,
) -> Result<JobOutcome> {
    let source = app.open_source(&row.tenant, &spec.source).await?;
    let options =
        CompressOptions { threads: app.config.job_threads as usize, ..engine_options(&spec.compression) };
    match (&spec.source, &spec.output_file, spec.output_image) {
        (Source::File(_), Some(name), _) => {
            into_file(app, source, name, &options, stop, tracker, control).await
        }
        (Source::Image(id), _, Some(output)) => {
            into_image(app, row, spec, source, (*id, output), &options, stop, tracker, control).await
        }
        _ => Err(Failure::internal("a compress job without an output")),
    }
}

async fn into_file(
    app: &Arc<App>,
    source: OpenSource,
    name: &str,
    options: &CompressOptions,
    stop: &Stop,
    tracker: &Tracker,
    control: Control,
) -> Result<JobOutcome> {
    let (root, wanted) = (Arc::clone(&app.image_root), name.to_owned());
    let finding = Arc::clone(&root);
    let place = blocking(move || finding.output(&wanted)).await?.map_err(|_| invalid_output())?;
    let (options, stop, tracker) = (options.clone(), stop.clone(), tracker.clone());
    let report = engine(move || {
        // Looked at again here: a link may have been set since the job was asked for.
        if let Some(file) = &source.file
            && root.is_same_file(file, &place)?
        {
            return Err(output_is_source());
        }
        let output = OutputFile::create_in(place.directory)?;
        let report = run_engine(source, output.file(), &options, &control)?;
        publish_allowed(&stop)?;
        tracker.publishing();
        output.publish(&place.file_name, OUTPUT_MODE, Existing::Replace)?;
        Ok(report)
    })
    .await?;
    outcome(
        CompressOutcome { report, output_file: Some(name.to_owned()), output_image: None, digests: None },
        None,
    )
}

#[expect(clippy::too_many_arguments, reason = "one call, from the dispatcher above")]
async fn into_image(
    app: &Arc<App>,
    row: &JobRow,
    spec: &CompressSpec,
    source: OpenSource,
    (derived_from, output): (ImageId, ImageId),
    options: &CompressOptions,
    stop: &Stop,
    tracker: &Tracker,
    control: Control,
) -> Result<JobOutcome> {
    let output_place = ImageOutput::place(app, output, row.attempt, source.storage.allocated_bytes()).await?;
    let options = options.clone();
    let write = move |file: &File, control: &Control| run_engine(source, file, &options, control);
    let (report, made) = output_place.make(app, (stop, tracker, control), write).await?;
    let digests = made.digests.clone();
    let image = ImageOf {
        id: output,
        tenant: row.tenant.clone(),
        label: spec.output_label.clone(),
        details: ImageDetails::default(),
        derived_from: Some(derived_from),
        companion: None,
        quarantine: None,
    };
    let image = stored::image(image, made.into_bytes("qcow2", report.virtual_size_bytes), now());
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

fn outcome(outcome: CompressOutcome, image: Option<ImageRow>) -> Result<JobOutcome> {
    let result = serde_json::to_string(&outcome).map_err(Failure::internal)?;
    Ok(JobOutcome::Succeeded { result, image, replica: None })
}

/// The output's name cannot be used.
pub fn invalid_output() -> Failure {
    let message = "the output must be a name below the image root, in a directory that exists";
    Failure::invalid_as(reason::INVALID_OUTPUT_FILE, "output_file", message)
}

/// The output would replace its own source.
pub fn output_is_source() -> Failure {
    let message = "the output is the source itself; choose another name";
    Failure::invalid_as(reason::OUTPUT_IS_SOURCE, "output_file", message)
}
