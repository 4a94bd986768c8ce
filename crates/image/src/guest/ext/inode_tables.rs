//! Parts of inode tables that no file has ever used.
//!
//! The kernel and the tools count them in each group's descriptor, and do not look at them: a table without the mark
//! that it was zeroed may hold anything, and one with the mark is trusted to be zero. So zeros are what both want. The
//! descriptor is believed when it has a checksum, and when the inode bitmap agrees that nothing there is in use.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Ext;
use super::checksum::crc32c_seeded;
use super::group::{count_free, is_used};
use super::metadata::Descriptor;
use super::superblock::Superblock;
use crate::control::Control;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::reason;

/// Ranges that are remembered: 4 MiB of them.
const RANGES_MAX: usize = 1 << 18;

/// Why the table of a group is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Descriptor,
    Figures,
    Bitmap,
    Used,
    Limit,
}

impl Fault {
    fn kept(self, groups: u64) -> Kept {
        let (reason, message) = match self {
            Self::Descriptor => (reason::KEPT_CHECKSUM, "the checksum of the group descriptor is wrong"),
            Self::Figures => {
                (reason::KEPT_INODE_TABLE, "the inodes of the group descriptor contradict each other")
            }
            Self::Bitmap => (reason::KEPT_CHECKSUM, "the checksum of the inode bitmap is wrong"),
            Self::Used => {
                (reason::KEPT_INODE_TABLE, "an inode that the group descriptor calls unused is in use")
            }
            Self::Limit => (reason::KEPT_LIMIT, "more tables than are remembered"),
        };
        Kept { reason: reason.to_owned(), message: message.to_owned(), groups }
    }
}

/// What can be dropped, as blocks in the order of the groups, and why tables are kept.
pub(super) fn find(
    device: &Device<'_>,
    ext: &Ext,
    control: &Control,
) -> Result<(Vec<Range<u64>>, Vec<Kept>)> {
    let superblock = &ext.superblock;
    if !superblock.has_metadata_checksums() && !superblock.has_descriptor_checksums() {
        let message = "no checksum vouches for what is unused of the inode tables";
        return Ok((Vec::new(), vec![Kept::whole(reason::KEPT_INODE_TABLE, message)]));
    }
    let mut unused = Vec::new();
    let mut faults: BTreeMap<Fault, u64> = BTreeMap::new();
    for group in 0..superblock.groups {
        control.check_cancelled()?;
        let found = match unused_blocks(device, superblock, group)? {
            Ok(blocks) if !blocks.is_empty() && unused.len() == RANGES_MAX => Err(Fault::Limit),
            found => found,
        };
        match found {
            Ok(blocks) if blocks.is_empty() => {}
            Ok(blocks) => unused.push(blocks),
            Err(fault) => *faults.entry(fault).or_default() += 1,
        }
    }
    Ok((unused, faults.into_iter().map(|(fault, groups)| fault.kept(groups)).collect()))
}

/// The blocks of a group's table that hold unused inodes only.
fn unused_blocks(
    device: &Device<'_>,
    superblock: &Superblock,
    group: u32,
) -> Result<std::result::Result<Range<u64>, Fault>> {
    let Some(descriptor) = Descriptor::read(device, superblock, group)? else {
        return Ok(Err(Fault::Descriptor));
    };
    let inodes = superblock.inodes_per_group;
    let Some(first) = inodes.checked_sub(descriptor.unused_inodes) else {
        return Ok(Err(Fault::Figures));
    };
    if descriptor.inodes_uninitialised {
        // Nobody wrote the bitmap; the figures must say the same. The first group has the inodes that are set aside.
        if first != 0 || descriptor.free_inodes != inodes || group == 0 {
            return Ok(Err(Fault::Figures));
        }
    } else if descriptor.unused_inodes == 0 {
        return Ok(Ok(0..0));
    } else if let Err(fault) = check_bitmap(device, superblock, &descriptor, first)? {
        return Ok(Err(fault));
    }
    // The table lies inside the file system: that was checked of every descriptor.
    let table = descriptor.inode_table;
    let used_blocks = (first * superblock.inode_bytes).div_ceil(superblock.block_bytes);
    Ok(Ok(table + used_blocks.min(superblock.inode_table_blocks)..table + superblock.inode_table_blocks))
}

/// Whether the inode bitmap holds, and has nothing in use from the inode `first` on.
fn check_bitmap(
    device: &Device<'_>,
    superblock: &Superblock,
    descriptor: &Descriptor,
    first: u64,
) -> Result<std::result::Result<(), Fault>> {
    let inodes = superblock.inodes_per_group as usize;
    // A block at most, and it has a bit for each inode of a group.
    let mut bitmap = vec![0; superblock.block_bytes as usize];
    let place = descriptor.inode_bitmap.checked_mul(superblock.block_bytes);
    let read = match place {
        Some(place) => device.read_at(&mut bitmap, place)?,
        None => false,
    };
    if !read {
        return Ok(Err(Fault::Figures));
    }
    if superblock.has_metadata_checksums() {
        let mask = if superblock.descriptor_bytes >= 64 { u32::MAX } else { 0xffff };
        let crc = crc32c_seeded(superblock.checksum_seed, &bitmap[..inodes / 8]);
        if crc & mask != descriptor.inode_bitmap_checksum & mask {
            return Ok(Err(Fault::Bitmap));
        }
    }
    if count_free(&bitmap, inodes) != descriptor.free_inodes {
        return Ok(Err(Fault::Figures));
    }
    if (first as usize..inodes).any(|inode| is_used(&bitmap, inode)) {
        return Ok(Err(Fault::Used));
    }
    Ok(Ok(()))
}
