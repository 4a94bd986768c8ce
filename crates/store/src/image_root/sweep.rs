//! Removing what abruptly ended runs left beneath the image root.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as sys, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::path::Arg;

use super::is_partial;
use crate::Result;
use crate::file_id::FileId;

/// Directories above one another that the walk enters; each holds one handle.
const DEPTH_MAX: usize = 64;
/// Entries that the walk looks at.
const ENTRIES_MAX: u64 = 1_000_000;

pub(super) fn sweep(root: OwnedFd, keep_out: &[FileId]) -> Result<u64> {
    let mut walk = Walk { keep_out, entries_left: ENTRIES_MAX, removed: 0 };
    walk.enter(root, 0);
    Ok(walk.removed)
}

struct Walk<'a> {
    keep_out: &'a [FileId],
    entries_left: u64,
    removed: u64,
}

impl Walk<'_> {
    /// What cannot be read or removed is passed over: a left-over costs space and nothing else.
    fn enter(&mut self, directory: OwnedFd, depth: usize) {
        let is_kept_out = FileId::of(&directory).map_or(true, |id| self.keep_out.contains(&id));
        if is_kept_out {
            return;
        }
        let Ok(entries) = Dir::read_from(&directory) else { return };
        for entry in entries {
            let Ok(entry) = entry else { return };
            if self.entries_left == 0 {
                return;
            }
            self.entries_left -= 1;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match sys::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(entry) => FileType::from_raw_mode(entry.st_mode),
                    Err(_) => continue,
                },
                kind => kind,
            };
            if kind == FileType::Directory && depth < DEPTH_MAX {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(below) = sys::openat(&directory, name, flags, Mode::empty()) {
                    self.enter(below, depth + 1);
                }
            }
            let is_left_over =
                kind == FileType::RegularFile && is_partial(OsStr::from_bytes(name.to_bytes()));
            if is_left_over && remove_unlocked(&directory, name).is_ok_and(|removed| removed) {
                self.removed += 1;
            }
        }
    }
}

/// Removes a file unless someone is at it; whether it did.
fn remove_unlocked(directory: &OwnedFd, name: impl Arg + Copy) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = sys::openat(directory, name, flags, Mode::empty())?.into();
    if file.try_lock().is_err() || FileId::of_entry(directory, name)? != Some(FileId::of(&file)?) {
        return Ok(false);
    }
    sys::unlinkat(directory, name, AtFlags::empty())?;
    Ok(true)
}
