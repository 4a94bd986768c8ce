//! Blobs that are open for reading.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// A stored blob, open for reading by any number of threads. Its bytes never change; those of a directory can be read on
/// after [`crate::Store::remove`], those of a bucket cannot.
pub trait Blob: Debug + Send + Sync {
    /// Its length.
    fn size_bytes(&self) -> u64;

    /// Fills `buffer` from `offset`; [`io::ErrorKind::UnexpectedEof`] when the blob ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Bytes that it occupies on its medium; the length where that is unknown.
    fn allocated_bytes(&self) -> u64;

    /// The first range at or after `offset` that may hold something other than zeros, or `None` when only a hole follows.
    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>>;

    /// The file that holds exactly these bytes, where there is one.
    fn file(&self) -> Option<&File>;

    /// Another handle of the same blob.
    fn try_clone(&self) -> io::Result<Box<dyn Blob>>;
}

/// A blob that is a file.
#[derive(Debug)]
pub(crate) struct FileBlob {
    file: File,
    size_bytes: u64,
    allocated_bytes: u64,
}

impl FileBlob {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { size_bytes: metadata.len(), allocated_bytes: metadata.blocks().saturating_mul(512), file })
    }
}

impl Blob for FileBlob {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= self.size_bytes {
            return Ok(None);
        }
        // The position of the file is shared by all handles, but nothing else here uses it.
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            // No hole support: all of it may be data.
            Err(_) => return Ok(Some(offset..self.size_bytes)),
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size_bytes).min(self.size_bytes);
        Ok((start < end).then_some(start..end))
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn try_clone(&self) -> io::Result<Box<dyn Blob>> {
        Ok(Box::new(Self {
            file: self.file.try_clone()?,
            size_bytes: self.size_bytes,
            allocated_bytes: self.allocated_bytes,
        }))
    }
}
