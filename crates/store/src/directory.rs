//! A store in a directory.
//!
//! ```text
//! store      the stamp: what this directory is, and the store's id
//! lock       held by the one process that uses it
//! staging/   files that are being written, named by their key
//! blobs/     complete, durable files, named by their key
//! ```
//!
//! The directories are opened once. A key is a single path component, and every access is relative to a directory handle
//! and follows no link (SEC-26), so nothing outside can be named.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use imageops_model::StoreId;
use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::calls::{Calls, SystemCalls};
use crate::fail_point;
use crate::file_id::FileId;
use crate::{Error, Result, Store};

mod stamp;

#[cfg(test)]
mod tests;

const STAGING: &str = "staging";
const BLOBS: &str = "blobs";
const KEY_BYTES_MAX: usize = 64;

/// A store in a directory of a local or network file system.
#[derive(Debug)]
pub struct DirectoryStore {
    id: StoreId,
    staging: OwnedFd,
    blobs: OwnedFd,
    calls: Box<dyn Calls>,
    /// Holds the lock until the store is dropped, or the process ends by whatever cause.
    _lock: File,
}

impl DirectoryStore {
    /// Opens the store in `path`, making the directory (mode 0700) and the store where there is none.
    ///
    /// The directory is locked as long as the value lives: [`Error::Unusable`] when another process, or another value of
    /// this one, has it. Who holds the lock is alone on the directory.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Box::new(SystemCalls))
    }

    fn open_with(path: &Path, calls: Box<dyn Calls>) -> Result<Self> {
        make_directories(path)?;
        // The path itself may be a link, set by the operator; below it none is followed.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = sys::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
        let lock = stamp::lock(&directory)?;
        let id = stamp::read_or_write(&directory)?;
        let staging = open_directory(&directory, STAGING)?;
        let blobs = open_directory(&directory, BLOBS)?;
        sys::fsync(&directory).map_err(io::Error::from)?;
        Ok(Self { id, staging, blobs, calls, _lock: lock })
    }

    /// Gives the staged file its name as a blob. A blob of that name is taken for ours when it is the same file: then an
    /// earlier call was cut off behind this step.
    fn link(&self, file: &File, staged: &str, blob: &str) -> Result<()> {
        let is_new = match self.calls.link(&self.staging, staged, &self.blobs, blob) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failure(error)),
        };
        // The name could have been exchanged since the file was opened: only bytes that were flushed are published.
        if FileId::of_entry(&self.blobs, blob).map_err(failure)? == Some(FileId::of(file).map_err(failure)?) {
            return Ok(());
        }
        if is_new {
            self.calls.unlink(&self.blobs, blob).map_err(failure)?;
        }
        Err(Error::Exists)
    }

    /// Drops bytes whose flush failed: the kernel may hold them as clean although they never reached the disk, and a later
    /// flush would succeed without them. What cannot be removed now is left to the sweep; no row names it.
    fn give_up(&self, staged: &str, blob: Option<&str>) {
        if let Some(blob) = blob {
            let _ = self.calls.unlink(&self.blobs, blob);
            let _ = self.calls.flush_directory(&self.blobs);
        }
        let _ = self.calls.unlink(&self.staging, staged);
        let _ = self.calls.flush_directory(&self.staging);
    }
}

impl Store for DirectoryStore {
    fn id(&self) -> StoreId {
        self.id
    }

    fn stage(&self, key: &str) -> Result<File> {
        check_key(key)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, is_new) = match sys::openat(&self.staging, key, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => (file.into(), true),
            Err(Errno::EXIST) => (self.open_staged(key)?, false),
            Err(error) => return Err(failure(error)),
        };
        // Bytes that are reported as durable need a name that is. One that was there may not be: whoever made it could
        // have ended before this.
        if let Err(error) = self.calls.flush_directory(&self.staging) {
            if is_new {
                self.give_up(key, None);
            }
            return Err(failure(error));
        }
        Ok(file)
    }

    fn open_staged(&self, key: &str) -> Result<File> {
        check_key(key)?;
        open_file(&self.staging, key, OFlags::RDWR)
    }

    fn discard_staged(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.calls.unlink(&self.staging, key).map_err(failure)
    }

    fn publish(&self, staged: &str, blob: &str) -> Result<()> {
        check_key(staged)?;
        check_key(blob)?;
        let file = open_file(&self.staging, staged, OFlags::RDWR)?;
        if let Err(error) = self.calls.flush_file(&file) {
            self.give_up(staged, None);
            return Err(failure(error));
        }
        fail_point::reach("before-link");
        self.link(&file, staged, blob)?;
        fail_point::reach("after-link");
        if let Err(error) = self.calls.flush_directory(&self.blobs) {
            self.give_up(staged, Some(blob));
            return Err(failure(error));
        }
        fail_point::reach("after-directory-flush");
        Ok(())
    }

    fn open(&self, blob: &str) -> Result<File> {
        check_key(blob)?;
        open_file(&self.blobs, blob, OFlags::RDONLY)
    }

    fn remove(&self, blob: &str) -> Result<()> {
        check_key(blob)?;
        self.calls.unlink(&self.blobs, blob).map_err(failure)?;
        self.calls.flush_directory(&self.blobs).map_err(failure)
    }

    fn list_staged(&self) -> Result<Vec<String>> {
        list_files(&self.staging)
    }

    fn list(&self) -> Result<Vec<String>> {
        list_files(&self.blobs)
    }

    fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.blobs)
    }
}

/// Bytes that a process without privileges can still write to the file system of `directory`.
pub(crate) fn free_bytes(directory: &OwnedFd) -> Result<u64> {
    let figures = sys::fstatvfs(directory).map_err(failure)?;
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

pub(crate) fn failure(error: Errno) -> Error {
    io::Error::from(error).into()
}

/// Makes a directory and those above it that are missing, each durable in the one above.
fn make_directories(path: &Path) -> Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    for made in missing {
        if let Some(above) = made.parent() {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            File::open(above)?.sync_all()?;
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::InvalidName)
    }
}

fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    match sys::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failure(error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    sys::openat(parent, name, flags, Mode::empty()).map_err(failure)
}

/// Opens a regular file. `O_NONBLOCK`, which means nothing to such a file, keeps a pipe in its place from blocking.
fn open_file(directory: &OwnedFd, key: &str, access: OFlags) -> Result<File> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = sys::openat(directory, key, flags, Mode::empty()).map_err(failure)?;
    let kind = FileType::from_raw_mode(sys::fstat(&file).map_err(failure)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(Error::Io(io::Error::other("a store holds something that is not a file")));
    }
    Ok(file.into())
}

/// Keys of the regular files of a directory; anything else there is not the store's.
fn list_files(directory: &OwnedFd) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for entry in Dir::read_from(directory).map_err(failure)? {
        let entry = entry.map_err(failure)?;
        let Ok(key) = entry.file_name().to_str() else { continue };
        let is_file = matches!(entry.file_type(), FileType::RegularFile)
            || (entry.file_type() == FileType::Unknown && is_file_entry(directory, key));
        if is_file && check_key(key).is_ok() {
            keys.push(key.to_owned());
        }
    }
    Ok(keys)
}

/// For file systems whose directories do not tell the kind of an entry.
fn is_file_entry(directory: &OwnedFd, key: &str) -> bool {
    sys::statat(directory, key, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|entry| FileType::from_raw_mode(entry.st_mode) == FileType::RegularFile)
}
