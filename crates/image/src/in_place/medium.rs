//! A storage that can be changed in place.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::reason;
use crate::storage::{FileStorage, Fingerprint, Storage};

/// A storage that can be changed in place.
pub trait Medium: Storage {
    /// Writes all of `bytes` at `offset`. When this is cut off, each sector of 512 bytes holds what it held before or
    /// what it should hold.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes `range` read as zeros and gives its room back. The length of the file stays.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;

    /// What was written and punched before this survives a crash after it.
    fn flush(&self) -> io::Result<()>;
}

/// A regular file on a local file system.
#[derive(Debug)]
pub struct FileMedium {
    storage: FileStorage,
}

impl FileMedium {
    /// Takes a file that is open for reading and writing.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { storage: FileStorage::new(file)? })
    }

    fn file(&self) -> &File {
        self.storage.file()
    }

    /// Refuses a file system without holes before anything is changed.
    pub(super) fn check_holes(&self) -> Result<()> {
        // Behind the end of the file there is nothing to be lost.
        let end = self.size_bytes().next_multiple_of(1 << 20);
        match self.punch(end..end + (1 << 20)) {
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                let message = "the file system of the image has no holes, so nothing can be given back";
                Err(Error::new(ErrorKind::Unsupported, reason::IN_PLACE_NO_HOLES, message))
            }
            other => Ok(other?),
        }
    }
}

impl Storage for FileMedium {
    fn size_bytes(&self) -> u64 {
        self.storage.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.read_at(buffer, offset)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.storage.next_data(offset)
    }

    /// As of now.
    fn allocated_bytes(&self) -> u64 {
        let blocks = self.file().metadata().map(|metadata| metadata.blocks());
        blocks.map_or_else(|_| self.storage.allocated_bytes(), |blocks| blocks.saturating_mul(512))
    }

    fn fingerprint(&self) -> io::Result<Option<Fingerprint>> {
        self.storage.fingerprint()
    }

    fn will_need(&self, range: Range<u64>) {
        self.storage.will_need(range);
    }
}

impl Medium for FileMedium {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file().write_all_at(bytes, offset)
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        loop {
            match rustix::fs::fallocate(self.file(), mode, range.start, range.end - range.start) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file().sync_data()
    }
}
