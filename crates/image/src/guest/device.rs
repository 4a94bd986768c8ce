//! A window of a disk: a partition, or the whole.

use std::ops::Range;

use crate::disk::{Disk, Extent};
use crate::error::Result;

/// A stretch of a disk that is looked at by itself.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    disk: &'a dyn Disk,
    start_bytes: u64,
    length_bytes: u64,
}

impl<'a> Device<'a> {
    /// `length_bytes` of `disk` from `start_bytes`.
    pub(crate) fn new(disk: &'a dyn Disk, start_bytes: u64, length_bytes: u64) -> Self {
        Self { disk, start_bytes, length_bytes }
    }

    /// The disk that it is a part of.
    pub(crate) fn disk(&self) -> &'a dyn Disk {
        self.disk
    }

    /// First byte on the disk.
    pub(crate) fn start_bytes(&self) -> u64 {
        self.start_bytes
    }

    /// Length in bytes.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Fills `buffer` from `offset`; `false`, with nothing read, when it does not lie inside in full.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<bool> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length_bytes) {
            return Ok(false);
        }
        self.disk.read_at(buffer, self.start_bytes + offset)?;
        Ok(true)
    }

    /// The extent of the disk that `offset` lies in, counted from the start of the device.
    pub(crate) fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let extent = self.disk.extent_at(self.start_bytes.saturating_add(offset))?;
        let inside = |place: u64| place.saturating_sub(self.start_bytes);
        Ok(extent
            .map(|extent| Extent { range: inside(extent.range.start)..inside(extent.range.end), ..extent }))
    }

    /// Whether nothing is stored for `range`, so that it reads as zeros: cheaper to know than to read.
    pub(crate) fn is_unstored(&self, range: Range<u64>) -> Result<bool> {
        let mut place = self.start_bytes.saturating_add(range.start);
        let end = self.start_bytes.saturating_add(range.end);
        while place < end {
            match self.disk.extent_at(place)? {
                Some(extent) if !extent.kind.is_stored() && extent.range.end > place => {
                    place = extent.range.end
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// `N` bytes at `offset`, when they lie inside.
    pub(crate) fn read<const N: usize>(&self, offset: u64) -> Result<Option<[u8; N]>> {
        let mut buffer = [0; N];
        Ok(self.read_at(&mut buffer, offset)?.then_some(buffer))
    }

    /// `N` bytes that start `distance` bytes before the end.
    pub(crate) fn read_from_end<const N: usize>(&self, distance: u64) -> Result<Option<[u8; N]>> {
        match self.length_bytes.checked_sub(distance) {
            Some(offset) => self.read(offset),
            None => Ok(None),
        }
    }
}

/// Little-endian numbers of a structure on disk; the offsets are constants below the structure's length.
pub(crate) trait Fields {
    /// 16 bits at `offset`.
    fn u16_at(&self, offset: usize) -> u16;
    /// 32 bits at `offset`.
    fn u32_at(&self, offset: usize) -> u32;
    /// 64 bits at `offset`.
    fn u64_at(&self, offset: usize) -> u64;
}

impl Fields for [u8] {
    fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self[offset], self[offset + 1]])
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from(self.u16_at(offset)) | u32::from(self.u16_at(offset + 2)) << 16
    }

    fn u64_at(&self, offset: usize) -> u64 {
        u64::from(self.u32_at(offset)) | u64::from(self.u32_at(offset + 4)) << 32
    }
}
