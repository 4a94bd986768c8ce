//! The superblock of XFS, checked before anything else is believed.

use std::ops::Range;

use super::Found;
use super::fields::{BigEndian, checksum_holds};
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::reason;

/// Bytes of the fields that are read, in every version; a sector is never shorter.
const LENGTH: usize = 512;
const SECTOR_BYTES_MAX: usize = 32 << 10;
const CHECKSUM_OFFSET: usize = 224;
const SEQUENCE_OFFSET: usize = 240;

const VERSION_NUMBER: u16 = 0xf;
const VERSION_SHARED: u16 = 0x200;
const VERSION_LOG_V2: u16 = 0x400;
const VERSION_SECTOR: u16 = 0x800;
const VERSION_UNWRITTEN: u16 = 0x1000;
const VERSION_DIRECTORY_V2: u16 = 0x2000;
const VERSION_MORE_BITS: u16 = 0x8000;

const FEATURES2_LAZY_COUNTS: u32 = 0x2;
/// Lazy counts, inline attributes, wide project ids, file types in directories.
const FEATURES2_KNOWN: u32 = 0x2 | 0x8 | 0x80 | 0x200;

const READ_ONLY_REVERSE_MAP: u32 = 0x2;
/// Free inode tree, reverse map, shared extents, counts of inode trees.
const READ_ONLY_KNOWN: u32 = 0x1 | READ_ONLY_REVERSE_MAP | 0x4 | 0x8;

const INCOMPAT_META_UUID: u32 = 0x4;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// File types, sparse inodes, metadata UUID, big times, needs repair (which has its own reason), large extent counts,
/// exchange of ranges, parent pointers. Not: metadata directories, zones.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | INCOMPAT_META_UUID | 0x8 | INCOMPAT_NEEDS_REPAIR | 0x20 | 0x40 | 0x80;

/// Extended attributes as log items; without meaning once the log is empty.
const LOG_INCOMPAT_KNOWN: u32 = 0x1;

/// Smallest allocation group in blocks, and largest in bytes.
const GROUP_BLOCKS_MIN: u64 = 64;
const GROUP_BYTES_MAX: u64 = 1 << 40;
/// The log is read whole, so this bounds what a scan costs; the kernel takes none that is larger.
pub(crate) const LOG_BYTES_MAX: u64 = 1 << 31;

/// Superblock copy, free-space header, inode header and free list: a sector each at the start of every group.
pub(crate) const HEADER_SECTORS: usize = 4;

/// Fields that every copy of the superblock must have in common, as (offset, length): sizes and places. Copies are
/// written when the file system is made or grown, so what changes at run time (counts, quotas, stripes, most
/// features) is left out.
const GEOMETRY: [(usize, usize); 8] = [
    (0, 32),  // magic, block size, blocks, realtime blocks and extents
    (48, 8),  // start of the log
    (84, 8),  // blocks of a group, groups
    (96, 4),  // blocks of the log
    (102, 2), // sector size
    (120, 2), // logarithms of block and sector size
    (124, 1), // logarithm of a group's blocks
    (194, 2), // sector size of the log
];
/// Bits of the version that are set when the file system is made and never later.
const GEOMETRY_VERSION: u16 =
    VERSION_NUMBER | VERSION_LOG_V2 | VERSION_SECTOR | VERSION_UNWRITTEN | VERSION_DIRECTORY_V2;

/// What the rest needs to know of the file system.
#[derive(Debug)]
pub(crate) struct Superblock {
    pub(crate) block_bytes: u64,
    pub(crate) sector_bytes: usize,
    pub(crate) blocks: u64,
    /// Blocks of each group but the last, which may be shorter.
    pub(crate) group_blocks: u64,
    pub(crate) groups: u32,
    pub(crate) log_group: u32,
    /// Blocks of the log within its group.
    pub(crate) log: Range<u32>,
    /// Headers of log records may take several sectors.
    pub(crate) has_log_v2: bool,
    /// Version 5: every structure has a checksum, an owner and a sequence number.
    pub(crate) has_checksums: bool,
    /// Free blocks are counted in the groups, with those of the free-space trees.
    pub(crate) has_lazy_counts: bool,
    pub(crate) has_reverse_map: bool,
    pub(crate) free_blocks: u64,
    /// The UUID that users see, which the log has too.
    pub(crate) uuid: [u8; 16],
    /// The UUID in structures, which stays when users change theirs.
    pub(crate) metadata_uuid: [u8; 16],
    pub(crate) label: Option<String>,
    sequence: u64,
    raw: Box<[u8; LENGTH]>,
}

struct Features {
    log_v2: bool,
    checksums: bool,
    lazy_counts: bool,
    reverse_map: bool,
    metadata_uuid: bool,
}

fn keep(reason: &'static str, message: &str) -> Kept {
    Kept::whole(reason, message)
}

fn geometry() -> Kept {
    keep(reason::KEPT_GEOMETRY, "the sizes in the superblock contradict each other")
}

impl Superblock {
    /// Reads the first copy.
    pub(crate) fn read(device: &Device<'_>) -> Found<Self> {
        let short = || keep(reason::KEPT_GEOMETRY, "the device is shorter than a superblock");
        let head = device.read::<LENGTH>(0)?.ok_or_else(short)?;
        let sector_bytes = usize::from(head.u16_be(102));
        if !sector_bytes.is_power_of_two() || !(LENGTH..=SECTOR_BYTES_MAX).contains(&sector_bytes) {
            return Err(geometry().into());
        }
        let mut sector = vec![0; sector_bytes];
        if !device.read_at(&mut sector, 0)? {
            return Err(short().into());
        }
        Ok(Self::parse(&sector, device.length_bytes())?)
    }

    fn parse(sector: &[u8], device_bytes: u64) -> Result<Self, Kept> {
        let raw: [u8; LENGTH] = sector[..LENGTH].try_into().expect("a sector is at least as long");
        let features = match raw.u16_be(100) & VERSION_NUMBER {
            4 => Features::of_version_4(&raw)?,
            5 if checksum_holds(sector, CHECKSUM_OFFSET) => Features::of_version_5(&raw)?,
            5 => return Err(keep(reason::KEPT_CHECKSUM, "the checksum of the superblock is wrong")),
            _ => return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "the version is not known")),
        };
        if raw[126] != 0 {
            return Err(keep(reason::KEPT_NOT_CLEAN, "the file system was never made to the end"));
        }
        if raw.u64_be(16) != 0 || raw.u64_be(24) != 0 {
            return Err(keep(reason::KEPT_OTHER_DEVICE, "files may lie on a realtime device"));
        }
        if raw.u64_be(48) == 0 {
            return Err(keep(reason::KEPT_OTHER_DEVICE, "the log is on another device"));
        }
        let superblock = Self::geometry(raw, sector.len(), &features).ok_or_else(geometry)?;
        if superblock.blocks.checked_mul(superblock.block_bytes).is_none_or(|bytes| bytes > device_bytes) {
            return Err(keep(reason::KEPT_GEOMETRY, "the file system is larger than its device"));
        }
        Ok(superblock)
    }

    /// Sizes and places, or `None` when they make no sense.
    fn geometry(raw: [u8; LENGTH], sector_bytes: usize, features: &Features) -> Option<Self> {
        let block_bytes = u64::from(raw.u32_be(4));
        let blocks = raw.u64_be(8);
        let group_blocks = u64::from(raw.u32_be(84));
        let groups = raw.u32_be(88);
        let sane = (9..=16).contains(&raw[120])
            && block_bytes == 1 << raw[120]
            && raw[121] < 16
            && sector_bytes == 1 << raw[121]
            && sector_bytes as u64 <= block_bytes
            && group_blocks >= GROUP_BLOCKS_MIN
            && group_blocks * block_bytes <= GROUP_BYTES_MAX
            && u32::from(raw[124]) == (group_blocks - 1).ilog2() + 1
            && groups > 0;
        if !sane {
            return None;
        }
        // Both factors have 32 bits.
        let last_group = u64::from(groups - 1) * group_blocks;
        if blocks < last_group + GROUP_BLOCKS_MIN || blocks > last_group + group_blocks {
            return None;
        }
        let uuid = raw[32..48].try_into().expect("sixteen bytes");
        let label = raw[108..120].split(|byte| *byte == 0).next().unwrap_or_default();
        let mut superblock = Self {
            block_bytes,
            sector_bytes,
            blocks,
            group_blocks,
            groups,
            log_group: 0,
            log: 0..0,
            has_log_v2: features.log_v2,
            has_checksums: features.checksums,
            has_lazy_counts: features.lazy_counts,
            has_reverse_map: features.reverse_map,
            free_blocks: raw.u64_be(144),
            uuid,
            metadata_uuid: if features.metadata_uuid {
                raw[248..264].try_into().expect("sixteen bytes")
            } else {
                uuid
            },
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
            sequence: if features.checksums { raw.u64_be(SEQUENCE_OFFSET) } else { 0 },
            raw: Box::new(raw),
        };
        superblock.place_log()?;
        Some(superblock)
    }

    /// The log lies in one group. Numbers of blocks in the superblock have the group above the lowest bits.
    fn place_log(&mut self) -> Option<()> {
        let (start, bits) = (self.raw.u64_be(48), self.raw[124]);
        let group = u32::try_from(start >> bits).ok().filter(|group| *group < self.groups)?;
        let first = (start & ((1 << bits) - 1)) as u32;
        let end = first.checked_add(self.raw.u32_be(96))?;
        let bytes = u64::from(end - first) * self.block_bytes;
        if first < self.header_blocks()
            || end <= first
            || end > self.blocks_of_group(group)
            || bytes > LOG_BYTES_MAX
        {
            return None;
        }
        self.log_group = group;
        self.log = first..end;
        Some(())
    }

    /// Blocks of a group; the last one may be short.
    pub(crate) fn blocks_of_group(&self, group: u32) -> u32 {
        let blocks = (self.blocks - u64::from(group) * self.group_blocks).min(self.group_blocks);
        u32::try_from(blocks).expect("a group's blocks are a field of 32 bits")
    }

    /// Blocks at the start of a group that its headers take.
    pub(crate) fn header_blocks(&self) -> u32 {
        ((HEADER_SECTORS * self.sector_bytes) as u64).div_ceil(self.block_bytes) as u32
    }

    /// First byte of a block of a group. Groups follow each other without gaps.
    pub(crate) fn block_place(&self, group: u32, block: u32) -> u64 {
        (u64::from(group) * self.group_blocks + u64::from(block)) * self.block_bytes
    }

    /// Whether a copy says the same of sizes and places.
    pub(crate) fn agrees_with(&self, copy: &[u8]) -> bool {
        let version = (self.raw.u16_be(100) ^ copy.u16_be(100)) & GEOMETRY_VERSION;
        version == 0
            && GEOMETRY.iter().all(|(at, length)| self.raw[*at..at + length] == copy[*at..at + length])
    }

    /// The superblock cannot be newer than the log.
    pub(crate) fn check_sequence(&self, log_head: u64) -> Result<(), Kept> {
        if is_newer(self.sequence, log_head) {
            return Err(keep(reason::KEPT_NOT_CLEAN, "the superblock is newer than the log"));
        }
        Ok(())
    }
}

/// Whether a structure's sequence number is past the end of the log. The copy of the log is then older than that of
/// the structure: the image was taken while the file system was in use.
pub(crate) fn is_newer(sequence: u64, log_head: u64) -> bool {
    // All ones: never logged.
    sequence != u64::MAX && sequence > log_head
}

fn check_known(kind: &str, unknown: u32) -> Result<(), Kept> {
    if unknown == 0 {
        return Ok(());
    }
    Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, format!("{kind} features {unknown:#x} are not known")))
}

impl Features {
    fn of_version_4(raw: &[u8]) -> Result<Self, Kept> {
        let version = raw.u16_be(100);
        check_known("version", u32::from(version & VERSION_SHARED))?;
        if version & VERSION_DIRECTORY_V2 == 0 {
            return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "directories of the first version"));
        }
        // Some kernels wrote these bits to the next field; later ones keep both alike.
        let features2 = if version & VERSION_MORE_BITS == 0 { 0 } else { raw.u32_be(200) | raw.u32_be(204) };
        check_known("further", features2 & !FEATURES2_KNOWN)?;
        Ok(Self {
            log_v2: version & VERSION_LOG_V2 != 0,
            checksums: false,
            lazy_counts: features2 & FEATURES2_LAZY_COUNTS != 0,
            reverse_map: false,
            metadata_uuid: false,
        })
    }

    fn of_version_5(raw: &[u8]) -> Result<Self, Kept> {
        let incompatible = raw.u32_be(216);
        check_known("compatible", raw.u32_be(208))?;
        check_known("read-only", raw.u32_be(212) & !READ_ONLY_KNOWN)?;
        check_known("incompatible", incompatible & !INCOMPAT_KNOWN)?;
        check_known("log", raw.u32_be(220) & !LOG_INCOMPAT_KNOWN)?;
        if incompatible & INCOMPAT_NEEDS_REPAIR != 0 {
            return Err(keep(reason::KEPT_ERROR_STATE, "the file system must be repaired first"));
        }
        Ok(Self {
            log_v2: true,
            checksums: true,
            lazy_counts: true,
            reverse_map: raw.u32_be(212) & READ_ONLY_REVERSE_MAP != 0,
            metadata_uuid: incompatible & INCOMPAT_META_UUID != 0,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
