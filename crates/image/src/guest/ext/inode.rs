//! One inode, checked.

use super::checksum::crc32c_seeded;
use super::metadata::Descriptor;
use super::superblock::Superblock;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::guest::reader::Stop;
use crate::reason;

const TYPE_MASK: u16 = 0xf000;
const TYPE_REGULAR: u16 = 0x8000;
const FLAG_EXTENTS: u32 = 0x8_0000;
/// Synchronous, immutable, append only, not dumped, no access time, huge, extents. What would make the content anything
/// but plain blocks is not among them.
const FLAGS_KNOWN: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4_0000 | FLAG_EXTENTS;
const CHECKSUM_LOW: usize = 124;
const EXTRA_BYTES: usize = 128;
const CHECKSUM_HIGH: usize = 130;

/// A regular file that nothing is odd about.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) size_bytes: u64,
    pub(crate) uses_extents: bool,
    /// Fifteen block numbers, or the root of a tree of extents.
    pub(crate) map: [u8; 60],
    /// Of what belongs to this inode.
    pub(crate) checksum_seed: u32,
}

fn keep(reason: &'static str, message: &str) -> Stop {
    Kept::whole(reason, message).into()
}

impl Inode {
    /// Reads the inode `number`, which counts from 1.
    pub(crate) fn read(device: &Device<'_>, superblock: &Superblock, number: u32) -> Result<Self, Stop> {
        let odd = |message| keep(reason::KEPT_JOURNAL, message);
        let index = u64::from(number) - 1;
        let group = u32::try_from(index / superblock.inodes_per_group).ok();
        let Some(group) = group.filter(|group| *group < superblock.groups) else {
            return Err(odd("there are fewer inodes than the journal's number"));
        };
        let Some(descriptor) = Descriptor::read(device, superblock, group)? else {
            return Err(keep(reason::KEPT_CHECKSUM, "the checksum of the group descriptor is wrong"));
        };
        let place = descriptor.inode_table.checked_mul(superblock.block_bytes).and_then(|table| {
            table.checked_add(index % superblock.inodes_per_group * superblock.inode_bytes)
        });
        // At most a block.
        let mut raw = vec![0; superblock.inode_bytes as usize];
        let read = match place {
            Some(place) => device.read_at(&mut raw, place)?,
            None => false,
        };
        if !read {
            return Err(odd("the inode of the journal lies outside the file system"));
        }
        let checksum_seed = inode_seed(superblock, number, raw.u32_at(100));
        if superblock.has_metadata_checksums() && !holds(checksum_seed, &raw) {
            return Err(keep(reason::KEPT_CHECKSUM, "the checksum of the journal's inode is wrong"));
        }
        let flags = raw.u32_at(32);
        let deleted = raw.u32_at(20) != 0 || raw.u16_at(26) != 1;
        if raw.u16_at(0) & TYPE_MASK != TYPE_REGULAR || deleted || flags & !FLAGS_KNOWN != 0 {
            return Err(odd("the inode of the journal is not that of a plain file"));
        }
        let mut map = [0; 60];
        map.copy_from_slice(&raw[40..100]);
        let size_bytes = u64::from(raw.u32_at(4)) | u64::from(raw.u32_at(108)) << 32;
        Ok(Self { size_bytes, uses_extents: flags & FLAG_EXTENTS != 0, map, checksum_seed })
    }
}

/// What the checksums of an inode and of its blocks begin with.
fn inode_seed(superblock: &Superblock, number: u32, generation: u32) -> u32 {
    let seed = crc32c_seeded(superblock.checksum_seed, &number.to_le_bytes());
    crc32c_seeded(seed, &generation.to_le_bytes())
}

/// Whether the checksum of an inode holds: 32 bits where there is room for them, else 16.
fn holds(seed: u32, raw: &[u8]) -> bool {
    let mut bare = raw.to_vec();
    bare[CHECKSUM_LOW..CHECKSUM_LOW + 2].fill(0);
    let wide =
        raw.len() > EXTRA_BYTES && usize::from(raw.u16_at(EXTRA_BYTES)) >= CHECKSUM_HIGH + 2 - EXTRA_BYTES;
    let mut stored = u32::from(raw.u16_at(CHECKSUM_LOW));
    if wide {
        bare[CHECKSUM_HIGH..CHECKSUM_HIGH + 2].fill(0);
        stored |= u32::from(raw.u16_at(CHECKSUM_HIGH)) << 16;
    }
    let mask = if wide { u32::MAX } else { 0xffff };
    crc32c_seeded(seed, &bare) & mask == stored
}
