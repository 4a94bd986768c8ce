//! Where the file system keeps itself: what is in use whatever a bitmap says.

use std::ops::Range;

use super::checksum::descriptor_holds;
use super::superblock::Superblock;
use crate::control::Control;
use crate::error::Result;
use crate::guest::device::{Device, Fields};
use crate::guest::{Kept, ranges};
use crate::reason;

/// Ranges of blocks that are remembered: 16 MiB of them. A file system of 40 TiB without flex_bg stays below.
const RANGES_MAX: usize = 1 << 20;

/// Places of bitmaps and inode tables of all groups. Superblock copies and descriptors are computed where needed.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Block ranges, ascending and disjoint.
    used: Vec<Range<u64>>,
    /// Every descriptor was sound, so `used` is all there is.
    pub(crate) complete: bool,
}

/// How much of some blocks holds metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    None,
    Some,
    All,
}

/// What is used of a group's descriptor.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    pub(crate) inode_table: u64,
    pub(crate) free_clusters: u64,
    pub(crate) uninitialised: bool,
    pub(crate) bitmap_checksum: u32,
    pub(crate) free_inodes: u64,
    /// Inodes at the end of the table that were never used.
    pub(crate) unused_inodes: u64,
    /// No inode of the group was ever used, and nobody wrote its inode bitmap.
    pub(crate) inodes_uninitialised: bool,
    pub(crate) inode_bitmap_checksum: u32,
}

const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;

/// Where the descriptor of a group lies on the device.
pub(crate) fn descriptor_place(superblock: &Superblock, group: u32) -> u64 {
    let per_block = superblock.descriptors_per_block();
    let table = u64::from(group) / per_block;
    let block = match superblock.first_meta_group {
        Some(first) if table >= first => {
            // `group` is below the number of groups, and so is the first of its meta group.
            let head = (table * per_block) as u32;
            superblock.copy_block(head).map_or(superblock.group_start(head), |block| block + 1)
        }
        _ => superblock.copy_block(0).expect("group 0 always has a copy") + 1 + table,
    };
    block * superblock.block_bytes + u64::from(group) % per_block * superblock.descriptor_bytes as u64
}

impl Descriptor {
    /// Reads the descriptor of a group; `None` when its checksum is wrong or it lies outside the device.
    pub(crate) fn read(device: &Device<'_>, superblock: &Superblock, group: u32) -> Result<Option<Self>> {
        let mut buffer = [0; 1024];
        let bytes = &mut buffer[..superblock.descriptor_bytes];
        if !device.read_at(bytes, descriptor_place(superblock, group))? {
            return Ok(None);
        }
        Ok(Self::parse(superblock, group, bytes))
    }

    fn parse(superblock: &Superblock, group: u32, bytes: &[u8]) -> Option<Self> {
        if !descriptor_holds(superblock, group, bytes) {
            return None;
        }
        let wide = bytes.len() >= 64;
        let long = |low: usize, high: usize| {
            u64::from(bytes.u32_at(low)) | if wide { u64::from(bytes.u32_at(high)) << 32 } else { 0 }
        };
        let short = |low: usize, high: usize| {
            u32::from(bytes.u16_at(low)) | if wide { u32::from(bytes.u16_at(high)) << 16 } else { 0 }
        };
        // Without a checksum the flag means nothing: older kernels left anything there.
        let flags = superblock.has_metadata_checksums() || superblock.has_descriptor_checksums();
        Some(Self {
            block_bitmap: long(0, 32),
            inode_bitmap: long(4, 36),
            inode_table: long(8, 40),
            free_clusters: short(12, 44).into(),
            uninitialised: flags && bytes.u16_at(18) & BLOCK_UNINIT != 0,
            bitmap_checksum: short(24, 56),
            free_inodes: short(14, 46).into(),
            unused_inodes: if flags { short(28, 50).into() } else { 0 },
            inodes_uninitialised: flags && bytes.u16_at(18) & INODE_UNINIT != 0,
            inode_bitmap_checksum: short(26, 58),
        })
    }

    fn pieces(&self, superblock: &Superblock) -> [Range<u64>; 3] {
        [(self.block_bitmap, 1), (self.inode_bitmap, 1), (self.inode_table, superblock.inode_table_blocks)]
            .map(|(start, length)| start..start.saturating_add(length))
    }
}

impl Metadata {
    /// Goes through all descriptors; the inner error is the reason to keep all.
    pub(crate) fn read(
        device: &Device<'_>,
        superblock: &Superblock,
        control: &Control,
    ) -> Result<Result<Self, Kept>> {
        // One list for each kind: within it neighbours touch when flex_bg packs them, and join at once.
        let mut lists: [Vec<Range<u64>>; 3] = Default::default();
        let mut complete = true;
        for group in 0..superblock.groups {
            control.check_cancelled()?;
            let Some(descriptor) = Descriptor::read(device, superblock, group)? else {
                complete = false;
                continue;
            };
            for (list, piece) in lists.iter_mut().zip(descriptor.pieces(superblock)) {
                if piece.start <= superblock.first_data_block || piece.end > superblock.blocks {
                    let message = "metadata of a block group lie outside the file system";
                    return Ok(Err(Kept::whole(reason::KEPT_GEOMETRY, message)));
                }
                ranges::push_joined(list, piece);
            }
            if lists.iter().map(Vec::len).sum::<usize>() > RANGES_MAX {
                return Ok(Err(Kept::whole(reason::KEPT_LIMIT, "the metadata are too scattered")));
            }
        }
        let mut all = lists.concat();
        all.extend(superblock.mmp_block.map(|block| block..block + 1));
        all.sort_unstable_by_key(|range| range.start);
        if all.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Ok(Err(Kept::whole(reason::KEPT_GEOMETRY, "metadata of block groups overlap")));
        }
        let mut used: Vec<Range<u64>> = Vec::new();
        for range in all {
            ranges::push_joined(&mut used, range);
        }
        Ok(Ok(Self { used, complete }))
    }

    /// Whether all of `blocks` holds metadata, or the other way round none of it.
    pub(crate) fn share_of(&self, superblock: &Superblock, blocks: &Range<u64>) -> Share {
        let per_group = superblock.blocks_per_group;
        let group_of = |block: u64| {
            let group = (block.max(superblock.first_data_block) - superblock.first_data_block) / per_group;
            // The caller's blocks lie inside the file system.
            u32::try_from(group).unwrap_or(u32::MAX).min(superblock.groups - 1)
        };
        let mut found = Vec::new();
        for group in group_of(blocks.start)..=group_of(blocks.end.saturating_sub(1)) {
            self.for_each_in(superblock, group, |range| {
                found.push(range.start.max(blocks.start)..range.end.min(blocks.end));
            });
        }
        found.retain(|range| !range.is_empty());
        found.sort_unstable_by_key(|range| range.start);
        let mut covered = blocks.start;
        for range in &found {
            if range.start > covered {
                return Share::Some;
            }
            covered = covered.max(range.end);
        }
        match (found.is_empty(), covered == blocks.end) {
            (true, _) => Share::None,
            (false, true) => Share::All,
            (false, false) => Share::Some,
        }
    }

    /// Calls `mark` with every range of blocks of `group` that holds metadata, this group's or another's.
    pub(crate) fn for_each_in(&self, superblock: &Superblock, group: u32, mut mark: impl FnMut(Range<u64>)) {
        let start = superblock.group_start(group);
        let inside = start..start + superblock.group_blocks(group);
        for range in
            own_copies(superblock, group).into_iter().flatten().filter(|range| range.start < inside.end)
        {
            mark(range.start..range.end.min(inside.end));
        }
        let first = self.used.partition_point(|range| range.end <= inside.start);
        for range in self.used[first..].iter().take_while(|range| range.start < inside.end) {
            mark(range.start.max(inside.start)..range.end.min(inside.end));
        }
    }
}

/// Copies of the superblock and of descriptor blocks at the start of a group.
fn own_copies(superblock: &Superblock, group: u32) -> [Option<Range<u64>>; 2] {
    let start = superblock.group_start(group);
    let table = u64::from(group) / superblock.descriptors_per_block();
    let place = u64::from(group) % superblock.descriptors_per_block();
    let copy = superblock.copy_block(group);
    let behind = copy.map_or(start, |block| block + 1);
    let per_block = superblock.descriptors_per_block();
    // The copy and all below it: with 1 KiB blocks and bigalloc the boot block is in group 0 too.
    let head = copy.map(|_| start..behind);
    let tables = match superblock.first_meta_group {
        Some(first) if table >= first => {
            // The first, second and last group of each meta group hold its one descriptor block.
            (place <= 1 || place == per_block - 1).then(|| behind..behind + 1)
        }
        Some(first) => copy.map(|_| behind..behind + first + superblock.reserved_descriptor_blocks),
        None => copy
            .map(|_| behind..behind + superblock.descriptor_blocks + superblock.reserved_descriptor_blocks),
    };
    [head, tables]
}
