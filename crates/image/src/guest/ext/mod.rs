//! Free space of ext2, ext3 and ext4.
//!
//! Everything is checked once, when the file system is opened; of the groups only the places of their metadata stay in
//! memory. Each answer reads its group's descriptor and bitmap again and checks them again.

mod checksum;
mod gains;
mod group;
mod inode;
mod inode_tables;
mod journal;
mod mapping;
mod metadata;
mod superblock;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::gains::Gains;
use self::group::{Fault, GroupMap};
use self::metadata::Metadata;
use self::superblock::Superblock;
use super::device::Device;
use super::reader::{FileSystem, nothing};
use super::{ExtraGains, ExtraSummary, FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

/// A file system whose superblock and layout were found sound.
#[derive(Debug)]
struct Ext {
    superblock: Superblock,
    metadata: Metadata,
    /// The group that was asked for last: units come in order, so threads share it nearly always.
    last: Mutex<Option<(u32, Arc<GroupMap>)>>,
    /// What goes beside free space, when it was asked for.
    gains: Option<Gains>,
}

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, extra: ExtraGains, control: &Control) -> Result<FileSystem> {
    let superblock = match Superblock::read(device)? {
        Ok(superblock) => superblock,
        Err(kept) => return Ok(nothing("ext", vec![kept])),
    };
    let (content, label) = (superblock.name().to_owned(), superblock.label.clone());
    let system = match check(device, superblock, extra, control)? {
        Ok(system) => system,
        Err(kept) => nothing(&content, vec![kept]),
    };
    Ok(FileSystem { content, label, ..system })
}

/// Everything behind the superblock; the inner error is the reason to keep all.
fn check(
    device: &Device<'_>,
    superblock: Superblock,
    extra: ExtraGains,
    control: &Control,
) -> Result<Result<FileSystem, Kept>> {
    if let Err(kept) = superblock.check_mmp(device)? {
        return Ok(Err(kept));
    }
    if !superblock.has_metadata_checksums() && superblock.agrees_with_copy(device)? == Some(false) {
        return Ok(Err(Kept::whole(reason::KEPT_GEOMETRY, "the superblock and its copy disagree")));
    }
    let metadata = match Metadata::read(device, &superblock, control)? {
        Ok(metadata) => metadata,
        Err(kept) => return Ok(Err(kept)),
    };
    let mut ext = Ext { superblock, metadata, last: Mutex::new(None), gains: None };
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    let (mut free_bytes, mut counted) = (0, 0);
    for group in 0..ext.superblock.groups {
        control.check_cancelled()?;
        match GroupMap::read(device, &ext.superblock, &ext.metadata, group)? {
            Ok(map) => {
                free_bytes += map.free_bytes();
                counted += map.free_clusters();
            }
            Err(fault) => *faults.entry(fault).or_default() += 1,
        }
    }
    // Checksums vouch for each group by itself; without them the sum is one more witness.
    if !ext.superblock.has_metadata_checksums()
        && faults.is_empty()
        && counted != ext.superblock.free_clusters
    {
        let message = "the free blocks of the groups do not add up to those of the superblock";
        return Ok(Err(Kept::whole(reason::KEPT_FREE_COUNT, message)));
    }
    if extra.journals || extra.inode_tables {
        ext.gains = Some(Gains::find(device, &ext, extra, faults.is_empty(), control)?);
    }
    let kept = faults.into_iter().map(|(fault, groups)| fault.kept(groups)).collect();
    let free: Option<Box<dyn FreeSpace>> =
        if free_bytes > 0 || ext.gains.is_some() { Some(Box::new(ext)) } else { None };
    Ok(Ok(FileSystem { content: String::new(), label: None, free_bytes, kept, free }))
}

impl FreeSpace for Ext {
    fn end_bytes(&self) -> Option<u64> {
        Some(self.superblock.blocks * self.superblock.block_bytes)
    }

    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let mut gained = Vec::new();
        self.extra_within(range.clone(), &mut gained);
        if gained.is_empty() {
            return self.blocks_within(device, range, free);
        }
        // Not in the bitmap as free, so all of it together is disjoint.
        self.blocks_within(device, range, &mut gained)?;
        gained.sort_unstable_by_key(|piece| piece.start);
        gained.into_iter().for_each(|piece| ranges::push_joined(free, piece));
        Ok(())
    }

    fn extra(&self) -> Option<&ExtraSummary> {
        self.gains.as_ref().map(Gains::summary)
    }

    fn extra_within(&self, range: Range<u64>, found: &mut Vec<Range<u64>>) {
        if let Some(gains) = &self.gains {
            gains.within(&range, found);
        }
    }
}

/// Whether all of `blocks`, which lie inside, are used by bitmaps that hold.
fn is_all_used(device: &Device<'_>, ext: &Ext, blocks: &Range<u64>) -> Result<bool> {
    let superblock = &ext.superblock;
    let mut place = blocks.start;
    while place < blocks.end {
        let group = (place - superblock.first_data_block) / superblock.blocks_per_group;
        let group = u32::try_from(group).expect("below the number of groups");
        let start = superblock.group_start(group);
        let end = blocks.end.min(start + superblock.group_blocks(group));
        let Some(map) = ext.group(device, group)? else { return Ok(false) };
        let mut free = false;
        let bytes = |block: u64| (block - start) * superblock.block_bytes;
        map.free_within(bytes(place)..bytes(end), |_| free = true);
        if free {
            return Ok(false);
        }
        place = end;
    }
    Ok(true)
}

impl Ext {
    /// What the bitmaps call free.
    fn blocks_within(
        &self,
        device: &Device<'_>,
        range: Range<u64>,
        free: &mut Vec<Range<u64>>,
    ) -> Result<()> {
        let superblock = &self.superblock;
        let group_bytes = superblock.blocks_per_group * superblock.block_bytes;
        let start = superblock.first_data_block * superblock.block_bytes;
        let end = range.end.min(superblock.blocks * superblock.block_bytes);
        let mut place = range.start.max(start);
        while place < end {
            let group = u32::try_from((place - start) / group_bytes).expect("below the number of groups");
            let group_start = start + u64::from(group) * group_bytes;
            let group_end = (group_start + group_bytes).min(end);
            if let Some(map) = self.group(device, group)? {
                map.free_within(place - group_start..group_end - group_start, |piece| {
                    ranges::push_joined(free, piece.start + group_start..piece.end + group_start);
                });
            }
            place = group_end;
        }
        Ok(())
    }

    fn group(&self, device: &Device<'_>, group: u32) -> Result<Option<Arc<GroupMap>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, map)) = &*last
            && *number == group
        {
            return Ok(Some(Arc::clone(map)));
        }
        // A group that was kept when the file system was opened is kept for the same reason again.
        let Ok(map) = GroupMap::read(device, &self.superblock, &self.metadata, group)? else {
            return Ok(None);
        };
        let map = Arc::new(map);
        *last = Some((group, Arc::clone(&map)));
        Ok(Some(map))
    }
}
