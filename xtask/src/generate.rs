//! `cargo xtask generate`: what is generated and checked in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::process::{self, Run as _};
use crate::tools;
use crate::workspace::Workspace;

/// The generated package, below the root and below the generator's output directory alike.
const GO_PACKAGE: &str = "client/go/imageopsv1";

/// Descriptors of the contract as clients in the field know it.
pub(crate) const BASELINE: &str = "proto/imageops/v1/baseline.binpb";

/// Options of `cargo xtask generate`.
#[derive(Args)]
pub(crate) struct Options {
    /// Also takes today's contract as the baseline that later changes are compared with: when a release is made.
    #[arg(long)]
    baseline: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let fresh = generate_go(workspace)?;
    let package = workspace.root.join(GO_PACKAGE);
    if package.exists() {
        fs::remove_dir_all(&package).with_context(|| format!("cannot remove {GO_PACKAGE}"))?;
    }
    fs::create_dir_all(&package).with_context(|| format!("cannot make {GO_PACKAGE}"))?;
    for (name, content) in &fresh {
        fs::write(package.join(name), content)
            .with_context(|| format!("cannot write {GO_PACKAGE}/{name}"))?;
    }
    println!("{GO_PACKAGE}: {} files", fresh.len());
    if options.baseline {
        process::command(tools::buf(workspace)?)
            .args(["build", "--as-file-descriptor-set", "--exclude-source-info", "-o", BASELINE])
            .current_dir(&workspace.root)
            .check()?;
        println!("{BASELINE}: taken anew");
    }
    Ok(true)
}

/// Whether the checked-in Go code is what the contract generates.
pub(crate) fn go_is_fresh(workspace: &Workspace) -> Result<bool> {
    let fresh = generate_go(workspace)?;
    let kept = read_files(&workspace.root.join(GO_PACKAGE))?;
    let names: std::collections::BTreeSet<_> = fresh.keys().chain(kept.keys()).collect();
    let stale: Vec<_> = names.into_iter().filter(|name| fresh.get(*name) != kept.get(*name)).collect();
    for name in &stale {
        println!("{GO_PACKAGE}/{name} is not what the contract generates; run cargo xtask generate");
    }
    Ok(stale.is_empty())
}

/// The generated Go files by name, made in a directory of their own.
fn generate_go(workspace: &Workspace) -> Result<BTreeMap<String, Vec<u8>>> {
    let output = workspace.target.join("generated");
    if output.exists() {
        fs::remove_dir_all(&output).with_context(|| format!("cannot remove {}", output.display()))?;
    }
    // The plugins are started as `go tool NAME`, by the go that was found for us.
    let go = tools::go(workspace)?;
    let directory = go.parent().map(|parent| parent.display().to_string()).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    process::command(tools::buf(workspace)?)
        .arg("generate")
        .arg("--output")
        .arg(&output)
        .current_dir(&workspace.root)
        .env("PATH", format!("{directory}:{path}"))
        .check()?;
    read_files(&output.join(GO_PACKAGE))
}

fn read_files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.insert(name, content);
    }
    Ok(files)
}
