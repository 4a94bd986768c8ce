//! `cargo xtask bench --service`: the running service beside Glance and nginx, its memory, and how both grow.

mod curve;
mod figures;
mod report;

use std::path::PathBuf;

use anyhow::Result;

use super::{Options, write};
use crate::debian;
use crate::process::{self, Run as _};
use crate::tools;
use crate::workspace::Workspace;

/// Builds server and peers, and runs `benches/service`, which keeps the figures.
pub(super) fn measure(workspace: &Workspace, options: &Options) -> Result<()> {
    debian::install_missing(debian::FOR_TESTS)?;
    debian::install_missing(debian::FOR_SERVICE_BENCH)?;
    let glance = tools::glance(workspace)?;
    process::command("cargo")
        .args(["build", "--release", "--locked", "--workspace", "--bins"])
        .current_dir(&workspace.root)
        .check()?;
    let mut command = process::command("cargo");
    command
        .args(["bench", "--workspace", "--locked", "--bench", "service", "--"])
        .args(["--rounds", &options.rounds.to_string()])
        .arg("--glance")
        .arg(glance)
        .arg("--figures")
        .arg(kept(workspace))
        .current_dir(&workspace.root);
    for only in &options.only {
        command.args(["--only", only]);
    }
    command.check()
}

/// The service's part of the document; its pictures are written beside it.
pub(super) fn draw(workspace: &Workspace) -> Result<String> {
    let figures = figures::read(&kept(workspace))?;
    if !figures.curves.is_empty() {
        write(&workspace.root.join("docs/growth.svg"), &curve::draw(&figures.curves))?;
    }
    Ok(report::markdown(&figures))
}

fn kept(workspace: &Workspace) -> PathBuf {
    workspace.root.join("docs/benchmarks-service.json")
}
