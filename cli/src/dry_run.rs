//! `imageops compress --dry-run`.

use std::path::Path;

use imageops::v1;
use imageops_image::Control;
use imageops_image::compress::{CompressOptions, DryRun, dry_run};
use imageops_image::format::{self, Format};
use serde::Serialize;

use crate::args::{CompressArgs, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, print, print_json, size, size_exact};
use crate::view::{Estimate, add_extra, parts_table};
use crate::{asked, local, server};

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    source: &'a str,
    #[serde(flatten)]
    told: &'a Estimate,
}

/// Prints what a compression would do.
pub(crate) async fn run(global: &Global, arguments: &CompressArgs) -> Result<Exit, Failure> {
    let told = match global.server() {
        Some(_) => through_server(global, arguments).await?,
        None => here(arguments).await?,
    };
    let source = &arguments.source.to_string_lossy();
    match global.output {
        Form::Json => print_json(&Document { source, told: &told })?,
        Form::Table => {
            let mut facts = Facts::default();
            facts.add("image", source);
            print(&(facts.render() + &text(&told)))?;
        }
    }
    Ok(Exit::Success)
}

async fn here(arguments: &CompressArgs) -> Result<Estimate, Failure> {
    let source = arguments.source.clone();
    let format = arguments.format.map(Format::from);
    let options = arguments.options();
    let (format, told) = local::run(move |control| look(&source, format, &options, control)).await?;
    let mut estimate = Estimate::new(format, told);
    // Nobody who did not ask for more needs to know that it is 0.
    estimate.extra_dropped_bytes.take_if(|_| !arguments.extra.any());
    Ok(estimate)
}

async fn through_server(global: &Global, arguments: &CompressArgs) -> Result<Estimate, Failure> {
    let request = asked::request(arguments, server::source(&arguments.source)?)?;
    let client = server::connect(global)?;
    let job = server::call(client.estimate_compression(asked::estimate(request))).await?;
    let job = server::run_job(&client, job).await?;
    let has_extra = asked::has_extra(&job);
    match job.result {
        Some(v1::job::Result::Estimate(told)) => Ok(Estimate::of(told, has_extra)),
        _ => Err(Failure::new(format!("{}: the job succeeded without a result", job.name))),
    }
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

/// The figures for people.
pub(crate) fn text(told: &Estimate) -> String {
    let mut facts = Facts::default();
    facts.add_some("source format", told.source_format.as_deref());
    facts.add("virtual size", size_exact(told.virtual_size));
    facts.add("stored", size_exact(told.stored_bytes));
    let extra = told.extra_dropped_bytes;
    facts.add("freed, dropped", size_exact(told.dropped_bytes.saturating_sub(extra.unwrap_or(0))));
    add_extra(&mut facts, extra, told.gaps.as_ref());
    facts.add("kept", size_exact(told.kept_bytes));
    let sample = if told.sampled_clusters == told.kept_clusters {
        "all of it was packed to see".to_owned()
    } else {
        format!("an estimate from {} of {} clusters", told.sampled_clusters, told.kept_clusters)
    };
    facts.add("output, about", format!("{}, {sample}", size(told.output_bytes_estimate)));
    for reason in &told.kept {
        facts.add("kept because", reason.line());
    }
    facts.render() + &parts_table(&told.parts)
}
