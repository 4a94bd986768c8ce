//! The two trees of free extents in an allocation group: one sorted by place, one by size.
//!
//! A level is read at a time, from left to right, so that neither depth nor loops can do harm: keys must ascend over
//! the whole level, and each block must name its neighbours.

use std::ops::Range;

use super::fields::BigEndian;
use super::group::{Group, Seal};
use super::superblock::Superblock;
use super::{Found, Stop};
use crate::error::Result;
use crate::guest::device::Device;
use crate::reason;

/// Levels of a tree: with the smallest blocks and the largest group.
const LEVELS_MAX: u32 = 9;
/// Leaves that are remembered, of all groups together, and of a tree while it is read: 2 MiB of them.
pub(crate) const LEAVES_MAX: usize = 1 << 17;
/// No block there.
const NOWHERE: u32 = u32::MAX;
const SEAL: Seal = Seal { uuid: 32, sequence: 24, checksum: 52 };
const RECORD: usize = 8;
const POINTER: usize = 4;

/// One of the two trees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree {
    pub(crate) order: Order,
    pub(crate) root: u32,
    pub(crate) levels: u32,
}

/// What a tree is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Place,
    Size,
}

/// A free extent, in blocks of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u32,
    pub(crate) length: u32,
}

/// A block of a tree as its parent names it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) block: u32,
    /// Rank of its first record; the root has no parent to tell.
    rank: Option<u64>,
}

/// A leaf of the tree by place that was found sound.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) group: u32,
    /// First block of its first extent.
    pub(crate) first: u32,
    pub(crate) block: u32,
    /// CRC-32C over the whole block as it was checked.
    pub(crate) checksum: u32,
}

/// The content of a block of a tree.
pub(crate) struct Node<'a> {
    /// All of the block.
    pub(crate) bytes: &'a [u8],
    header: usize,
    count: usize,
}

impl Order {
    fn magic(self, superblock: &Superblock) -> &'static [u8; 4] {
        match (self, superblock.has_checksums) {
            (Self::Place, false) => b"ABTB",
            (Self::Place, true) => b"AB3B",
            (Self::Size, false) => b"ABTC",
            (Self::Size, true) => b"AB3C",
        }
    }

    /// A number that ascends strictly in the tree.
    fn rank(self, extent: Extent) -> u64 {
        match self {
            Self::Place => extent.start.into(),
            Self::Size => u64::from(extent.length) << 32 | u64::from(extent.start),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Place => "tree of free space by place",
            Self::Size => "tree of free space by size",
        }
    }
}

fn header_bytes(superblock: &Superblock) -> usize {
    if superblock.has_checksums { 56 } else { 16 }
}

impl Node<'_> {
    /// The records of a leaf, or the keys of an inner block.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> {
        let records = self.bytes[self.header..].chunks_exact(RECORD).take(self.count);
        records.map(|record| Extent { start: record.u32_be(0), length: record.u32_be(4) })
    }

    /// Children of an inner block; pointers begin behind the room for all keys.
    fn children(&self, order: Order) -> impl Iterator<Item = Child> {
        let room = (self.bytes.len() - self.header) / (RECORD + POINTER);
        let pointers = self.bytes[self.header + room * RECORD..].chunks_exact(POINTER);
        let child = move |(extent, pointer): (Extent, &[u8])| Child {
            block: pointer.u32_be(0),
            rank: Some(order.rank(extent)),
        };
        self.extents().zip(pointers).map(child)
    }
}

impl Tree {
    fn fault(&self, group: &Group<'_>, reason: &'static str, what: &str) -> Stop {
        group.fault(reason, &format!("{}: {what}", self.order.name()))
    }

    /// Goes down to the leaves, and adds every block of the tree to `blocks`.
    pub(crate) fn descend(&self, group: &Group<'_>, blocks: &mut Vec<u32>) -> Found<Vec<Child>> {
        if !(1..=LEVELS_MAX).contains(&self.levels) {
            return Err(self.fault(group, reason::KEPT_GEOMETRY, "the number of levels cannot be"));
        }
        let mut level = vec![Child { block: self.root, rank: None }];
        blocks.push(self.root);
        for height in (1..self.levels).rev() {
            let mut below: Vec<Child> = Vec::new();
            self.read_level(group, &level, height, |_, node| {
                below.extend(node.children(self.order));
                if below.len() > LEAVES_MAX {
                    return Err(self.fault(group, reason::KEPT_LIMIT, "too large"));
                }
                Ok(())
            })?;
            blocks.extend(below.iter().map(|child| child.block));
            level = below;
        }
        Ok(level)
    }

    /// Calls `visit` with each block of a level, from left to right.
    pub(crate) fn read_level(
        &self,
        group: &Group<'_>,
        level: &[Child],
        height: u32,
        mut visit: impl FnMut(&Child, &Node<'_>) -> Found<()>,
    ) -> Found<()> {
        let superblock = group.context.superblock;
        let neighbour = |index: Option<usize>| {
            index.and_then(|index| level.get(index)).map_or(NOWHERE, |child| child.block)
        };
        // A block at most, and blocks are 64 KiB at most.
        let mut bytes = vec![0; superblock.block_bytes as usize];
        let mut previous: Option<u64> = None;
        for (index, child) in level.iter().enumerate() {
            group.context.control.check_cancelled()?;
            let node = self.read_node(group, child.block, height, &mut bytes)?;
            let left = node.bytes.u32_be(8) == neighbour(index.checked_sub(1));
            if !left || node.bytes.u32_be(12) != neighbour(Some(index + 1)) {
                return Err(self.fault(group, reason::KEPT_GEOMETRY, "a block names wrong neighbours"));
            }
            let first = node.extents().next().map(|extent| self.order.rank(extent));
            // Only a root may be empty, and only as a leaf.
            if child.rank != first && child.rank.is_some() || first.is_none() && self.levels > 1 {
                return Err(self.fault(group, reason::KEPT_GEOMETRY, "a block does not fit its parent"));
            }
            for rank in node.extents().map(|extent| self.order.rank(extent)) {
                if previous.is_some_and(|previous| rank <= previous) {
                    return Err(self.fault(group, reason::KEPT_GEOMETRY, "not in order"));
                }
                previous = Some(rank);
            }
            visit(child, &node)?;
        }
        Ok(())
    }

    /// Reads a block and checks what can be told from it alone.
    fn read_node<'b>(
        &self,
        group: &Group<'_>,
        block: u32,
        height: u32,
        bytes: &'b mut [u8],
    ) -> Found<Node<'b>> {
        let superblock = group.context.superblock;
        let inside = (superblock.header_blocks()..group.blocks).contains(&block)
            && group.context.device.read_at(bytes, group.place(block))?;
        if !inside {
            return Err(self.fault(group, reason::KEPT_GEOMETRY, "a block lies outside the group"));
        }
        if bytes[..4] != *self.order.magic(superblock) || u32::from(bytes.u16_be(4)) != height {
            return Err(self.fault(group, reason::KEPT_GEOMETRY, "a block is something else"));
        }
        if superblock.has_checksums {
            group.check_seal(bytes, &SEAL, self.order.name())?;
            // In sectors of 512 bytes, whatever those of the file system are.
            if bytes.u64_be(16) != group.place(block) / 512 || bytes.u32_be(48) != group.number {
                return Err(self.fault(group, reason::KEPT_GEOMETRY, "a block belongs elsewhere"));
            }
        }
        let header = header_bytes(superblock);
        let item = if height == 0 { RECORD } else { RECORD + POINTER };
        let count = usize::from(bytes.u16_be(6));
        if count > (bytes.len() - header) / item {
            return Err(self.fault(group, reason::KEPT_GEOMETRY, "a block has more than fits"));
        }
        Ok(Node { bytes, header, count })
    }
}

impl Leaf {
    /// Reads the leaf again: its extents as bytes of the device, or none when it is not what it was.
    pub(crate) fn read(&self, device: &Device<'_>, superblock: &Superblock) -> Result<Vec<Range<u64>>> {
        let mut bytes = vec![0; superblock.block_bytes as usize];
        let read = device.read_at(&mut bytes, superblock.block_place(self.group, self.block))?;
        if !read || crc32c::crc32c(&bytes) != self.checksum {
            return Ok(Vec::new());
        }
        let node = Node { bytes: &bytes, header: header_bytes(superblock), count: bytes.u16_be(6).into() };
        let place = |extent: Extent| {
            let start = superblock.block_place(self.group, extent.start);
            start..start + u64::from(extent.length) * superblock.block_bytes
        };
        Ok(node.extents().map(place).collect())
    }
}

#[cfg(test)]
mod tests;
