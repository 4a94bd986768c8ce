//! Raw disks: the file is the disk.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, Extent, ExtentKind};
use crate::error::Result;
use crate::storage::{Storage, read_zero_filled};

/// The unit in which a guest addresses its disk.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// A raw disk.
pub struct Raw {
    storage: Arc<dyn Storage>,
    virtual_size_bytes: u64,
}

impl Raw {
    /// Takes the bytes as they are. A last sector that is cut short is filled up with zeros.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let size = storage.size_bytes();
        Self { virtual_size_bytes: size.checked_next_multiple_of(SECTOR_BYTES).unwrap_or(size), storage }
    }
}

impl Disk for Raw {
    fn virtual_size_bytes(&self) -> u64 {
        self.virtual_size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        read_zero_filled(&*self.storage, buffer, offset)
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let end = self.virtual_size_bytes;
        if offset >= end {
            return Ok(None);
        }
        let extent = match self.storage.next_data(offset)? {
            Some(data) if data.start <= offset => {
                let data_end =
                    if data.end >= self.storage.size_bytes() { end } else { data.end.max(offset + 1) };
                Extent { range: offset..data_end, kind: ExtentKind::Data }
            }
            Some(data) => Extent { range: offset..data.start.min(end), kind: ExtentKind::Hole },
            None => Extent { range: offset..end, kind: ExtentKind::Hole },
        };
        Ok(Some(extent))
    }

    fn will_need(&self, range: Range<u64>) {
        self.storage.will_need(range);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn last_sector_is_filled_up() {
        let disk = Raw::new(Arc::new(vec![7u8; 700]));
        assert_eq!(disk.virtual_size_bytes(), 1024);
        let mut buffer = [1u8; 600];
        disk.read_at(&mut buffer, 500).unwrap();
        assert!(buffer[..200].iter().all(|byte| *byte == 7) && buffer[200..].iter().all(|byte| *byte == 0));
        assert_eq!(disk.extent_at(3).unwrap().unwrap().range, 3..1024);
        assert_eq!(disk.extent_at(1024).unwrap(), None);
        disk.read_at(&mut buffer, u64::MAX - 3).unwrap();
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
}
