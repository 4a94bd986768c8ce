//! The lock and the stamp of a store's directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use imageops_model::StoreId;
use rustix::fs::{self as sys, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::{BLOBS, failure};
use crate::{Error, Result};

const STAMP: &str = "store";
const STAMP_DRAFT: &str = "store.new";
const OWNER: &str = "catalogue";
const OWNER_DRAFT: &str = "catalogue.new";
pub(crate) const STAMP_BYTES_MAX: u64 = 256;
const FIRST_LINE: &str = "imageops-store 1";
const LOCK: &str = "lock";
/// How long a holder that is just ending may take. A child that was forked at that moment shares the lock until it
/// executes its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

fn unusable<T>(sentence: &str) -> Result<T> {
    Err(Error::Unusable(sentence.to_owned()))
}

/// Takes the lock of the directory, which the kernel gives back when the process ends.
pub(super) fn lock(directory: &OwnedFd) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = sys::openat(directory, LOCK, flags, Mode::from_raw_mode(0o600)).map_err(failure)?.into();
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Err(Error::InUse),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

/// The id in the stamp; `None` when there is no stamp.
pub(super) fn read(directory: &OwnedFd) -> Result<Option<StoreId>> {
    read_text(directory, STAMP)?.map(|text| check(&text)).transpose()
}

/// The catalogue that the store belongs to; `None` when none is noted.
pub(super) fn read_owner(directory: &OwnedFd) -> Result<Option<Uuid>> {
    read_text(directory, OWNER)?.map(|text| check_owner(&text)).transpose()
}

/// Notes the catalogue that the store belongs to, whole or not at all. The lock is held: nobody else notes one.
pub(super) fn write_owner(directory: &OwnedFd, catalogue: Uuid) -> Result<()> {
    write_text(directory, OWNER, OWNER_DRAFT, &owner_text(catalogue))
}

/// The catalogue in a note of the owner.
pub(crate) fn check_owner(text: &str) -> Result<Uuid> {
    match Uuid::try_parse(text.trim()) {
        Ok(catalogue) => Ok(catalogue),
        Err(_) => unusable("the note of the catalogue that the store belongs to does not read"),
    }
}

/// The text of a note of the owner.
pub(crate) fn owner_text(catalogue: Uuid) -> String {
    format!("{catalogue}\n")
}

fn read_text(directory: &OwnedFd, name: &str) -> Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match sys::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(failure(error)),
    };
    let mut text = String::new();
    if file.take(STAMP_BYTES_MAX).read_to_string(&mut text).is_err() {
        return unusable("the stamp of the store does not read");
    }
    Ok(Some(text))
}

fn write_text(directory: &OwnedFd, name: &str, draft: &str, text: &str) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File =
        sys::openat(directory, draft, flags, Mode::from_raw_mode(0o600)).map_err(failure)?.into();
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sys::renameat(directory, draft, directory, name).map_err(failure)?;
    sys::fsync(directory).map_err(failure)
}

/// The id in the text of a stamp.
pub(crate) fn check(text: &str) -> Result<StoreId> {
    match parse(text) {
        Some(id) => Ok(id),
        None if text.starts_with("imageops-store ") => unusable("the store was made by a newer version"),
        None => unusable("its place holds something else than a store"),
    }
}

/// The text of a stamp.
pub(crate) fn text(id: StoreId) -> String {
    format!("{FIRST_LINE}\n{id}\n")
}

fn parse(text: &str) -> Option<StoreId> {
    let mut lines = text.lines();
    let first = lines.next()?;
    let id = lines.next()?.parse().ok()?;
    (first == FIRST_LINE && lines.next().is_none()).then_some(id)
}

/// Writes a stamp with a new id, whole or not at all. The lock is held: nobody else writes one.
pub(super) fn write(directory: &OwnedFd) -> Result<StoreId> {
    // A stamp comes first of all; blobs without one are those of a store that lost it, and their id cannot be guessed.
    if sys::statat(directory, BLOBS, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return unusable("the directory holds blobs, but the stamp of their store is missing");
    }
    let id = StoreId(Uuid::new_v4());
    write_text(directory, STAMP, STAMP_DRAFT, &text(id))?;
    Ok(id)
}
