//! `cargo xtask bench`: our compress and check beside the tools people use today, interleaved in one run.
//!
//! Each round runs every contender once, so that a machine that slows down slows all of them; medians are compared.

mod contenders;
mod measure;
mod report;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use self::contenders::{Contender, Group};
use self::measure::Run;
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
    /// Image of the full set that is measured.
    #[arg(long, default_value = "debian-ext4.qcow2")]
    image: String,
    /// Directory for the outputs; on the medium that is to be measured.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Runs only contenders whose names contain this, or one of these when given again; docs/benchmarks.md is then not written.
    #[arg(long)]
    only: Vec<String>,
}

/// What the runs of one contender came to.
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    pub(crate) runs: Vec<Run>,
    /// A run ended badly: its figures mean nothing.
    failed: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    debian::install_missing(debian::FOR_TESTS)?;
    debian::install_missing(debian::FOR_BENCH)?;
    build(workspace)?;
    let source = images::make(workspace, Size::Full)?.join(&options.image);
    ensure!(source.is_file(), "the full image set has no {}", options.image);
    let scratch = options.scratch.clone().unwrap_or_else(|| workspace.target.join("bench"));
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;

    let imageops = workspace.binary("release", "imageops");
    let mut measured: Vec<Measured> = contenders::all(&imageops)
        .into_iter()
        .filter(|contender| {
            options.only.is_empty() || options.only.iter().any(|part| contender.name.contains(part))
        })
        .filter(is_installed)
        .map(|contender| Measured { contender, runs: Vec::new(), failed: false })
        .collect();
    if measured.is_empty() {
        bail!("nothing to run: --only names no contender");
    }
    warm(&source)?;
    for round in 1..=options.rounds {
        for one in &mut measured {
            let run = match measure::run(&one.contender, &source, &scratch) {
                Ok(run) => run,
                // A peer that does not work on this machine must not cost the figures of the others.
                Err(error) if !one.contender.is_ours() => {
                    println!("round {round}: {} FAILED: {error:#}", one.contender.name);
                    one.failed = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            println!(
                "round {round}: {:40} {:8.2} s {:8} KiB",
                one.contender.name, run.wall_seconds, run.peak_kib
            );
            one.runs.push(run);
        }
    }
    measured.retain(|one| !one.failed);
    let text = report::markdown(&report::Subject::describe(&source, options.rounds, &imageops)?, &measured);
    println!("\n{text}");
    if options.only.is_empty() {
        let path = workspace.root.join("docs/benchmarks.md");
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(true)
}

fn build(workspace: &Workspace) -> Result<()> {
    process::command("cargo")
        .args(["build", "--release", "--locked", "-p", "imageops-cli"])
        .current_dir(&workspace.root)
        .check()
}

/// A peer that is not there is said to be missing, and its row is left out.
fn is_installed(contender: &Contender) -> bool {
    let program = &contender.words[0];
    let found = program.contains('/') || process::find(program).is_some();
    if !found {
        let package = if contender.group == Group::Compress { "guestfs-tools and a kernel" } else { "it" };
        println!("SKIPPED: {}: {program} is not installed; install {package} to see its row", contender.name);
    }
    found
}

/// Reads the source once, so that every contender finds it in the page cache.
fn warm(source: &Path) -> Result<()> {
    let mut file = fs::File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
    std::io::copy(&mut file, &mut std::io::sink())
        .with_context(|| format!("cannot read {}", source.display()))?;
    Ok(())
}

/// The first line that a program prints about its version.
fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = process::command(program);
    let text = command.args(arguments).env("LIBGUESTFS_BACKEND", "direct").capture().ok()?;
    text.lines().next().map(str::to_owned)
}
