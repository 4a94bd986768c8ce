//! The place of a store: the path that the operator named, and the directory that was found there.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf, absolute};

use rustix::fs::{self as sys, Mode, OFlags};
use rustix::io::Errno;

use super::failure;
use crate::file_id::FileId;
use crate::{Error, Result};

/// A directory that is held open, and the path that led to it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    directory: OwnedFd,
    id: FileId,
}

impl Place {
    /// Opens the directory in `path`; [`Error::Gone`] when there is none.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Later looks must not depend on the working directory.
        let path = absolute(path)?;
        let directory = open(&path)?;
        let id = FileId::of(&directory).map_err(failure)?;
        Ok(Self { path, directory, id })
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// [`Error::Gone`] when the path no longer leads to the directory: unmounted, also lazily, or exchanged. One call to
    /// the kernel.
    pub(super) fn check(&self) -> Result<()> {
        match sys::stat(&self.path) {
            Ok(found) if self.id == FileId::from(&found) => Ok(()),
            Ok(_) => Err(exchanged()),
            Err(error) => Err(missing(error)),
        }
    }

    /// The directory that the path leads to now, which is the one that was opened.
    pub(super) fn reopen(&self) -> Result<OwnedFd> {
        let directory = open(&self.path)?;
        if FileId::of(&directory).map_err(failure)? == self.id { Ok(directory) } else { Err(exchanged()) }
    }
}

/// The path itself may be a link, set by the operator; below it none is followed.
fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    sys::open(path, flags, Mode::empty()).map_err(missing)
}

fn missing(error: Errno) -> Error {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Error::Gone(
            "the directory of the store is missing; mount its file system, or name its place".to_owned(),
        ),
        error => failure(error),
    }
}

fn exchanged() -> Error {
    let sentence = "another directory is in the place of the store's; mount the file system of the store, or put the \
                    directory back";
    Error::Gone(sentence.to_owned())
}

/// Makes a directory and those above it that are missing, each durable in the one above.
pub fn make_directories(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    for made in missing {
        if let Some(above) = made.parent() {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            File::open(above)?.sync_all()?;
        }
    }
    Ok(())
}
