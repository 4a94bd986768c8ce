//! What makes two names the same file.

use std::os::fd::AsFd;

use rustix::fs::{self as sys, AtFlags, Stat};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// Device and inode: the same for all names and handles of a file, as long as one of them is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(file: impl AsFd) -> Result<Self> {
        Ok((&sys::fstat(file)?).into())
    }

    /// Of a directory entry, links not followed; `None` when there is none.
    pub(crate) fn of_entry(directory: impl AsFd, name: impl Arg) -> Result<Option<Self>> {
        match sys::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(entry) => Ok(Some((&entry).into())),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<&Stat> for FileId {
    fn from(entry: &Stat) -> Self {
        Self { device: entry.st_dev, inode: entry.st_ino }
    }
}
