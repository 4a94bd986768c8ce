//! The crash and fault tests: one after another, at a scale, against a server that can be stopped at named places.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, Run as _};
use crate::suites::libtest;
use crate::tally::Counts;
use crate::tools;
use crate::workspace::Workspace;

/// Head of the table of figures; `docs/reliability.md` has the same.
const HEAD: &str = "| test | scale | what came of it | seconds | seed |\n| --- | --- | --- | ---: | ---: |";

/// How much of which tests.
pub(crate) struct Plan<'a> {
    /// Names of tests, or parts of them; all when there are none.
    pub(crate) only: &'a [String],
    /// Per cent of the kills, sizes and cases of a full run.
    pub(crate) scale_percent: u32,
    /// Where chance begins; each test takes its own when there is none.
    pub(crate) seed: Option<u64>,
    /// Whether the programs are those that are shipped.
    pub(crate) release: bool,
}

/// What `cargo xtask test` runs.
pub(crate) const SMALL: Plan<'static> = Plan { only: &[], scale_percent: 1, seed: None, release: false };

pub(crate) fn run(workspace: &Workspace, plan: &Plan<'_>) -> Result<Counts> {
    let fail_point_server = build_with_fail_points(workspace, plan.release)?;
    let figures = workspace.target.join("torture-figures.md");
    fs::write(&figures, "").with_context(|| format!("cannot write {}", figures.display()))?;
    let mut command = process::command("cargo");
    command
        .args(["test", "--workspace", "--locked", "--test", "torture"])
        .args(plan.release.then_some("--release"))
        .arg("--")
        // Together they would take each other's time and disk.
        .args(["--test-threads=1", "--show-output"])
        .args(plan.only)
        .current_dir(&workspace.root)
        .env("IMAGEOPS_FAIL_POINT_SERVER", fail_point_server)
        .env("IMAGEOPS_TEST_S3", tools::s3s_fs(workspace)?)
        .env("IMAGEOPS_TORTURE_FIGURES", &figures)
        .env("IMAGEOPS_TORTURE_SCALE", plan.scale_percent.to_string());
    if let Some(seed) = plan.seed {
        command.env("IMAGEOPS_TEST_SEED", seed.to_string());
    }
    let counts = libtest::run(&mut command)?;
    let rows = fs::read_to_string(&figures).with_context(|| format!("cannot read {}", figures.display()))?;
    println!("\n{HEAD}\n{rows}");
    Ok(counts)
}

/// A second server, beside the first. Both share all that was built for the first but the two crates with fail points.
fn build_with_fail_points(workspace: &Workspace, release: bool) -> Result<PathBuf> {
    let beside = workspace.target.join("fail-points");
    let built = process::command("cargo")
        .args(["build", "--workspace", "--locked", "--features", "imageops-server/fail-points"])
        // With a test, the dependencies have the features that tests want: those that the first was built with.
        .args(["--bin", "imageops-server", "--test", "torture"])
        .args(release.then_some("--release"))
        .current_dir(&workspace.root)
        .env("CARGO_BUILD_BUILD_DIR", &workspace.target)
        .env("CARGO_TARGET_DIR", &beside)
        .succeeds()?;
    ensure!(built, "the server with fail points does not build");
    let profile = if release { "release" } else { "debug" };
    Ok(beside.join(profile).join("imageops-server"))
}
