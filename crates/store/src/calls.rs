//! The system calls that decide whether bytes are there and durable, behind a trait so that tests can fail or stop each of them.

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

pub(crate) trait Calls: Debug + Send + Sync {
    /// Opens a file of a directory. A file that is made has mode 0600.
    fn open(&self, directory: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd>;

    /// Brings a file's bytes to the disk.
    fn flush_file(&self, file: &File) -> Result<()>;

    /// Brings a directory's entries to the disk.
    fn flush_directory(&self, directory: &OwnedFd) -> Result<()>;

    /// Gives a file a name in another directory, never replacing one. The old name may go with it.
    fn link(&self, from: &OwnedFd, name: &str, to: &OwnedFd, new_name: &str) -> Result<()>;

    /// Removes a name; one that is not there is no error.
    fn unlink(&self, directory: &OwnedFd, name: &str) -> Result<()>;
}

/// The calls themselves.
#[derive(Debug)]
pub(crate) struct SystemCalls;

impl Calls for SystemCalls {
    fn open(&self, directory: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd> {
        sys::openat(directory, name, flags, Mode::from_raw_mode(0o600))
    }

    fn flush_file(&self, file: &File) -> Result<()> {
        sys::fsync(file)
    }

    fn flush_directory(&self, directory: &OwnedFd) -> Result<()> {
        sys::fsync(directory)
    }

    fn link(&self, from: &OwnedFd, name: &str, to: &OwnedFd, new_name: &str) -> Result<()> {
        match sys::linkat(from, name, to, new_name, AtFlags::empty()) {
            // File systems without hard links answer with one of these.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                rename_to_free(from, name, to, new_name)
            }
            answer => answer,
        }
    }

    fn unlink(&self, directory: &OwnedFd, name: &str) -> Result<()> {
        match sys::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            answer => answer,
        }
    }
}

/// Moves a name to one that must be free.
fn rename_to_free(from: &OwnedFd, name: &str, to: &OwnedFd, new_name: &str) -> Result<()> {
    match sys::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        // Nor does every file system know the flag (exFAT by FUSE). Whoever holds the store's lock is alone, and no key is
        // used twice: nobody makes the name in between.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match sys::statat(to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => sys::renameat(from, name, to, new_name),
                Ok(_) => Err(Errno::EXIST),
                Err(error) => Err(error),
            }
        }
        answer => answer,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_not_replaced() {
        let directory = tempfile::TempDir::new().unwrap();
        for name in ["one", "two"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let opened = OwnedFd::from(File::open(directory.path()).unwrap());
        assert_eq!(rename_to_free(&opened, "one", &opened, "two"), Err(Errno::EXIST));
        rename_to_free(&opened, "one", &opened, "three").unwrap();
        assert_eq!(std::fs::read(directory.path().join("three")).unwrap(), b"one");
        assert_eq!(std::fs::read(directory.path().join("two")).unwrap(), b"two");
    }
}
