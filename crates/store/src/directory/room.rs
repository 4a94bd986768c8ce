//! Room in a directory.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs as sys;

use super::failure;
use super::files::for_each_file;
use crate::{Error, Result, Space};

/// Unit of `st_blocks`, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// Bytes that a process without privileges can still write to the file system of `directory`.
pub(crate) fn free_bytes(directory: &OwnedFd) -> Result<u64> {
    let figures = sys::fstatvfs(directory).map_err(failure)?;
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

/// Room of the file system, or below the limit, whichever is less.
pub(super) fn space(blobs: &OwnedFd, staging: &OwnedFd, limit_bytes: Option<u64>) -> Result<Space> {
    let figures = sys::fstatvfs(blobs).map_err(failure)?;
    let mut total = figures.f_blocks.saturating_mul(figures.f_frsize);
    let mut free = figures.f_bavail.saturating_mul(figures.f_frsize);
    if let Some(limit) = limit_bytes {
        total = total.min(limit);
        free = free.min(limit.saturating_sub(used_bytes(blobs, staging)?));
    }
    Ok(Space { total_bytes: Some(total), free_bytes: Some(free) })
}

/// [`Error::NoSpace`] when staged files and blobs take more than the limit.
pub(super) fn check_limit(blobs: &OwnedFd, staging: &OwnedFd, limit_bytes: Option<u64>) -> Result<()> {
    match limit_bytes {
        Some(limit) if used_bytes(blobs, staging)? > limit => {
            Err(Error::NoSpace(io::Error::new(io::ErrorKind::QuotaExceeded, "the store's limit is reached")))
        }
        _ => Ok(()),
    }
}

/// Bytes on the medium. A staged file that is published already counts once. Looks at each file: limits are for stores
/// with few.
fn used_bytes(blobs: &OwnedFd, staging: &OwnedFd) -> Result<u64> {
    let (mut used, mut linked) = (0_u64, HashSet::new());
    for directory in [blobs, staging] {
        for_each_file(directory, |_, file| {
            if file.st_nlink == 1 || linked.insert(file.st_ino) {
                used = used
                    .saturating_add(u64::try_from(file.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES));
            }
        })?;
    }
    Ok(used)
}
