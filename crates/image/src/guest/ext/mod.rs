//! Free space of ext2, ext3 and ext4.
//!
//! Everything is checked once, when the file system is opened; of the groups only the places of their metadata stay in
//! memory. Each answer reads its group's descriptor and bitmap again and checks them again.

mod checksum;
mod group;
mod metadata;
mod superblock;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::group::{Fault, GroupMap};
use self::metadata::Metadata;
use self::superblock::Superblock;
use super::device::Device;
use super::reader::{FileSystem, nothing};
use super::{FreeSpace, Kept, ranges};
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
}

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, control: &Control) -> Result<FileSystem> {
    let superblock = match Superblock::read(device)? {
        Ok(superblock) => superblock,
        Err(kept) => return Ok(nothing("ext", vec![kept])),
    };
    let (content, label) = (superblock.name().to_owned(), superblock.label.clone());
    let system = match check(device, superblock, control)? {
        Ok(system) => system,
        Err(kept) => nothing(&content, vec![kept]),
    };
    Ok(FileSystem { content, label, ..system })
}

/// Everything behind the superblock; the inner error is the reason to keep all.
fn check(device: &Device<'_>, superblock: Superblock, control: &Control) -> Result<Result<FileSystem, Kept>> {
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
    let ext = Ext { superblock, metadata, last: Mutex::new(None) };
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
    let kept = faults.into_iter().map(|(fault, groups)| fault.kept(groups)).collect();
    let free: Option<Box<dyn FreeSpace>> = if free_bytes > 0 { Some(Box::new(ext)) } else { None };
    Ok(Ok(FileSystem { content: String::new(), label: None, free_bytes, kept, free }))
}

impl FreeSpace for Ext {
    fn end_bytes(&self) -> Option<u64> {
        Some(self.superblock.blocks * self.superblock.block_bytes)
    }

    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
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
}

impl Ext {
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
