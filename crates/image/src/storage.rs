//! Where the bytes of an image file come from.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Random access to the bytes of one image file, shared by the threads of an operation.
///
/// The size is taken once, at the start; a file that shrinks afterwards reads short, which callers treat as
/// [`crate::ErrorKind::Changed`].
pub trait Storage: Send + Sync {
    /// Length of the file in bytes when it was opened.
    fn size_bytes(&self) -> u64;

    /// Reads into `buffer` from `offset` and returns the number of bytes read: less than asked for only at the end of
    /// the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The first range at or after `offset` that may hold something other than zeros, or `None` when only a hole
    /// follows. The default knows no holes.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size_bytes();
        Ok((offset < size).then_some(offset..size))
    }

    /// Bytes that the file occupies on its medium. The default is the length.
    fn allocated_bytes(&self) -> u64 {
        self.size_bytes()
    }

    /// Something that differs after the file was changed (for a file: length and time of change), or `None` when the
    /// medium cannot tell.
    fn fingerprint(&self) -> io::Result<Option<Fingerprint>> {
        Ok(None)
    }

    /// Tells the medium that `range` will be read soon.
    fn will_need(&self, _range: Range<u64>) {}
}

/// Identity of a file's content at one moment, as far as its metadata tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    size_bytes: u64,
    modified_nanos: i128,
}

/// A regular file on a local file system.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    size_bytes: u64,
    allocated_bytes: u64,
}

impl FileStorage {
    /// Takes an open file.
    pub fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        // Advice only: a file system without it reads all the same.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self { size_bytes: metadata.len(), allocated_bytes: metadata.blocks().saturating_mul(512), file })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Storage for FileStorage {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        use rustix::fs::{SeekFrom, seek};
        if offset >= self.size_bytes {
            return Ok(None);
        }
        // The file position is shared by all threads, but nothing else here uses it.
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            Err(_) => return Ok(Some(offset..self.size_bytes)),
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size_bytes).min(self.size_bytes);
        Ok((start < end).then_some(start..end))
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    fn fingerprint(&self) -> io::Result<Option<Fingerprint>> {
        let metadata = self.file.metadata()?;
        let modified_nanos = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Some(Fingerprint { size_bytes: metadata.len(), modified_nanos }))
    }

    fn will_need(&self, range: Range<u64>) {
        // No length would mean the whole rest of the file.
        let Some(length) = std::num::NonZeroU64::new(range.end.saturating_sub(range.start)) else { return };
        let _ = rustix::fs::fadvise(&self.file, range.start, Some(length), rustix::fs::Advice::WillNeed);
    }
}

/// Bytes in memory, for tests and for the first part of an upload.
impl Storage for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).map_or(self.len(), |offset| offset.min(self.len()));
        let count = buffer.len().min(self.len() - start);
        buffer[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// Fills `buffer` from `offset`; what lies past the end of the file reads as zeros, as it does for every reader of
/// sparse formats. A file that became shorter since it was opened is an error.
pub(crate) fn read_zero_filled(storage: &dyn Storage, buffer: &mut [u8], offset: u64) -> crate::Result<()> {
    let inside = storage.size_bytes().saturating_sub(offset).min(buffer.len() as u64) as usize;
    let (inside, past_end) = buffer.split_at_mut(inside);
    past_end.fill(0);
    if !inside.is_empty() && storage.read_at(inside, offset)? < inside.len() {
        let message = "the file became shorter while it was read";
        return Err(
            crate::Error::new(crate::ErrorKind::Changed, crate::reason::SOURCE_CHANGED, message).at(offset)
        );
    }
    Ok(())
}
