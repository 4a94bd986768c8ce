//! `imageops compress --in-place`.

use std::fs::File;
use std::path::Path;

use imageops_image::Control;
use imageops_image::format::Format;
use imageops_image::guest::ExtraGains;
use imageops_image::in_place::{InPlaceReport, punch_file_with};
use serde::Serialize;

use crate::args::{CompressArgs, Global};
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{Facts, Form, print, print_json, size, size_exact};
use crate::view::{Gaps, Part, Reason, add_extra, parts_table};

/// The JSON form. What it shares with the result of a compression has the same names.
#[derive(Serialize)]
struct Document<'a> {
    source: &'a str,
    source_format: String,
    virtual_size: u64,
    before_bytes: u64,
    after_bytes: u64,
    dropped_bytes: u64,
    /// Of these, what is not free space; absent when no more was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_dropped_bytes: Option<u64>,
    left_bytes: u64,
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<Gaps>,
    kept: Vec<Reason>,
}

/// Gives back what the guest has freed, and prints what that came to.
pub(crate) async fn run(global: &Global, arguments: &CompressArgs) -> Result<Exit, Failure> {
    if global.server().is_some() {
        let failure = Failure::new("--in-place is for local files");
        return Err(failure.advise("leave out --server, or unset IMAGEOPS_SERVER"));
    }
    let source = arguments.source.clone();
    let format = arguments.format.map(Format::from);
    let extra = arguments.extra.gains();
    let report = local::run(move |control| punch(&source, format, extra, control)).await?;
    let document = Document {
        source: &arguments.source.to_string_lossy(),
        source_format: report.source_format.to_string(),
        virtual_size: report.virtual_size_bytes,
        before_bytes: report.before_bytes,
        after_bytes: report.after_bytes,
        dropped_bytes: report.dropped_bytes,
        extra_dropped_bytes: arguments.extra.any().then_some(report.extra_dropped_bytes),
        left_bytes: report.left_bytes,
        parts: report.parts.into_iter().map(Part::from).collect(),
        gaps: report.gaps.map(Gaps::from),
        kept: report.kept.into_iter().map(Reason::from).collect(),
    };
    match global.output {
        Form::Json => print_json(&document)?,
        Form::Table => print(&text(&document))?,
    }
    Ok(Exit::Success)
}

fn punch(
    path: &Path,
    format: Option<Format>,
    extra: ExtraGains,
    control: &Control,
) -> Result<InPlaceReport, Failure> {
    let failed = |error| Failure::io(path.display(), &error);
    // Opened once: the lock would be let go with the first descriptor that is closed.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let failure = Failure::new(format!("{}: is not a regular file", path.display()));
        return Err(failure.advise("name an image file"));
    }
    let file = File::options().read(true).write(true).open(path).map_err(failed)?;
    punch_file_with(file, format, extra, control).map_err(|error| Failure::from(error).of(path.display()))
}

fn text(document: &Document<'_>) -> String {
    let mut facts = Facts::default();
    facts.add("image", document.source);
    facts.add("format", &document.source_format);
    facts.add("virtual size", size_exact(document.virtual_size));
    facts.add("on disk before", size_exact(document.before_bytes));
    facts.add("on disk after", size_exact(document.after_bytes));
    let extra = document.extra_dropped_bytes;
    facts.add("freed, dropped", size_exact(document.dropped_bytes.saturating_sub(extra.unwrap_or(0))));
    add_extra(&mut facts, extra, document.gaps.as_ref());
    facts.add("freed, left", size(document.left_bytes));
    for reason in &document.kept {
        facts.add("kept because", reason.line());
    }
    facts.render() + &parts_table(&document.parts)
}
