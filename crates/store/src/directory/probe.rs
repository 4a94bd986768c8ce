//! Whether a directory takes writes.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self as sys, Mode, OFlags};
use uuid::Uuid;

use super::failure;
use crate::calls::Calls;
use crate::{Error, Result};

/// The one file of all probes: what a crash leaves of it the next probe overwrites.
const PROBE: &str = "probe";

/// Keeps two probes from reading each other's bytes.
static TURN: Mutex<()> = Mutex::new(());

/// Writes a small file, flushes it, reads it back, removes it.
pub(super) fn write_and_read(directory: &OwnedFd, calls: &dyn Calls) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = sys::openat(directory, PROBE, flags, Mode::from_raw_mode(0o600)).map_err(failure)?;
    let result = check(file.into(), calls);
    let removed = calls.unlink(directory, PROBE).map_err(failure);
    result.and(removed)
}

fn check(mut file: File, calls: &dyn Calls) -> Result<()> {
    let written = Uuid::new_v4().into_bytes();
    file.write_all(&written)?;
    calls.flush_file(&file).map_err(failure)?;
    let mut read = [0; 16];
    file.read_exact_at(&mut read, 0)?;
    if read == written { Ok(()) } else { Err(Error::Corrupt) }
}
