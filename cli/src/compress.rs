//! `imageops compress`.

use std::path::Path;
use std::time::{Duration, Instant};

use imageops::v1::{self, source};
use imageops_image::compress::CompressOptions;
use imageops_image::format::Format;
use imageops_image::guest::ExtraGains;
use serde::Serialize;

use crate::args::{CompressArgs, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, count, print, print_json, rate, size, size_exact, span};
use crate::target::Target;
use crate::view::{Compressed, add_extra, parts_table};
use crate::{asked, dry_run, in_place, local, server};

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    source: &'a str,
    output: &'a str,
    #[serde(flatten)]
    result: &'a Compressed,
    seconds: f64,
}

/// Compresses an image and prints what it came to.
pub(crate) async fn run(global: &Global, arguments: &CompressArgs) -> Result<Exit, Failure> {
    arguments.check_coder()?;
    if arguments.in_place {
        return in_place::run(global, arguments).await;
    }
    if arguments.dry_run {
        return dry_run::run(global, arguments).await;
    }
    let start = Instant::now();
    let (output, result) = match global.server() {
        Some(_) => through_server(global, arguments).await?,
        None => here(arguments).await?,
    };
    print_result(global.output, &arguments.source, &output, &result, start.elapsed())?;
    Ok(Exit::Success)
}

async fn here(arguments: &CompressArgs) -> Result<(String, Compressed), Failure> {
    let Some(target) = arguments.target.clone() else {
        return Err(Failure::new("OUT is missing").advise("name the file to write"));
    };
    let source = arguments.source.clone();
    let format = arguments.format.map(Format::from);
    let options = arguments.options();
    let output = target.display().to_string();
    let result =
        local::run(move |control| compress_file(&source, &target, format, &options, control)).await?;
    Ok((output, result))
}

/// Compresses a file into another.
pub(crate) fn compress_file(
    source: &Path,
    target: &Path,
    format: Option<Format>,
    options: &CompressOptions,
    control: &imageops_image::Control,
) -> Result<Compressed, Failure> {
    let storage = local::open(source)?;
    let target_file = Target::create(target, Some(source))?;
    let report = imageops_image::compress::compress(storage, format, target_file.file(), options, control)
        .map_err(|error| Failure::from(error).of(source.display()))?;
    // The last chance to stop: after this the file is there.
    control.check_cancelled()?;
    target_file.publish()?;
    let mut compressed = Compressed::from(report);
    // Nobody who did not ask for more needs to know that it is 0.
    compressed.extra_dropped_bytes.take_if(|_| options.extra == ExtraGains::default());
    Ok(compressed)
}

async fn through_server(global: &Global, arguments: &CompressArgs) -> Result<(String, Compressed), Failure> {
    let source = server::source(&arguments.source)?;
    let target = arguments.target.as_deref().map(server::text).transpose()?;
    let mut request = asked::request(arguments, source)?;
    let kind = request.source.as_ref().and_then(|source| source.source.as_ref());
    match (kind, target) {
        (Some(source::Source::Image(_)), target) => request.output_display_name = target.unwrap_or_default(),
        (_, Some(target)) => request.output_file = target,
        (_, None) => {
            let failure = Failure::new("OUT is missing");
            return Err(failure.advise("name the file to write below the server's image root"));
        }
    }
    let client = server::connect(global)?;
    let job = server::call(client.compress(request)).await?;
    let job = server::run_job(&client, job).await?;
    let has_extra = asked::has_extra(&job);
    match job.result {
        Some(v1::job::Result::Compress(result)) => {
            let output = if result.output_image.is_empty() {
                result.output_file.clone()
            } else {
                result.output_image.clone()
            };
            Ok((output, Compressed::of(result, has_extra)))
        }
        _ => Err(Failure::new(format!("{}: the job succeeded without a result", job.name))),
    }
}

/// Prints a result in the form that is wanted.
pub(crate) fn print_result(
    form: Form,
    source: &Path,
    output: &str,
    result: &Compressed,
    elapsed: Duration,
) -> Result<(), Failure> {
    if form == Form::Json {
        let source = source.to_string_lossy();
        return print_json(&Document { source: &source, output, result, seconds: elapsed.as_secs_f64() });
    }
    let mut facts = Facts::default();
    facts.add("output", output);
    let mut time = span(elapsed);
    if let Some(rate) = rate(result.virtual_size, elapsed) {
        time += &format!(", {rate} of the guest's disk");
    }
    facts.add("time", time);
    print(&(facts.render() + &text(result)))
}

/// The result for people.
pub(crate) fn text(result: &Compressed) -> String {
    let mut facts = Facts::default();
    facts.add_some("source format", result.source_format.as_deref());
    facts.add("virtual size", size_exact(result.virtual_size));
    facts.add("before", size_exact(result.source_bytes));
    let share = match result.source_bytes {
        0 => String::new(),
        before => format!(", {:.1} % of it", result.output_bytes as f64 * 100.0 / before as f64),
    };
    facts.add("after", size_exact(result.output_bytes) + &share);
    facts.add("data", size(result.data_bytes));
    if result.copied_bytes > 0 {
        facts.add("copied as packed", size(result.copied_bytes));
    }
    if result.shared_bytes > 0 {
        facts.add("shared", size(result.shared_bytes));
    }
    facts.add("zeros left out", size(result.zero_bytes));
    facts.add(
        "freed, dropped",
        size(result.dropped_bytes.saturating_sub(result.extra_dropped_bytes.unwrap_or(0))),
    );
    add_extra(&mut facts, result.extra_dropped_bytes, result.gaps.as_ref());
    if result.snapshots_left_out > 0 {
        facts.add("left out", count(result.snapshots_left_out, "internal snapshot"));
    }
    facts.add("verified", if result.verified { "yes, read back and compared" } else { "no" });
    facts.add("content proof", &result.content_proof);
    if let Some(digests) = &result.digests {
        facts.add_some("md5", digests.md5.as_deref());
        facts.add_some("sha256", digests.sha256.as_deref());
    }
    for reason in &result.kept {
        facts.add("kept because", reason.line());
    }
    facts.render() + &parts_table(&result.parts)
}
