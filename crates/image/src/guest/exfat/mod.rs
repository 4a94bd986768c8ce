//! Free space of exFAT.
//!
//! The allocation bitmap says which clusters are in use, but nothing guards it. When the file system is opened, all
//! directories are walked over: each cluster that a file owns must be marked in the bitmap. After that each answer
//! reads its piece of the bitmap; nothing but the place of the bitmap stays in memory.

mod boot;
mod chain;
mod entry;
mod walk;

use std::ops::Range;

use self::boot::BootRegion;
use super::device::Device;
use super::reader::{FileSystem, nothing};
use super::{FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

/// Bytes of the bitmap that are compared at a time.
const PIECE_BYTES: usize = 64 << 10;

/// A file system whose bitmap was found to agree with its files.
#[derive(Debug)]
struct ExFat {
    boot: BootRegion,
    /// The clusters of the bitmap; the bitmap is 4 MiB at most.
    bitmap: Vec<Range<u32>>,
}

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, control: &Control) -> Result<FileSystem> {
    let boot = match BootRegion::read(device)? {
        Ok(boot) => boot,
        Err(kept) => return Ok(nothing("exfat", vec![kept])),
    };
    let tree = match walk::walk(device, boot, control)? {
        Ok(tree) => tree,
        Err(kept) => return Ok(nothing("exfat", vec![kept])),
    };
    let exfat = ExFat { boot, bitmap: tree.bitmap };
    let system = match exfat.compare(device, tree.claims.bitmap())? {
        Ok(clusters) => {
            let free_bytes = clusters * boot.cluster_bytes;
            let free: Option<Box<dyn FreeSpace>> = if clusters > 0 { Some(Box::new(exfat)) } else { None };
            FileSystem { free_bytes, free, ..nothing("exfat", Vec::new()) }
        }
        Err(kept) => nothing("exfat", vec![kept]),
    };
    Ok(FileSystem { label: tree.label, ..system })
}

impl ExFat {
    /// Counts free clusters; the inner error is the reason to keep all.
    fn compare(&self, device: &Device<'_>, claimed: &[u8]) -> Result<Result<u64, Kept>> {
        let mut free = 0;
        let mut piece = Vec::new();
        for (index, claimed) in claimed.chunks(PIECE_BYTES).enumerate() {
            let start = index * PIECE_BYTES;
            piece.resize(claimed.len(), 0);
            self.read_bitmap(device, &mut piece, start as u64)?;
            if claimed.iter().zip(&piece).any(|(claimed, used)| claimed & !used != 0) {
                let message = "the allocation bitmap says that clusters of a file are free";
                return Ok(Err(Kept::whole(reason::KEPT_FREE_COUNT, message)));
            }
            // Bits past the last cluster say nothing.
            let bits = (self.boot.clusters as usize - start * 8).min(piece.len() * 8);
            free += (0..bits).filter(|bit| piece[bit / 8] >> (bit % 8) & 1 == 0).count() as u64;
        }
        Ok(Ok(free))
    }

    /// Fills `buffer` from the bitmap, which reaches as far.
    fn read_bitmap(&self, device: &Device<'_>, buffer: &mut [u8], offset: u64) -> Result<()> {
        // What cannot be read is in use.
        buffer.fill(0xff);
        let wanted = offset..offset + buffer.len() as u64;
        let mut start = 0;
        for run in &self.bitmap {
            let end = start + u64::from(run.end - run.start) * self.boot.cluster_bytes;
            let common = wanted.start.max(start)..wanted.end.min(end);
            if !common.is_empty() {
                let part = (common.start - offset) as usize..(common.end - offset) as usize;
                let place = self.boot.place(run.start) + common.start - start;
                if !device.read_at(&mut buffer[part.clone()], place)? {
                    buffer[part].fill(0xff);
                }
            }
            start = end;
        }
        Ok(())
    }
}

impl FreeSpace for ExFat {
    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let boot = &self.boot;
        let start = range.start.max(boot.data_start);
        let end = range.end.min(boot.data_start + u64::from(boot.clusters) * boot.cluster_bytes);
        if start >= end {
            return Ok(());
        }
        let byte_of = |place: u64| (place - boot.data_start) / boot.cluster_bytes / 8;
        let last = byte_of(end - 1) + 1;
        let mut piece = [0; 512];
        for first in (byte_of(start)..last).step_by(piece.len()) {
            let length = (last - first).min(piece.len() as u64) as usize;
            self.read_bitmap(device, &mut piece[..length], first)?;
            for bit in 0..length * 8 {
                let place = boot.data_start + (first * 8 + bit as u64) * boot.cluster_bytes;
                let common = place.max(start)..(place + boot.cluster_bytes).min(end);
                if piece[bit / 8] >> (bit % 8) & 1 == 0 && !common.is_empty() {
                    ranges::push_joined(free, common);
                }
            }
        }
        Ok(())
    }
}
