//! `cargo xtask torture`: the crash and fault tests of docs/reliability.md, in full or in part.

use anyhow::Result;
use clap::Args;

use crate::debian;
use crate::suites::torture::{self, Plan};
use crate::tally::Tally;
use crate::test::{build, time};
use crate::workspace::Workspace;

/// Options of `cargo xtask torture`.
#[derive(Args)]
pub(crate) struct Options {
    /// Runs this test alone, or these when given again: rel_01, rel_02, …
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Per cent of the kills, sizes and cases of a full run.
    #[arg(long, default_value_t = 100, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    scale: u32,
    /// Runs the programs as they are shipped: sooner done. Continuous integration has those with all assertions.
    #[arg(long)]
    release: bool,
    /// Begins chance here, as a failed test has printed it; by default anew.
    #[arg(long)]
    seed: Option<u64>,
}

/// Whether all passed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    debian::install_missing(debian::FOR_TESTS)?;
    // Of the tests these alone: the others are many, and take their time in a release.
    if !build(workspace, &["--bins", "--test", "torture"], options.release)? {
        return Ok(false);
    }
    let mut tally = Tally::default();
    let plan = Plan {
        only: &options.only,
        scale_percent: options.scale,
        seed: options.seed,
        release: options.release,
    };
    time(&mut tally, "torture", || torture::run(workspace, &plan));
    tally.print();
    Ok(tally.total().failed == 0)
}
