//! The superblock of ext2, ext3 and ext4, checked before anything else is believed.

use super::checksum::crc32c_seeded;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Where the first copy lies, whatever the block size.
const OFFSET: u64 = 1024;
const LENGTH: usize = 1024;
const CHECKSUM_OFFSET: usize = 1020;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const COMPAT_FAST_COMMIT: u32 = 0x400;
/// Preallocation, imagic, journal, attributes, resize inode, directory index, sparse_super2, fast commit, stable
/// inodes, orphan file. The rest (lazy groups, snapshot exclusion) changes what bitmaps mean.
const COMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000;

const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_MMP: u32 = 0x100;
const INCOMPAT_FLEX_BG: u32 = 0x200;
const INCOMPAT_CSUM_SEED: u32 = 0x2000;
/// File types, meta_bg, extents, 64bit, MMP, flex_bg, attribute inodes, checksum seed, large directories, inline
/// data, encryption, case folding.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;

const RO_SPARSE_SUPER: u32 = 0x1;
const RO_GDT_CSUM: u32 = 0x10;
const RO_BIGALLOC: u32 = 0x200;
const RO_METADATA_CSUM: u32 = 0x400;
/// Sparse superblocks, large files, B-tree directories, huge files, descriptor checksums, link counts, extra inode
/// size, quota, bigalloc, metadata checksums, read-only, project quota, verity, orphans present. Not: snapshots,
/// replicas, shared blocks.
const RO_KNOWN: u32 =
    0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x8000 | 0x1_0000;

/// The inode that is set aside for the journal.
pub(crate) const JOURNAL_INODE: u32 = 8;

const STATE_VALID: u16 = 1;
const STATE_ERROR: u16 = 2;
const STATE_ORPHANS: u16 = 4;

const MMP_MAGIC: u32 = 0x004d_4d50;
const MMP_CLEAN: u32 = 0xff4d_4d50;

/// Fields that every copy of the superblock must have in common, as (offset, length): sizes and places. What changes
/// at run time (counts, times, states, most features) is left out.
const GEOMETRY: [(usize, usize); 12] = [
    (0, 8),    // inodes, blocks
    (20, 24),  // first data block, block and cluster size, blocks, clusters and inodes per group
    (56, 2),   // magic
    (76, 4),   // revision
    (88, 2),   // inode size
    (104, 16), // UUID
    (206, 2),  // reserved descriptor blocks
    (254, 2),  // descriptor size
    (260, 4),  // first meta group
    (336, 4),  // blocks, high half
    (372, 1),  // groups per flex group
    (588, 8),  // groups of the two backups
];
/// Features that decide where things lie: (offset, mask).
const GEOMETRY_FEATURES: [(usize, u32); 3] = [
    (92, COMPAT_SPARSE_SUPER2),
    (96, INCOMPAT_META_BG | INCOMPAT_64BIT | INCOMPAT_FLEX_BG),
    (100, RO_SPARSE_SUPER | RO_GDT_CSUM | RO_BIGALLOC | RO_METADATA_CSUM),
];

/// What the rest needs to know of the file system.
#[derive(Debug)]
pub(crate) struct Superblock {
    pub(crate) block_bytes: u64,
    /// Blocks of one bit of a bitmap: more than 1 with bigalloc.
    pub(crate) cluster_blocks: u64,
    pub(crate) blocks: u64,
    pub(crate) first_data_block: u64,
    pub(crate) blocks_per_group: u64,
    pub(crate) groups: u32,
    pub(crate) inodes_per_group: u64,
    pub(crate) inode_bytes: u64,
    pub(crate) inode_table_blocks: u64,
    pub(crate) descriptor_bytes: usize,
    pub(crate) descriptor_blocks: u64,
    pub(crate) reserved_descriptor_blocks: u64,
    /// Descriptor blocks from this one on lie in their own groups.
    pub(crate) first_meta_group: Option<u64>,
    pub(crate) mmp_block: Option<u64>,
    pub(crate) free_clusters: u64,
    pub(crate) checksum_seed: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) label: Option<String>,
    features: Features,
    backup_groups: [u32; 2],
    raw: Box<[u8; LENGTH]>,
}

#[derive(Clone, Copy, Debug)]
struct Features {
    compat: u32,
    incompat: u32,
    read_only: u32,
}

fn keep(reason: &'static str, message: &str) -> Kept {
    Kept::whole(reason, message)
}

impl Superblock {
    /// Reads the first copy; the inner error is the reason to keep all.
    pub(crate) fn read(device: &Device<'_>) -> Result<Result<Self, Kept>> {
        let Some(raw) = device.read::<LENGTH>(OFFSET)? else {
            return Ok(Err(keep(reason::KEPT_GEOMETRY, "the device is shorter than a superblock")));
        };
        Ok(Self::parse(raw, device.length_bytes()))
    }

    fn parse(raw: [u8; LENGTH], device_bytes: u64) -> Result<Self, Kept> {
        let features = match raw.u32_at(76) {
            // The first revision has no feature words; their place may hold anything.
            0 => Features { compat: 0, incompat: 0, read_only: 0 },
            1 => Features { compat: raw.u32_at(92), incompat: raw.u32_at(96), read_only: raw.u32_at(100) },
            _ => return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "the revision is not known")),
        };
        features.check()?;
        let uuid: [u8; 16] = raw[104..120].try_into().expect("sixteen bytes");
        if features.read_only & RO_METADATA_CSUM != 0 {
            let holds = crc32c_seeded(!0, &raw[..CHECKSUM_OFFSET]) == raw.u32_at(CHECKSUM_OFFSET);
            if raw[373] != 1 || !holds {
                return Err(keep(reason::KEPT_CHECKSUM, "the checksum of the superblock is wrong"));
            }
        }
        features.check_state(raw.u16_at(58))?;
        let geometry = || keep(reason::KEPT_GEOMETRY, "the sizes in the superblock contradict each other");
        let superblock = Self::geometry(raw, features, uuid).ok_or_else(geometry)?;
        if superblock.blocks.checked_mul(superblock.block_bytes).is_none_or(|bytes| bytes > device_bytes) {
            return Err(keep(reason::KEPT_GEOMETRY, "the file system is larger than its device"));
        }
        Ok(superblock)
    }

    /// Sizes and places, or `None` when they make no sense.
    fn geometry(raw: [u8; LENGTH], features: Features, uuid: [u8; 16]) -> Option<Self> {
        let wide = features.incompat & INCOMPAT_64BIT != 0;
        let bigalloc = features.read_only & RO_BIGALLOC != 0;
        let log_block = raw.u32_at(24);
        let log_cluster = raw.u32_at(28);
        if log_block > 6
            || log_cluster < log_block
            || log_cluster > 20
            || !bigalloc && log_cluster != log_block
        {
            return None;
        }
        let block_bytes = 1024_u64 << log_block;
        let cluster_blocks = 1_u64 << (log_cluster - log_block);
        let high = |offset: usize| if wide { u64::from(raw.u32_at(offset)) << 32 } else { 0 };
        let blocks = u64::from(raw.u32_at(4)) | high(336);
        let first_data_block = u64::from(raw.u32_at(20));
        let blocks_per_group = u64::from(raw.u32_at(32));
        let clusters_per_group = u64::from(raw.u32_at(36));
        let inodes_per_group = u64::from(raw.u32_at(40));
        let bits = 8 * block_bytes;
        let inode_bytes = if raw.u32_at(76) == 0 { 128 } else { u64::from(raw.u16_at(88)) };
        let sane = first_data_block == u64::from(block_bytes == 1024 && !bigalloc)
            && blocks > first_data_block
            && (8..=bits).contains(&clusters_per_group)
            && clusters_per_group.is_multiple_of(8)
            && blocks_per_group == clusters_per_group * cluster_blocks
            && (1..=bits).contains(&inodes_per_group)
            && inode_bytes.is_power_of_two()
            && (128..=block_bytes).contains(&inode_bytes);
        if !sane {
            return None;
        }
        let groups = u32::try_from((blocks - first_data_block).div_ceil(blocks_per_group)).ok()?;
        if u64::from(groups) * inodes_per_group != u64::from(raw.u32_at(0)) {
            return None;
        }
        let descriptor_bytes = if wide { usize::from(raw.u16_at(254)) } else { 32 };
        if !descriptor_bytes.is_power_of_two() || wide && !(64..=1024).contains(&descriptor_bytes) {
            return None;
        }
        let meta_bg = features.incompat & INCOMPAT_META_BG != 0;
        let label = raw[120..136].split(|byte| *byte == 0).next().unwrap_or_default();
        let seeded = features.incompat & INCOMPAT_CSUM_SEED != 0;
        Some(Self {
            block_bytes,
            cluster_blocks,
            blocks,
            first_data_block,
            blocks_per_group,
            groups,
            inodes_per_group,
            inode_bytes,
            inode_table_blocks: (inodes_per_group * inode_bytes).div_ceil(block_bytes),
            descriptor_bytes,
            descriptor_blocks: (u64::from(groups) * descriptor_bytes as u64).div_ceil(block_bytes),
            reserved_descriptor_blocks: u64::from(raw.u16_at(206)),
            first_meta_group: meta_bg.then(|| u64::from(raw.u32_at(260))),
            mmp_block: (features.incompat & INCOMPAT_MMP != 0).then(|| raw.u64_at(360)),
            free_clusters: (u64::from(raw.u32_at(12)) | high(344)) / cluster_blocks,
            checksum_seed: if seeded { raw.u32_at(624) } else { crc32c_seeded(!0, &uuid) },
            uuid,
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
            features,
            backup_groups: [raw.u32_at(588), raw.u32_at(592)],
            raw: Box::new(raw),
        })
    }

    /// crc32c over superblock, descriptors and bitmaps.
    pub(crate) fn has_metadata_checksums(&self) -> bool {
        self.features.read_only & RO_METADATA_CSUM != 0
    }

    /// crc16 over descriptors only.
    pub(crate) fn has_descriptor_checksums(&self) -> bool {
        self.features.read_only & RO_GDT_CSUM != 0
    }

    /// `ext2`, `ext3` or `ext4`, by the features that each brought.
    pub(crate) fn name(&self) -> &'static str {
        const EXT3_INCOMPAT: u32 = 0x2 | INCOMPAT_META_BG;
        const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
        let Features { compat, incompat, read_only } = self.features;
        if incompat & !EXT3_INCOMPAT != 0
            || read_only & !EXT3_READ_ONLY != 0
            || incompat & INCOMPAT_EXTENTS != 0
        {
            "ext4"
        } else if compat & COMPAT_HAS_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Whether there is a journal, inside or on another device.
    pub(crate) fn has_journal(&self) -> bool {
        self.features.compat & COMPAT_HAS_JOURNAL != 0
    }

    /// Whether the journal lies in the inode that is set aside for it.
    pub(crate) fn journal_is_internal(&self) -> bool {
        let [uuid, number, device] = [208..224, 224..228, 228..232].map(|place| &self.raw[place]);
        number == JOURNAL_INODE.to_le_bytes() && uuid.iter().chain(device).all(|byte| *byte == 0)
    }

    /// The copy of the journal's inode: where its blocks lie, and its size.
    pub(crate) fn journal_copy(&self) -> Option<(&[u8], u64)> {
        const KIND_BLOCKS: u8 = 1;
        let size = u64::from(self.raw.u32_at(332)) | u64::from(self.raw.u32_at(328)) << 32;
        (self.raw[253] == KIND_BLOCKS).then(|| (&self.raw[268..328], size))
    }

    /// Whether the end of the journal may hold fast commits.
    pub(crate) fn has_fast_commits(&self) -> bool {
        self.features.compat & COMPAT_FAST_COMMIT != 0
    }

    /// Whether the file system was closed.
    pub(crate) fn is_valid(&self) -> bool {
        self.raw.u16_at(58) & STATE_VALID != 0
    }

    /// First block of a group.
    pub(crate) fn group_start(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * self.blocks_per_group
    }

    /// Blocks of a group; the last one is short.
    pub(crate) fn group_blocks(&self, group: u32) -> u64 {
        (self.blocks - self.group_start(group)).min(self.blocks_per_group)
    }

    /// Descriptors in one block.
    pub(crate) fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes as u64
    }

    /// Whether a group holds a copy of the superblock.
    pub(crate) fn has_copy(&self, group: u32) -> bool {
        let power_of = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        if group == 0 {
            true
        } else if self.features.compat & COMPAT_SPARSE_SUPER2 != 0 {
            self.backup_groups.contains(&group)
        } else {
            group == 1
                || self.features.read_only & RO_SPARSE_SUPER == 0
                || power_of(3)
                || power_of(5)
                || power_of(7)
        }
    }

    /// Block of a group's copy of the superblock, when it has one: the first of the group, but for 1 KiB blocks with
    /// bigalloc, where the first copy is at byte 1024 as ever and so in block 1 of group 0.
    pub(crate) fn copy_block(&self, group: u32) -> Option<u64> {
        let shifted = group == 0 && self.block_bytes == 1024 && self.first_data_block == 0;
        self.has_copy(group).then(|| self.group_start(group) + u64::from(shifted))
    }

    /// Whether what the file system says of sizes and places is the same in a second copy. Without metadata checksums
    /// nothing else tells of a damaged superblock. `None` when there is no second copy.
    pub(crate) fn agrees_with_copy(&self, device: &Device<'_>) -> Result<Option<bool>> {
        let Some(group) = (1..self.groups).find(|group| self.has_copy(*group)) else { return Ok(None) };
        let place = self.copy_block(group).expect("just asked") * self.block_bytes;
        let Some(copy) = device.read::<LENGTH>(place)? else { return Ok(Some(false)) };
        let fields = GEOMETRY.iter().all(|(at, length)| self.raw[*at..at + length] == copy[*at..at + length]);
        let features =
            GEOMETRY_FEATURES.iter().all(|(at, mask)| (self.raw.u32_at(*at) ^ copy.u32_at(*at)) & mask == 0);
        Ok(Some(fields && features))
    }

    /// The reason to keep all when another host has the file system mounted or checks it.
    pub(crate) fn check_mmp(&self, device: &Device<'_>) -> Result<Result<(), Kept>> {
        let Some(block) = self.mmp_block else { return Ok(Ok(())) };
        let place = block
            .checked_mul(self.block_bytes)
            .filter(|_| block > self.first_data_block && block < self.blocks);
        let mmp = place.map(|place| device.read::<LENGTH>(place)).transpose()?.flatten();
        let Some(mmp) = mmp.filter(|mmp| mmp.u32_at(0) == MMP_MAGIC) else {
            return Ok(Err(keep(reason::KEPT_GEOMETRY, "the multi-mount block is missing")));
        };
        let crc = crc32c_seeded(self.checksum_seed, &mmp[..CHECKSUM_OFFSET]);
        if self.has_metadata_checksums() && crc != mmp.u32_at(CHECKSUM_OFFSET) {
            return Ok(Err(keep(reason::KEPT_CHECKSUM, "the checksum of the multi-mount block is wrong")));
        }
        Ok(match mmp.u32_at(4) {
            MMP_CLEAN => Ok(()),
            _ => Err(keep(reason::KEPT_IN_USE, "the multi-mount block says that the file system is in use")),
        })
    }
}

impl Features {
    fn check(self) -> Result<(), Kept> {
        if self.incompat & INCOMPAT_JOURNAL_DEV != 0 {
            return Err(keep(
                reason::KEPT_UNKNOWN_FEATURE,
                "the device is the journal of another file system",
            ));
        }
        let unknown = [
            ("compatible", self.compat & !COMPAT_KNOWN),
            ("incompatible", self.incompat & !INCOMPAT_KNOWN & !INCOMPAT_RECOVER),
            ("read-only", self.read_only & !RO_KNOWN),
        ];
        for (kind, bits) in unknown {
            if bits != 0 {
                return Err(Kept::whole(
                    reason::KEPT_UNKNOWN_FEATURE,
                    format!("{kind} features {bits:#x} are not known"),
                ));
            }
        }
        // Both at once never happens; which one would count is anyone's guess.
        if self.read_only & RO_GDT_CSUM != 0 && self.read_only & RO_METADATA_CSUM != 0 {
            return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "two kinds of descriptor checksum at once"));
        }
        if self.incompat & INCOMPAT_RECOVER != 0 {
            return Err(keep(reason::KEPT_NEEDS_RECOVERY, "the journal must be replayed first"));
        }
        Ok(())
    }

    fn check_state(self, state: u16) -> Result<(), Kept> {
        if state & STATE_ERROR != 0 {
            return Err(keep(reason::KEPT_ERROR_STATE, "the file system has recorded errors"));
        }
        let journal = self.compat & COMPAT_HAS_JOURNAL != 0;
        if state & STATE_ORPHANS != 0 || !journal && state & STATE_VALID == 0 {
            return Err(keep(reason::KEPT_NOT_CLEAN, "the file system was not cleanly unmounted"));
        }
        Ok(())
    }
}
