//! Bytes of a store as the engine reads them.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use imageops_image::storage::{FileStorage, Storage};
use imageops_store::Blob;

/// A blob that is no file of this machine.
struct BlobStorage(Box<dyn Blob>);

/// A blob for the engine: where it is a file, the file.
pub(crate) fn open(blob: Box<dyn Blob>) -> io::Result<Arc<dyn Storage>> {
    match blob.file() {
        Some(file) => Ok(Arc::new(FileStorage::new(file.try_clone()?)?)),
        None => Ok(Arc::new(BlobStorage(blob))),
    }
}

impl Storage for BlobStorage {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.size_bytes().saturating_sub(offset);
        let count = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.0.read_exact_at(&mut buffer[..count], offset)?;
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.data_at(offset)
    }

    fn allocated_bytes(&self) -> u64 {
        self.0.allocated_bytes()
    }
}
