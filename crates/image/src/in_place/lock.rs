//! Is anyone else at the file?

use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::reason;

/// Locks `file` against everyone who asks, until the last descriptor of it in this process is closed.
///
/// A record lock on the whole file meets the byte locks of QEMU, qemu-img and libvirt in both directions: it is not
/// granted while one of them has the image open, and none of them opens the image while it is held. `flock` does the
/// same for our own outputs and for whoever else takes it. A loop device takes no lock, but the system tells its file.
pub(super) fn lock(file: &File) -> Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let message = "only a regular file can be changed in place";
        return Err(Error::new(ErrorKind::Unsupported, reason::UNSUPPORTED_FORMAT, message));
    }
    if let Some(device) = loop_device(&metadata) {
        return Err(in_use(format!("the image is in use by the loop device {device}")));
    }
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(file, exclusive).map_err(refused)?;
    rustix::fs::fcntl_lock(file, exclusive).map_err(refused)
}

/// Where there are no locks nobody can tell whether the image is in use.
fn refused(error: Errno) -> Error {
    match error {
        Errno::WOULDBLOCK | Errno::ACCESS => in_use("another program has the image open".to_owned()),
        error => in_use(format!("the image cannot be locked: {error}")),
    }
}

fn in_use(message: String) -> Error {
    Error::new(ErrorKind::InUse, reason::IN_PLACE_IN_USE, message)
}

/// The loop device that has the file, as far as can be seen.
fn loop_device(metadata: &Metadata) -> Option<String> {
    for device in Path::new("/sys/block").read_dir().ok()?.flatten() {
        // One line end follows the path, which is that of the time when the device was set up.
        let Ok(mut path) = std::fs::read(device.path().join("loop/backing_file")) else { continue };
        path.truncate(path.len().saturating_sub(1));
        let other = std::fs::metadata(Path::new(std::ffi::OsStr::from_bytes(&path)));
        if other.is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino())) {
            return Some(device.file_name().to_string_lossy().into_owned());
        }
    }
    None
}
