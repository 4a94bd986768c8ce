//! `cargo xtask bench`: our compress and check beside the tools people use today, interleaved in one run.
//!
//! Each round runs every contender once, so that a machine that slows down slows all of them; medians are compared.

mod contenders;
mod guests;
mod machine;
mod measure;
mod picture;
mod record;
mod report;
mod service;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::contenders::{Contender, Group};
use self::guests::{GUESTS, Guest};
use self::record::{Measurement, Row, Table};
use crate::debian;
use crate::images::{self, Size};
use crate::process::{self, Run as _};
use crate::workspace::Workspace;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// How often each contender runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Measures this guest alone, or these when given again; the figures of the others stay.
    #[arg(long, value_parser = GUESTS.map(|guest| guest.name))]
    guest: Vec<String>,
    /// Directory for the outputs; on the medium that is to be measured.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Runs only contenders whose names contain this, or one of these when given again; nothing is written then.
    #[arg(long)]
    only: Vec<String>,
    /// Measures the running service instead: uploads, downloads, lists, watches.
    #[arg(long)]
    service: bool,
    /// Measures nothing and draws the document and the picture anew from the kept figures.
    #[arg(long)]
    draw: bool,
}

/// A contender and what its runs have come to so far.
struct Entry {
    contender: Contender,
    row: Row,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let kept = workspace.root.join("docs/benchmarks.json");
    let mut all = record::read(&kept)?;
    if options.service {
        service::measure(workspace, options)?;
    } else if !options.draw {
        debian::install_missing(debian::FOR_TESTS)?;
        debian::install_missing(debian::FOR_BENCH)?;
        build(workspace)?;
        let set = images::make(workspace, Size::Full)?;
        let scratch = options.scratch.clone().unwrap_or_else(|| workspace.target.join("bench"));
        fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
        let imageops = workspace.binary("release", "imageops");
        let chosen =
            |guest: &&Guest| options.guest.is_empty() || options.guest.iter().any(|name| name == guest.name);
        for guest in GUESTS.iter().filter(chosen) {
            let image = guest.image(&set, &scratch)?;
            let measurement = measure_guest(guest, &image, &imageops, &scratch, options)?;
            println!("\n{}", report::section(&measurement));
            if options.only.is_empty() {
                record::replace(&mut all, measurement, &GUESTS.map(|guest| guest.name));
                record::write(&kept, &all)?;
            }
        }
    }
    if options.only.is_empty() {
        let service = service::draw(workspace)?;
        write(&workspace.root.join("docs/benchmarks.md"), &report::markdown(&service, &all))?;
        write(&workspace.root.join("docs/benchmarks.svg"), &picture::draw(&all))?;
    }
    Ok(true)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn measure_guest(
    guest: &Guest,
    image: &Path,
    imageops: &Path,
    scratch: &Path,
    options: &Options,
) -> Result<Measurement> {
    warm(image)?;
    let mut tables = Vec::new();
    for group in guest.groups {
        let entries = measure_group(*group, guest.name, image, imageops, scratch, options)?;
        if !entries.is_empty() {
            let rows = entries.into_iter().map(|entry| entry.row).collect();
            tables.push(Table { group: *group, rows });
        }
    }
    if tables.is_empty() {
        bail!("nothing to run: --only names no contender");
    }
    Ok(Measurement {
        guest: guest.name.to_owned(),
        title: guest.title.to_owned(),
        image: machine::image(image)?,
        machine: machine::describe(),
        versions: machine::versions(imageops),
        rounds: options.rounds,
        tables,
    })
}

fn measure_group(
    group: Group,
    guest: &str,
    image: &Path,
    imageops: &Path,
    scratch: &Path,
    options: &Options,
) -> Result<Vec<Entry>> {
    let wanted = |contender: &Contender| {
        options.only.is_empty() || options.only.iter().any(|part| contender.name.contains(part))
    };
    let contenders = contenders::of(group, imageops);
    let mut entries: Vec<Entry> = contenders.into_iter().filter(wanted).map(entry).collect();
    for round in 1..=options.rounds {
        for Entry { contender, row } in &mut entries {
            if row.missing.is_some() {
                continue;
            }
            match measure::run(contender, image, scratch) {
                Ok(run) => {
                    println!(
                        "{guest}, round {round}: {:40} {:8.2} s {:8} KiB",
                        contender.name, run.wall_seconds, run.peak_kib
                    );
                    row.runs.push(run);
                }
                // A peer that does not work on this machine must not cost the figures of the others; its own mean
                // nothing when one of its runs ended badly.
                Err(error) if !contender.is_ours() => {
                    println!("{guest}, round {round}: {} FAILED: {error:#}", contender.name);
                    row.missing = Some("failed on this machine".to_owned());
                    row.runs.clear();
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(entries)
}

/// A peer that is not there is said to be missing.
fn entry(contender: Contender) -> Entry {
    let program = &contender.words[0];
    let found = program.contains('/') || process::find(program).is_some();
    if !found {
        println!("SKIPPED: {}: {program} is not installed", contender.name);
    }
    let row = Row {
        name: contender.name.to_owned(),
        command: report::shown(&contender.words),
        runs: Vec::new(),
        missing: (!found).then(|| "not installed".to_owned()),
    };
    Entry { contender, row }
}

fn build(workspace: &Workspace) -> Result<()> {
    process::command("cargo")
        .args(["build", "--release", "--locked", "-p", "imageops-cli"])
        .current_dir(&workspace.root)
        .check()
}

/// Reads the image once, so that every contender finds it in the page cache.
fn warm(image: &Path) -> Result<()> {
    let mut file = fs::File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
    std::io::copy(&mut file, &mut std::io::sink())
        .with_context(|| format!("cannot read {}", image.display()))?;
    Ok(())
}
