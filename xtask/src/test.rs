//! `cargo xtask test`: installs, builds once, runs every suite, counts.

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::process::{self, Run as _};
use crate::tally::{Counts, Tally};
use crate::workspace::Workspace;
use crate::{checks, debian, images, suites};

/// Options of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Options {
    /// As continuous integration runs it: the checks of `cargo xtask check` first, and nothing may be skipped.
    #[arg(long)]
    ci: bool,
    /// Runs only these suites.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Suite::Rust, Suite::Fuzz, Suite::Edgegallery, Suite::Go, Suite::Torture])]
    suite: Vec<Suite>,
    /// Runs only Rust tests whose names contain one of these, and no other suite.
    filters: Vec<String>,
}

/// A body of tests with a runner of its own.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// All tests of the Rust workspace, the end-to-end tests among them.
    Rust,
    /// The fuzz targets, on their seeds and on changes of them that are the same at each run.
    Fuzz,
    /// The checklist of the legacy contract, against a server started for it.
    Edgegallery,
    /// The Go module, against a server that its test starts.
    Go,
    /// The crash and fault tests, at one per cent of a full run.
    Torture,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Fuzz => "fuzz",
            Self::Edgegallery => "edgegallery",
            Self::Go => "go",
            Self::Torture => "torture",
        }
    }

    fn run(self, workspace: &Workspace, options: &Options) -> Result<Counts> {
        match self {
            Self::Rust => suites::rust::run(workspace, &options.filters),
            Self::Fuzz => suites::fuzz::run(workspace),
            Self::Edgegallery => suites::edgegallery::run(workspace),
            Self::Go => suites::go::run(workspace),
            Self::Torture => suites::torture::run(workspace, &suites::torture::SMALL),
        }
    }
}

/// Whether all passed; with `--ci`, whether also nothing was skipped.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let mut tally = Tally::default();
    debian::install_missing(debian::FOR_TESTS)?;
    debian::install_missing(debian::FOR_FUZZ)?;
    if options.ci {
        checks::run_all(workspace, &mut tally);
    }
    let built = time(&mut tally, "build", || {
        build(workspace, &["--lib", "--bins", "--tests"], false).map(Counts::one)
    });
    if built.failed == 0 {
        let made = time(&mut tally, "images", || {
            images::make(workspace, images::Size::Small).map(|_| Counts::one(true))
        });
        if made.failed == 0 {
            for suite in
                options.suite.iter().filter(|suite| options.filters.is_empty() || **suite == Suite::Rust)
            {
                time(&mut tally, suite.name(), || suite.run(workspace, options));
            }
        }
    }
    tally.print();
    let total = tally.total();
    Ok(total.failed == 0 && (!options.ci || total.skipped == 0))
}

/// Runs one suite. One that cannot be run counts as failed, and the others still run.
pub(crate) fn time(tally: &mut Tally, name: &str, run: impl FnOnce() -> Result<Counts>) -> Counts {
    println!("\n=== {name}");
    let start = Instant::now();
    let counts = run().unwrap_or_else(|error| {
        eprintln!("error: {name}: {error:#}");
        Counts::one(false)
    });
    tally.add(name, counts, start.elapsed());
    counts
}

/// Builds programs and tests in one go: both then share every dependency, built once with the same features.
pub(crate) fn build(workspace: &Workspace, targets: &[&str], release: bool) -> Result<bool> {
    process::command("cargo")
        .args(["build", "--workspace", "--locked"])
        .args(targets)
        .args(release.then_some("--release"))
        .current_dir(&workspace.root)
        .succeeds()
}
