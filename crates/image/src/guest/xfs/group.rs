//! One allocation group: its headers, its free list, and its two trees of free extents against each other.

use super::fields::{BigEndian, checksum_holds};
use super::superblock::{HEADER_SECTORS, is_newer};
use super::tree::{Child, Extent, LEAVES_MAX, Leaf, Order, Tree};
use super::{Context, Found, Stop};
use crate::guest::Kept;
use crate::reason;

/// Where a structure of version 5 keeps what vouches for it.
pub(crate) struct Seal {
    pub(crate) uuid: usize,
    pub(crate) sequence: usize,
    pub(crate) checksum: usize,
}

const HEADER_SEAL: Seal = Seal { uuid: 64, sequence: 208, checksum: 216 };
const LIST_SEAL: Seal = Seal { uuid: 8, sequence: 24, checksum: 32 };
/// Bytes before the block numbers of the free list.
const LIST_HEADER: usize = 36;
/// Entries of the free list that are not in use.
const NO_BLOCK: u32 = u32::MAX;

/// A group that is being checked.
pub(crate) struct Group<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) number: u32,
    pub(crate) blocks: u32,
}

/// What a group adds to the sums of the file system.
pub(crate) struct Sums {
    pub(crate) free_blocks: u64,
    /// Blocks that count as free but are in use: those of the free list, and of the trees but for their roots.
    pub(crate) reserved_blocks: u64,
}

/// The free-space header (AGF) of a group.
#[derive(Debug)]
struct Header {
    by_place: Tree,
    by_size: Tree,
    free_blocks: u64,
    longest: u32,
    list_blocks: u32,
    tree_blocks: u64,
    reverse_map_blocks: u64,
}

/// What both trees must agree on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    extents: u64,
    blocks: u64,
    longest: u32,
    digest: u64,
}

impl Tally {
    fn add(&mut self, extent: Extent) {
        self.extents += 1;
        // Extents do not overlap in a sound tree; in any other the sum cannot overflow, for lack of leaves.
        self.blocks += u64::from(extent.length);
        self.longest = self.longest.max(extent.length);
        // The order differs, so the digest must not depend on it: a sum of well-mixed numbers.
        let mut mixed = u64::from(extent.start) << 32 | u64::from(extent.length);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.digest = self.digest.wrapping_add(mixed ^ mixed >> 31);
    }
}

/// Checks a group, and adds its leaves to `leaves`.
pub(crate) fn check(context: &Context<'_>, number: u32, leaves: &mut Vec<Leaf>) -> Found<Sums> {
    let group = Group { context, number, blocks: context.superblock.blocks_of_group(number) };
    let (header, mut used) = group.read_headers()?;
    let by_size = header.by_size.descend(&group, &mut used)?;
    let by_place = header.by_place.descend(&group, &mut used)?;
    let tree_blocks = used.len() as u64 - u64::from(header.list_blocks);
    group.check_used(&mut used)?;
    group.check_tree_blocks(&header, tree_blocks)?;

    let mut sizes = Tally::default();
    header.by_size.read_level(&group, &by_size, 0, |_, node| {
        node.extents().for_each(|extent| sizes.add(extent));
        Ok(())
    })?;
    let places = group.read_places(&header.by_place, &by_place, &used, leaves)?;
    if places != sizes {
        return Err(group.fault(reason::KEPT_FREE_COUNT, "the trees of free space disagree"));
    }
    if places.blocks != header.free_blocks || places.longest != header.longest {
        return Err(
            group.fault(reason::KEPT_FREE_COUNT, "the free extents do not add up to the header's figures")
        );
    }
    let lazy = if context.superblock.has_lazy_counts { header.tree_blocks } else { 0 };
    Ok(Sums { free_blocks: places.blocks, reserved_blocks: u64::from(header.list_blocks) + lazy })
}

impl Group<'_> {
    /// First byte of a block of the group.
    pub(crate) fn place(&self, block: u32) -> u64 {
        self.context.superblock.block_place(self.number, block)
    }

    /// The reason to keep all, with the number of the group.
    pub(crate) fn fault(&self, reason: &'static str, what: &str) -> Stop {
        Kept::whole(reason, format!("allocation group {}: {what}", self.number)).into()
    }

    /// Checksum, UUID and sequence number of a structure of version 5.
    pub(crate) fn check_seal(&self, structure: &[u8], seal: &Seal, name: &str) -> Found<()> {
        if !checksum_holds(structure, seal.checksum) {
            return Err(self.fault(reason::KEPT_CHECKSUM, &format!("{name}: wrong checksum")));
        }
        if structure[seal.uuid..seal.uuid + 16] != self.context.superblock.metadata_uuid {
            return Err(self.fault(reason::KEPT_GEOMETRY, &format!("{name}: of another file system")));
        }
        if is_newer(structure.u64_be(seal.sequence), self.context.log_head) {
            return Err(self.fault(reason::KEPT_NOT_CLEAN, &format!("{name}: newer than the log")));
        }
        Ok(())
    }

    /// The header, and the blocks of the free list.
    fn read_headers(&self) -> Found<(Header, Vec<u32>)> {
        let superblock = self.context.superblock;
        self.context.control.check_cancelled()?;
        // Sectors are 32 KiB at most.
        let mut sectors = vec![0; HEADER_SECTORS * superblock.sector_bytes];
        if !self.context.device.read_at(&mut sectors, self.place(0))? {
            return Err(self.fault(reason::KEPT_GEOMETRY, "outside the device"));
        }
        let sector = |index: usize| &sectors[index * superblock.sector_bytes..][..superblock.sector_bytes];
        if !superblock.agrees_with(sector(0)) {
            return Err(self.fault(reason::KEPT_GEOMETRY, "its copy of the superblock disagrees"));
        }
        let header = self.parse_header(sector(1))?;
        let used = self.parse_list(sector(1), sector(3))?;
        Ok((header, used))
    }

    fn parse_header(&self, sector: &[u8]) -> Found<Header> {
        let name = "free-space header";
        if sector[..4] != *b"XAGF" || sector.u32_be(4) != 1 {
            return Err(self.fault(reason::KEPT_GEOMETRY, "the free-space header is something else"));
        }
        if self.context.superblock.has_checksums {
            self.check_seal(sector, &HEADER_SEAL, name)?;
        }
        if sector.u32_be(8) != self.number || sector.u32_be(12) != self.blocks {
            return Err(self.fault(reason::KEPT_GEOMETRY, "the free-space header is that of another group"));
        }
        Ok(Header {
            by_place: Tree { order: Order::Place, root: sector.u32_be(16), levels: sector.u32_be(28) },
            by_size: Tree { order: Order::Size, root: sector.u32_be(20), levels: sector.u32_be(32) },
            free_blocks: sector.u32_be(52).into(),
            longest: sector.u32_be(56),
            list_blocks: sector.u32_be(48),
            tree_blocks: sector.u32_be(60).into(),
            reverse_map_blocks: sector.u32_be(80).into(),
        })
    }

    /// The blocks that are set aside for the trees: a ring, of which the header tells the part in use.
    fn parse_list(&self, header: &[u8], sector: &[u8]) -> Found<Vec<u32>> {
        let name = "free list";
        let entries = if self.context.superblock.has_checksums {
            if sector[..4] != *b"XAFL" || sector.u32_be(4) != self.number {
                return Err(self.fault(reason::KEPT_GEOMETRY, "the free list is something else"));
            }
            self.check_seal(sector, &LIST_SEAL, name)?;
            &sector[LIST_HEADER..]
        } else {
            sector
        };
        let size = entries.len() / 4;
        let [first, last, count] = [40, 44, 48].map(|offset| header.u32_be(offset) as usize);
        // Some kernels took the ring for one entry shorter or longer than others do; the figures do not fit then.
        let spans = (last + size).wrapping_sub(first) % size + 1;
        if first >= size || last >= size || count > size || count != 0 && spans != count {
            return Err(
                self.fault(reason::KEPT_GEOMETRY, "the figures of the free list contradict each other")
            );
        }
        let blocks: Vec<u32> = (first..first + count).map(|index| entries.u32_be(index % size * 4)).collect();
        if blocks.contains(&NO_BLOCK) {
            return Err(self.fault(reason::KEPT_GEOMETRY, "the free list has a gap"));
        }
        Ok(blocks)
    }

    /// Sorts the blocks that are certainly in use; each must be in use once, inside the group and outside the log.
    fn check_used(&self, used: &mut [u32]) -> Found<()> {
        let superblock = self.context.superblock;
        used.sort_unstable();
        let inside = used.first().is_none_or(|first| *first >= superblock.header_blocks())
            && used.last().is_none_or(|last| *last < self.blocks);
        if !inside || used.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(self.fault(reason::KEPT_GEOMETRY, "blocks of the free-space structures overlap"));
        }
        let in_log = |block: &u32| superblock.log.contains(block);
        if self.number == superblock.log_group && used.iter().any(in_log) {
            return Err(self.fault(reason::KEPT_GEOMETRY, "free-space structures lie in the log"));
        }
        Ok(())
    }

    /// The header counts the blocks of the trees, the roots left out; that of the reverse map with them.
    fn check_tree_blocks(&self, header: &Header, found: u64) -> Found<()> {
        let superblock = self.context.superblock;
        let reverse_map = if superblock.has_reverse_map { header.reverse_map_blocks } else { 1 };
        if superblock.has_lazy_counts && header.tree_blocks + 3 != found + reverse_map {
            return Err(self.fault(reason::KEPT_FREE_COUNT, "the trees have another number of blocks"));
        }
        Ok(())
    }

    /// Reads the leaves by place. Each extent must lie inside the group and touch nothing that is in use.
    fn read_places(
        &self,
        tree: &Tree,
        level: &[Child],
        used: &[u32],
        leaves: &mut Vec<Leaf>,
    ) -> Found<Tally> {
        let superblock = self.context.superblock;
        let mut tally = Tally::default();
        let mut end = superblock.header_blocks();
        tree.read_level(self, level, 0, |child, node| {
            for extent in node.extents() {
                let behind = extent.start.checked_add(extent.length).filter(|behind| *behind <= self.blocks);
                let Some(behind) = behind.filter(|_| extent.length > 0 && extent.start >= end) else {
                    return Err(self.fault(reason::KEPT_GEOMETRY, "free extents overlap or leave the group"));
                };
                let next = used.partition_point(|block| *block < extent.start);
                let log = &superblock.log;
                let logged =
                    self.number == superblock.log_group && extent.start < log.end && log.start < behind;
                if logged || used.get(next).is_some_and(|block| *block < behind) {
                    return Err(self.fault(reason::KEPT_GEOMETRY, "a free extent covers what is in use"));
                }
                tally.add(extent);
                end = behind;
            }
            let Some(first) = node.extents().next() else { return Ok(()) };
            if leaves.len() >= LEAVES_MAX {
                return Err(self.fault(reason::KEPT_LIMIT, "too many free extents before its end"));
            }
            let checksum = crc32c::crc32c(node.bytes);
            leaves.push(Leaf { group: self.number, first: first.start, block: child.block, checksum });
            Ok(())
        })?;
        Ok(tally)
    }
}
