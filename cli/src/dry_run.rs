//! `imageops compress --dry-run`.

use std::path::Path;

use imageops_image::Control;
use imageops_image::compress::{CompressOptions, DryRun, dry_run};
use imageops_image::format::{self, Format};
use serde::Serialize;

use crate::args::{CompressArgs, Global};
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{Facts, Form, print, print_json, size, size_exact};
use crate::view::{Part, Reason, parts_table};

/// The JSON form. What it shares with the result of a compression has the same names.
#[derive(Serialize)]
struct Document<'a> {
    source: &'a str,
    source_format: String,
    virtual_size: u64,
    stored_bytes: u64,
    dropped_bytes: u64,
    kept_bytes: u64,
    output_bytes_estimate: u64,
    kept_clusters: u64,
    sampled_clusters: u64,
    parts: Vec<Part>,
    kept: Vec<Reason>,
}

/// Prints what a compression would do.
pub(crate) async fn run(global: &Global, arguments: &CompressArgs) -> Result<Exit, Failure> {
    if global.server().is_some() {
        let failure = Failure::new("--dry-run is for local files");
        return Err(failure.advise("leave out --server, or unset IMAGEOPS_SERVER"));
    }
    let source = arguments.source.clone();
    let format = arguments.format.map(Format::from);
    let options = arguments.options();
    let (format, told) = local::run(move |control| look(&source, format, &options, control)).await?;
    let estimate = told.estimate;
    let document = Document {
        source: &arguments.source.to_string_lossy(),
        source_format: format.to_string(),
        virtual_size: estimate.virtual_size_bytes,
        stored_bytes: estimate.stored_bytes,
        dropped_bytes: estimate.dropped_bytes,
        kept_bytes: estimate.stored_bytes.saturating_sub(estimate.dropped_bytes),
        output_bytes_estimate: told.output_bytes_estimate,
        kept_clusters: told.kept_clusters,
        sampled_clusters: told.sampled_clusters,
        parts: estimate.parts.into_iter().map(Part::from).collect(),
        kept: estimate.kept.into_iter().map(Reason::from).collect(),
    };
    match global.output {
        Form::Json => print_json(&document)?,
        Form::Table => print(&text(&document))?,
    }
    Ok(Exit::Success)
}

fn look(
    source: &Path,
    format: Option<Format>,
    options: &CompressOptions,
    control: &Control,
) -> Result<(Format, DryRun), Failure> {
    let failed = |error: imageops_image::Error| Failure::from(error).of(source.display());
    let image = format::open(local::open(source)?, format).map_err(failed)?;
    Ok((image.format, dry_run(&image, options, control).map_err(failed)?))
}

fn text(document: &Document<'_>) -> String {
    let mut facts = Facts::default();
    facts.add("image", document.source);
    facts.add("source format", &document.source_format);
    facts.add("virtual size", size_exact(document.virtual_size));
    facts.add("stored", size_exact(document.stored_bytes));
    facts.add("freed, dropped", size_exact(document.dropped_bytes));
    facts.add("kept", size_exact(document.kept_bytes));
    let sample = if document.sampled_clusters == document.kept_clusters {
        "all of it was packed to see".to_owned()
    } else {
        format!("an estimate from {} of {} clusters", document.sampled_clusters, document.kept_clusters)
    };
    facts.add("output, about", format!("{}, {sample}", size(document.output_bytes_estimate)));
    for reason in &document.kept {
        facts.add("kept because", reason.line());
    }
    facts.render() + &parts_table(&document.parts)
}
