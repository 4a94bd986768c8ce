//! Where things are: the checkout, the target directory, the built binaries.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{self, Run as _};

/// The checkout that this program was started from.
pub(crate) struct Workspace {
    /// Directory of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever the configuration puts it.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo. Works from any directory inside the checkout.
    pub(crate) fn locate() -> Result<Self> {
        // Cargo says it at run time; what was true when this was compiled may be another clone with the same target.
        let directory = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let metadata = metadata(&directory)?;
        let path = |member: &str| {
            metadata[member]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("cargo metadata has no {member}"))
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    /// A program of the workspace as `profile` (`debug`, `release`) built it.
    pub(crate) fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(profile).join(name)
    }

    /// A cargo command on the fuzz targets, which are a workspace of their own.
    pub(crate) fn fuzz(&self, task: &str) -> Command {
        let mut command = process::command("cargo");
        command.args([task, "--locked", "--manifest-path", "fuzz/Cargo.toml"]).current_dir(&self.root);
        // libFuzzer is C++ and takes a while: built once, beside all else.
        command.env("CARGO_TARGET_DIR", &self.target);
        command
    }

    /// The Go module.
    pub(crate) fn go_module(&self) -> PathBuf {
        self.root.join("client/go")
    }
}

/// What `cargo metadata` says about the members of the workspace; dependencies are not resolved.
pub(crate) fn metadata(directory: &Path) -> Result<serde_json::Value> {
    let output = process::command("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(directory)
        .capture()?;
    serde_json::from_str(&output).context("cargo metadata printed no JSON")
}
