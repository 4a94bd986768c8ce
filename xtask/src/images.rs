//! The images that tests and benchmarks read, made once per version of their generator.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::process::{self, Run as _};
use crate::workspace::Workspace;

/// Which set.
#[derive(Clone, Copy)]
pub(crate) enum Size {
    /// Small images of every sort, a minute and some 100 MB.
    Small,
    /// Images as large as real guests, ten minutes and some 15 GB.
    Full,
}

impl Size {
    fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Full => "full",
        }
    }

    /// Where a set that is there already can be named, so that nothing is made.
    fn variable(self) -> &'static str {
        match self {
            Self::Small => "IMAGEOPS_TEST_IMAGES",
            Self::Full => "IMAGEOPS_FULL_IMAGES",
        }
    }
}

/// The directory of the set, made when it is not there.
pub(crate) fn make(workspace: &Workspace, size: Size) -> Result<PathBuf> {
    let directory = directory(workspace, size)?;
    // The generator writes the manifest last: with it, the set is whole.
    if !directory.join("manifest.json").exists() {
        process::command(workspace.root.join("tests/images/make-images.sh"))
            .arg(&directory)
            .arg(size.name())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .check()?;
    }
    Ok(directory)
}

/// Where the set is or will be: named by what makes it, so that a changed generator makes a new one.
pub(crate) fn directory(workspace: &Workspace, size: Size) -> Result<PathBuf> {
    if let Some(given) = env::var_os(size.variable()).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(given));
    }
    let mut hasher = DefaultHasher::new();
    for name in ["make-images.sh", "imgtool.py"] {
        let path = workspace.root.join("tests/images").join(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?.hash(&mut hasher);
    }
    Ok(workspace.target.join("images").join(format!("{}-{:016x}", size.name(), hasher.finish())))
}
