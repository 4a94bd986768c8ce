//! `imageops convert`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use imageops_image::Control;
use imageops_image::compress::CompressOptions;
use imageops_image::convert::{ConvertOptions, convert_to_raw};
use imageops_image::format::Format;
use serde::Serialize;

use crate::args::{FormatName, Global};
use crate::compress::{self, compress_file};
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{Facts, Form, count, print, print_json, rate, size, size_exact, span};
use crate::target::Target;
use crate::view::Converted;

/// What to convert.
#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The image, raw or qcow2; it is never changed.
    #[arg(value_name = "IN", value_hint = ValueHint::FilePath)]
    source: PathBuf,

    /// The file to write; an existing one is replaced when all is done.
    #[arg(value_name = "OUT", value_hint = ValueHint::FilePath)]
    target: PathBuf,

    /// Format of OUT; qcow2 is written compressed.
    #[arg(long, value_enum)]
    format: FormatName,

    /// Format of IN; without it the content decides.
    #[arg(long, value_enum, value_name = "FORMAT")]
    source_format: Option<FormatName>,

    /// Threads that convert; without it one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,

    /// Do not read the output back before it gets its name.
    #[arg(long)]
    no_verify: bool,
}

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    source: &'a str,
    output: &'a str,
    #[serde(flatten)]
    result: &'a Converted,
    seconds: f64,
}

/// Converts an image and prints what it came to.
pub(crate) async fn run(global: &Global, arguments: &ConvertArgs) -> Result<Exit, Failure> {
    if global.server().is_some() {
        let failure = Failure::new("convert is for local files");
        return Err(failure.advise("leave out --server, or unset IMAGEOPS_SERVER"));
    }
    match arguments.format {
        FormatName::Raw => to_raw(global.output, arguments).await?,
        FormatName::Qcow2 => to_qcow2(global.output, arguments).await?,
    }
    Ok(Exit::Success)
}

async fn to_raw(form: Form, arguments: &ConvertArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let (source, target) = (arguments.source.clone(), arguments.target.clone());
    let format = arguments.source_format.map(Format::from);
    let options = ConvertOptions {
        threads: arguments.threads.unwrap_or(0).into(),
        verify: !arguments.no_verify,
        ..ConvertOptions::default()
    };
    let result = local::run(move |control| convert_file(&source, &target, format, &options, control)).await?;
    print_result(form, arguments, &result, start.elapsed())
}

/// The way of compress with everything kept.
async fn to_qcow2(form: Form, arguments: &ConvertArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let (source, target) = (arguments.source.clone(), arguments.target.clone());
    let format = arguments.source_format.map(Format::from);
    let options = CompressOptions {
        threads: arguments.threads.unwrap_or(0).into(),
        verify: !arguments.no_verify,
        drop_free: false,
        ..CompressOptions::default()
    };
    let result =
        local::run(move |control| compress_file(&source, &target, format, &options, control)).await?;
    let output = arguments.target.display().to_string();
    compress::print_result(form, &arguments.source, &output, &result, start.elapsed())
}

fn convert_file(
    source: &Path,
    target: &Path,
    format: Option<Format>,
    options: &ConvertOptions,
    control: &Control,
) -> Result<Converted, Failure> {
    let storage = local::open(source)?;
    let target_file = Target::create(target, Some(source))?;
    let report = convert_to_raw(storage, format, target_file.file(), options, control)
        .map_err(|error| Failure::from(error).of(source.display()))?;
    // The last chance to stop: after this the file is there.
    control.check_cancelled()?;
    target_file.publish()?;
    Ok(report.into())
}

fn print_result(
    form: Form,
    arguments: &ConvertArgs,
    result: &Converted,
    elapsed: Duration,
) -> Result<(), Failure> {
    if form == Form::Json {
        return print_json(&Document {
            source: &arguments.source.to_string_lossy(),
            output: &arguments.target.to_string_lossy(),
            result,
            seconds: elapsed.as_secs_f64(),
        });
    }
    let mut facts = Facts::default();
    facts.add("output", arguments.target.to_string_lossy());
    let mut time = span(elapsed);
    if let Some(rate) = rate(result.virtual_size, elapsed) {
        time += &format!(", {rate} of the guest's disk");
    }
    facts.add("time", time);
    facts.add("source format", &result.source_format);
    facts.add("virtual size", size_exact(result.virtual_size));
    facts.add("before", size_exact(result.source_bytes));
    facts.add("data", size(result.data_bytes));
    facts.add("on disk", size(result.allocated_bytes));
    if result.snapshots_left_out > 0 {
        facts.add("left out", count(result.snapshots_left_out, "internal snapshot"));
    }
    facts.add("verified", if result.verified { "yes, read back and compared" } else { "no" });
    facts.add("content proof", &result.content_proof);
    print(&facts.render())
}
