//! The superblock: what the file system is, and whether it can be read at all.
//!
//! Field places: "On-disk format" of the Btrfs documentation, `struct btrfs_super_block`.

use super::checksum::Checksum;
use super::devices::DeviceItem;
use super::{Checked, keep};
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Where the superblock lies, the one that counts first. The others are copies for rescue tools.
pub(crate) const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// What the file system leaves free for itself at each of these places.
pub(crate) const PLACE_BYTES: u64 = 64 << 10;

const LENGTH: usize = 4096;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
const SYSTEM_CHUNKS: usize = 811;
const SYSTEM_CHUNKS_BYTES_MAX: usize = 2048;
/// Levels of a tree, the leaves included.
pub(crate) const LEVELS: u8 = 8;

const FLAG_WRITTEN: u64 = 1;
const FLAG_ERROR: u64 = 1 << 2;
const FLAG_SEEDING: u64 = 1 << 32;
/// Changes of the UUID (two kinds), of where block groups are kept, and of the checksums of data and metadata, begun
/// and not finished.
const FLAGS_CHANGING: u64 = 1 << 35 | 1 << 36 | 1 << 38 | 1 << 39 | 1 << 40;

const INCOMPAT_MIXED_GROUPS: u64 = 0x4;
const INCOMPAT_METADATA_UUID: u64 = 0x400;
/// Mixed back references, default subvolume, mixed groups, LZO, zstd, big metadata, extended references, skinny
/// metadata, no holes, metadata UUID. Not: RAID 5 and 6, RAID 1 with three or four copies, zones, second version of
/// the extent tree, stripe tree, simple quotas.
const INCOMPAT_KNOWN: u64 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400;

const RO_FREE_SPACE_TREE: u64 = 0x1;
const RO_FREE_SPACE_TREE_VALID: u64 = 0x2;
const RO_BLOCK_GROUP_TREE: u64 = 0x8;
/// Free space tree, whether it is valid, verity, block group tree.
const RO_KNOWN: u64 = 0x1 | 0x2 | 0x4 | 0x8;

/// Where a tree starts, and what its root must say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// The tree's number, which all its nodes bear.
    pub(crate) tree: u64,
    pub(crate) logical: u64,
    pub(crate) generation: u64,
    pub(crate) level: u8,
}

/// What the rest needs to know of the file system.
#[derive(Debug)]
pub(crate) struct Superblock {
    pub(crate) checksum: Checksum,
    pub(crate) generation: u64,
    pub(crate) sector_bytes: u64,
    pub(crate) node_bytes: u64,
    /// Bytes of all extents together; a DUP extent counts once.
    pub(crate) used_bytes: u64,
    /// The UUID that nodes bear.
    pub(crate) uuid: [u8; 16],
    pub(crate) device_item: DeviceItem,
    pub(crate) chunk_tree: Root,
    pub(crate) root_tree: Root,
    pub(crate) label: Option<String>,
    incompat: u64,
    read_only: u64,
    system_chunks: Vec<u8>,
}

const CHUNK_TREE: u64 = 3;
const ROOT_TREE: u64 = 1;

fn is_superblock(raw: &[u8; LENGTH], place: u64) -> bool {
    raw[64..72] == *MAGIC && raw.u64_at(48) == place
}

impl Superblock {
    /// Reads the superblock that counts.
    pub(crate) fn read(device: &Device<'_>) -> Checked<Self> {
        let Some(raw) = device.read::<LENGTH>(PLACES[0])? else {
            return Err(keep(reason::KEPT_GEOMETRY, "the device is shorter than a superblock"));
        };
        let superblock = Self::parse(&raw, device.length_bytes())?;
        superblock.check_copies(device, &raw)?;
        Ok(superblock)
    }

    fn parse(raw: &[u8; LENGTH], device_bytes: u64) -> Checked<Self> {
        let Some(checksum) = Checksum::by_number(raw.u16_at(196)) else {
            return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "the kind of checksum is not known"));
        };
        if !is_superblock(raw, PLACES[0]) || !checksum.holds(raw) {
            return Err(keep(reason::KEPT_CHECKSUM, "the checksum of the superblock is wrong"));
        }
        let (incompat, read_only) = (raw.u64_at(188), raw.u64_at(180));
        check_flags(raw.u64_at(56))?;
        check_features(raw.u64_at(172), read_only, incompat)?;
        check_state(raw)?;
        let uuid = if incompat & INCOMPAT_METADATA_UUID == 0 { 32..48 } else { 571..587 };
        let root = |tree, logical, generation, level: usize| Root {
            tree,
            logical: raw.u64_at(logical),
            generation: raw.u64_at(generation),
            level: raw[level],
        };
        let label = raw[299..555].split(|byte| *byte == 0).next().unwrap_or_default();
        let system_chunks = raw.u32_at(160) as usize;
        let superblock = Self {
            checksum,
            generation: raw.u64_at(72),
            sector_bytes: raw.u32_at(144).into(),
            node_bytes: raw.u32_at(148).into(),
            used_bytes: raw.u64_at(120),
            uuid: raw[uuid].try_into().expect("sixteen bytes"),
            device_item: DeviceItem::parse(&raw[201..299]),
            chunk_tree: root(CHUNK_TREE, 88, 164, 199),
            root_tree: root(ROOT_TREE, 80, 72, 198),
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned()),
            incompat,
            read_only,
            system_chunks: raw[SYSTEM_CHUNKS..][..system_chunks.min(SYSTEM_CHUNKS_BYTES_MAX)].to_vec(),
        };
        let total_bytes = raw.u64_at(112);
        let sane = superblock.is_sane()
            && system_chunks <= SYSTEM_CHUNKS_BYTES_MAX
            && raw.u32_at(152) == raw.u32_at(148)
            && superblock.device_item.uuid_of_system == superblock.uuid
            // Old tools did not round the sum down to whole sectors.
            && total_bytes / superblock.sector_bytes == superblock.device_item.total_bytes / superblock.sector_bytes;
        if !sane {
            return Err(keep(reason::KEPT_GEOMETRY, "the sizes in the superblock contradict each other"));
        }
        if superblock.device_item.total_bytes > device_bytes {
            return Err(keep(reason::KEPT_GEOMETRY, "the file system is larger than its device"));
        }
        Ok(superblock)
    }

    fn is_sane(&self) -> bool {
        let block = |bytes: u64| bytes.is_power_of_two() && (4096..=65_536).contains(&bytes);
        block(self.sector_bytes)
            && block(self.node_bytes)
            && self.sector_bytes <= self.node_bytes
            && self.generation > 0
            && self.chunk_tree.generation <= self.generation
            && [self.chunk_tree, self.root_tree].iter().all(|root| root.level < LEVELS)
    }

    /// The kernel mounts by the first superblock alone. Where a copy is newer, the last commit was cut short or the
    /// first one was put back from somewhere: which of the two the owner wants nobody can tell.
    fn check_copies(&self, device: &Device<'_>, raw: &[u8; LENGTH]) -> Checked<()> {
        for place in PLACES[1..].iter().filter(|place| **place < self.device_item.total_bytes) {
            let Some(copy) = device.read::<LENGTH>(*place)? else { continue };
            if is_superblock(&copy, *place)
                && copy[32..48] == raw[32..48]
                && self.checksum.holds(&copy)
                && copy.u64_at(72) > self.generation
            {
                return Err(keep(reason::KEPT_NOT_CLEAN, "a copy of the superblock is newer than the first"));
            }
        }
        Ok(())
    }

    /// Data and metadata may share a block group.
    pub(crate) fn has_mixed_groups(&self) -> bool {
        self.incompat & INCOMPAT_MIXED_GROUPS != 0
    }

    /// The free space is written down a second time, and the second record is in force.
    pub(crate) fn has_free_space_tree(&self) -> bool {
        const BOTH: u64 = RO_FREE_SPACE_TREE | RO_FREE_SPACE_TREE_VALID;
        self.read_only & BOTH == BOTH
    }

    /// Block groups are described in a tree of their own.
    pub(crate) fn has_block_group_tree(&self) -> bool {
        self.read_only & RO_BLOCK_GROUP_TREE != 0
    }

    /// The chunks that hold the chunk tree: keys and items, one behind the other.
    pub(crate) fn system_chunks(&self) -> &[u8] {
        &self.system_chunks
    }
}

fn check_flags(flags: u64) -> Result<(), Kept> {
    if flags & FLAG_ERROR != 0 {
        return Err(Kept::whole(reason::KEPT_ERROR_STATE, "the file system has recorded errors"));
    }
    if flags & FLAG_SEEDING != 0 {
        return Err(Kept::whole(reason::KEPT_OTHER_DEVICE, "other file systems grow from this one"));
    }
    if flags & FLAGS_CHANGING != 0 {
        let message = "a change of the whole file system was begun and not finished";
        return Err(Kept::whole(reason::KEPT_CHANGE_UNDER_WAY, message));
    }
    if flags != FLAG_WRITTEN {
        let message = format!("superblock flags {flags:#x} are not known");
        return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
    }
    Ok(())
}

fn check_features(compat: u64, read_only: u64, incompat: u64) -> Result<(), Kept> {
    let unknown = [
        ("compatible", compat),
        ("incompatible", incompat & !INCOMPAT_KNOWN),
        ("read-only", read_only & !RO_KNOWN),
    ];
    match unknown.into_iter().find(|(_, bits)| *bits != 0) {
        Some((kind, bits)) => {
            let message = format!("{kind} features {bits:#x} are not known");
            Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message))
        }
        None => Ok(()),
    }
}

fn check_state(raw: &[u8; LENGTH]) -> Result<(), Kept> {
    if raw.u64_at(136) != 1 {
        let message = "the file system spans several devices";
        return Err(Kept::whole(reason::KEPT_OTHER_DEVICE, message));
    }
    // Blocks that the log wrote are in no extent tree until it is replayed.
    if raw.u64_at(96) != 0 {
        return Err(Kept::whole(reason::KEPT_NEEDS_RECOVERY, "the log must be replayed first"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chunk::Chunks;
    use super::*;

    /// The least that passes: one device of 64 MiB, and no chunk.
    fn smallest() -> [u8; LENGTH] {
        let mut raw = [0; LENGTH];
        let words =
            [(48, PLACES[0]), (56, FLAG_WRITTEN), (72, 7), (112, 64 << 20), (136, 1), (209, 64 << 20)];
        for (at, value) in words {
            raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        raw[64..72].copy_from_slice(MAGIC);
        for at in [144, 148, 152] {
            raw[at + 1] = 0x10;
        }
        seal(&mut raw);
        raw
    }

    fn seal(raw: &mut [u8; LENGTH]) {
        let sum = crc32c::crc32c(&raw[32..]).to_le_bytes();
        raw[..4].copy_from_slice(&sum);
    }

    #[test]
    fn the_smallest_superblock_is_read() {
        let superblock = Superblock::parse(&smallest(), 64 << 20).expect("sound");
        assert_eq!((superblock.sector_bytes, superblock.node_bytes, superblock.generation), (4096, 4096, 7));
        assert!(Superblock::parse(&smallest(), (64 << 20) - 1).is_err());
    }

    proptest! {
        #[test]
        fn noise_behind_a_right_checksum_is_survived(
            words in prop::collection::vec((72..1000_usize, prop_oneof![0..5_u64, any::<u64>()]), 0..8),
            chunks in prop::collection::vec(any::<u8>(), 0..300),
            length in 0..400_u32,
        ) {
            let mut raw = smallest();
            for (at, value) in words {
                raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            raw[SYSTEM_CHUNKS..][..chunks.len()].copy_from_slice(&chunks);
            raw[160..164].copy_from_slice(&length.to_le_bytes());
            seal(&mut raw);
            if let Ok(superblock) = Superblock::parse(&raw, 64 << 20) {
                prop_assert!(superblock.device_item.total_bytes <= 64 << 20);
                let _ = Chunks::of_system(&superblock);
            }
        }
    }
}
