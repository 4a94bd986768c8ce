//! The files of a store's directories.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Entry, Error, Result, check_key};

pub(crate) fn failure(error: Errno) -> Error {
    io::Error::from(error).into()
}

pub(super) fn open_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    match sys::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failure(error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    sys::openat(parent, name, flags, Mode::empty()).map_err(failure)
}

/// Refuses what is no regular file.
pub(super) fn check_file(opened: OwnedFd) -> Result<File> {
    if is_file(&sys::fstat(&opened).map_err(failure)?) {
        Ok(opened.into())
    } else {
        Err(Error::Io(io::Error::other("a store holds something that is not a file")))
    }
}

/// The regular files of a directory; anything else there is not the store's.
pub(super) fn list_files(directory: &OwnedFd) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for_each_file(directory, |key, file| {
        entries.push(Entry {
            key: key.to_owned(),
            modified: modified(file),
            size_bytes: u64::try_from(file.st_size).unwrap_or(0),
        });
    })?;
    Ok(entries)
}

/// Goes through the regular files of a directory. One that is removed meanwhile is passed over.
pub(super) fn for_each_file(directory: &OwnedFd, mut see: impl FnMut(&str, &Stat)) -> Result<()> {
    for entry in Dir::read_from(directory).map_err(failure)? {
        let entry = entry.map_err(failure)?;
        let Ok(key) = entry.file_name().to_str() else { continue };
        if check_key(key).is_err() {
            continue;
        }
        match sys::statat(directory, key, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(file) if is_file(&file) => see(key, &file),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failure(error)),
        }
    }
    Ok(())
}

fn is_file(entry: &Stat) -> bool {
    FileType::from_raw_mode(entry.st_mode) == FileType::RegularFile
}

/// Times before the epoch, which no file of ours has, count as the epoch.
fn modified(file: &Stat) -> SystemTime {
    let since_epoch = Duration::from_secs(u64::try_from(file.st_mtime).unwrap_or(0));
    let since_epoch = since_epoch.saturating_add(Duration::from_nanos(file.st_mtime_nsec));
    SystemTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(SystemTime::UNIX_EPOCH)
}
