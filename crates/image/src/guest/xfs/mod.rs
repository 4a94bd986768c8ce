//! Free space of XFS, versions 4 and 5.
//!
//! Free extents of an allocation group are the leaves of a tree sorted by place. When the file system is opened all of
//! it is checked: superblock and copies, that the log is empty, and in each group the header, the free list and both
//! trees against each other. Only a directory of the leaves stays in memory; an answer reads a leaf again and believes
//! it when it is still what was checked.
//!
//! Format: "XFS Algorithms & Data Structures", 3rd edition, of the XFS documentation project.

mod fields;
mod group;
mod log;
mod superblock;
mod tree;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::superblock::Superblock;
use self::tree::Leaf;
use super::device::Device;
use super::reader::{FileSystem, Stop, nothing};
use super::{FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

/// What was read, or why reading ended.
pub(crate) type Found<T> = std::result::Result<T, Stop>;

/// What every step of the check needs.
pub(crate) struct Context<'a> {
    pub(crate) device: &'a Device<'a>,
    pub(crate) superblock: &'a Superblock,
    pub(crate) control: &'a Control,
    /// Sequence number (cycle and block) of the end of the log: nothing on disk can be newer.
    pub(crate) log_head: u64,
}

/// The number of a leaf, and its free extents in bytes of the device.
type LeafExtents = (usize, Arc<[Range<u64>]>);

/// A file system of which every group was found sound.
#[derive(Debug)]
struct Xfs {
    superblock: Superblock,
    /// Sorted by group and first block.
    leaves: Vec<Leaf>,
    /// The leaf that was asked for last: units come in order, so threads share it nearly always.
    last: Mutex<Option<LeafExtents>>,
}

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, control: &Control) -> Result<FileSystem> {
    let superblock = match Superblock::read(device) {
        Ok(superblock) => superblock,
        Err(Stop::Kept(kept)) => return Ok(nothing("xfs", vec![kept])),
        Err(Stop::Failed(error)) => return Err(error),
    };
    let label = superblock.label.clone();
    let system = match check(device, superblock, control) {
        Ok(system) => system,
        Err(Stop::Kept(kept)) => nothing("xfs", vec![kept]),
        Err(Stop::Failed(error)) => return Err(error),
    };
    Ok(FileSystem { label, ..system })
}

/// Everything behind the superblock.
fn check(device: &Device<'_>, superblock: Superblock, control: &Control) -> Found<FileSystem> {
    let log_head = log::find_clean_head(device, &superblock, control)?;
    let context = Context { device, superblock: &superblock, control, log_head };
    superblock.check_sequence(log_head)?;
    let mut leaves = Vec::new();
    let (mut free_blocks, mut accounted) = (0, 0);
    for number in 0..superblock.groups {
        let sums = group::check(&context, number, &mut leaves)?;
        free_blocks += sums.free_blocks;
        accounted += sums.free_blocks + sums.reserved_blocks;
    }
    // Checksums vouch for each group by itself; without them the sum is one more witness. It is not asked with them:
    // some kernels have left a sum behind that is a little off, and repair does not mind.
    if !superblock.has_checksums && accounted != superblock.free_blocks {
        let message = "the free blocks of the groups do not add up to those of the superblock";
        return Err(Kept::whole(reason::KEPT_FREE_COUNT, message).into());
    }
    let free_bytes = free_blocks * superblock.block_bytes;
    leaves.shrink_to_fit();
    let xfs = Xfs { superblock, leaves, last: Mutex::new(None) };
    let free: Option<Box<dyn FreeSpace>> = if free_bytes > 0 { Some(Box::new(xfs)) } else { None };
    Ok(FileSystem { content: "xfs".to_owned(), label: None, free_bytes, kept: Vec::new(), free })
}

impl FreeSpace for Xfs {
    fn end_bytes(&self) -> Option<u64> {
        Some(self.superblock.blocks * self.superblock.block_bytes)
    }

    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let superblock = &self.superblock;
        let end = range.end.min(superblock.blocks * superblock.block_bytes);
        let block = range.start / superblock.block_bytes;
        let place = (block / superblock.group_blocks, block % superblock.group_blocks);
        let behind = self
            .leaves
            .partition_point(|leaf| (u64::from(leaf.group), u64::from(leaf.first)) <= (place.0, place.1));
        for index in behind.saturating_sub(1)..self.leaves.len() {
            let leaf = &self.leaves[index];
            if superblock.block_place(leaf.group, leaf.first) >= end {
                break;
            }
            for extent in self.extents(device, index)?.iter() {
                let piece = extent.start.max(range.start)..extent.end.min(end);
                if piece.start < piece.end {
                    ranges::push_joined(free, piece);
                }
            }
        }
        Ok(())
    }
}

impl Xfs {
    /// The free extents of a leaf, in bytes of the device.
    fn extents(&self, device: &Device<'_>, index: usize) -> Result<Arc<[Range<u64>]>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, extents)) = &*last
            && *number == index
        {
            return Ok(Arc::clone(extents));
        }
        let extents: Arc<[Range<u64>]> = self.leaves[index].read(device, &self.superblock)?.into();
        *last = Some((index, Arc::clone(&extents)));
        Ok(extents)
    }
}
