//! Where the blocks of a file lie: a tree of extents, or a map of blocks.
//!
//! A file without holes is wanted, so each entry must go on where the last one ended. That alone bounds the walk: no
//! entry is looked at that does not add blocks, and a tree is no deeper than its levels.

use std::ops::Range;

use super::checksum::crc32c_seeded;
use super::inode::Inode;
use super::superblock::Superblock;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::guest::reader::Stop;
use crate::reason;

/// Pieces of a file, and blocks of its map, that are remembered.
const RUNS_MAX: usize = 1 << 16;
/// Blocks of a file that are looked for: the largest journal that the tools make.
const BLOCKS_MAX: u64 = 10_240_000;

const EXTENT_MAGIC: u16 = 0xf30a;
const EXTENT_BYTES: usize = 12;
const EXTENT_DEPTH_MAX: u16 = 5;
/// A longer extent was set aside and never written.
const EXTENT_BLOCKS_MAX: u64 = 32_768;

const DIRECT: usize = 12;

/// The blocks of a file without holes.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    /// In the order of the file.
    pub(crate) data: Vec<Range<u64>>,
    /// Blocks of the tree or the map itself.
    pub(crate) tree: Vec<u64>,
    blocks: u64,
    wanted: u64,
}

fn odd(message: &str) -> Stop {
    Kept::whole(reason::KEPT_JOURNAL, message).into()
}

/// A node of a tree of extents.
struct Node {
    bytes: Vec<u8>,
    entries: usize,
    next: usize,
    depth: u16,
}

impl Node {
    /// Checks the head of a node; `depth` is known of all but the root.
    fn parse(bytes: Vec<u8>, depth: Option<u16>) -> Result<Self, Stop> {
        let (entries, largest) = (usize::from(bytes.u16_at(2)), usize::from(bytes.u16_at(4)));
        let found = bytes.u16_at(6);
        let sound = bytes.u16_at(0) == EXTENT_MAGIC
            && (1..=largest).contains(&entries)
            && largest < bytes.len() / EXTENT_BYTES
            && depth.map_or(found <= EXTENT_DEPTH_MAX, |depth| found == depth);
        if !sound {
            return Err(odd("a node of the journal's extents is not one"));
        }
        Ok(Self { bytes, entries, next: 0, depth: found })
    }

    fn next(&mut self) -> Option<[u8; EXTENT_BYTES]> {
        if self.next == self.entries {
            return None;
        }
        self.next += 1;
        let mut entry = [0; EXTENT_BYTES];
        entry.copy_from_slice(&self.bytes[self.next * EXTENT_BYTES..][..EXTENT_BYTES]);
        Some(entry)
    }
}

impl Mapping {
    /// Finds all blocks of `inode`.
    pub(crate) fn read(device: &Device<'_>, superblock: &Superblock, inode: &Inode) -> Result<Self, Stop> {
        let wanted = inode.size_bytes / superblock.block_bytes;
        let whole = inode.size_bytes.is_multiple_of(superblock.block_bytes);
        if !whole || !(1..=BLOCKS_MAX).contains(&wanted) {
            return Err(odd("the size of the journal makes no sense"));
        }
        let mut mapping = Self { wanted, ..Self::default() };
        if inode.uses_extents {
            mapping.walk_extents(device, superblock, inode)?;
        } else {
            mapping.walk_map(device, superblock, inode)?;
        }
        if mapping.blocks != wanted {
            return Err(odd("the journal has fewer blocks than its size says"));
        }
        Ok(mapping)
    }

    fn walk_extents(
        &mut self,
        device: &Device<'_>,
        superblock: &Superblock,
        inode: &Inode,
    ) -> Result<(), Stop> {
        let mut path = vec![Node::parse(inode.map.to_vec(), None)?];
        while let Some(node) = path.last_mut() {
            let Some(entry) = node.next() else {
                path.pop();
                continue;
            };
            if u64::from(entry.u32_at(0)) != self.blocks {
                return Err(odd("the journal's extents have a hole or overlap"));
            }
            if node.depth == 0 {
                let length = u64::from(entry.u16_at(4));
                if length > EXTENT_BLOCKS_MAX {
                    return Err(odd("a part of the journal was never written"));
                }
                let start = u64::from(entry.u32_at(8)) | u64::from(entry.u16_at(6)) << 32;
                self.add(start..start + length)?;
                continue;
            }
            let depth = node.depth - 1;
            let block = u64::from(entry.u32_at(4)) | u64::from(entry.u16_at(8)) << 32;
            let bytes = self.read_block(device, superblock, block)?;
            let node = Node::parse(bytes, Some(depth))?;
            if superblock.has_metadata_checksums() && !node_holds(inode, &node.bytes) {
                let message = "the checksum of a node of the journal's extents is wrong";
                return Err(Kept::whole(reason::KEPT_CHECKSUM, message).into());
            }
            path.push(node);
        }
        Ok(())
    }

    /// Fifteen numbers: twelve of blocks, then one each of a block of numbers, of a block of those, and one more.
    fn walk_map(&mut self, device: &Device<'_>, superblock: &Superblock, inode: &Inode) -> Result<(), Stop> {
        // Blocks of numbers on the way down, each with the place of the next number; none is deeper than three.
        let mut path = vec![(inode.map.to_vec(), 0_usize)];
        while let Some((bytes, next)) = path.last_mut() {
            let Some(number) = bytes.get(*next..*next + 4) else {
                path.pop();
                continue;
            };
            let block = u64::from(number.u32_at(0));
            *next += 4;
            if self.blocks == self.wanted {
                if block != 0 {
                    return Err(odd("the journal has more blocks than its size says"));
                }
                continue;
            }
            if block == 0 {
                return Err(odd("the journal has a hole"));
            }
            // How many blocks of numbers lie between the inode and the data: the root is past its entry already.
            let levels = (path[0].1 / 4).saturating_sub(DIRECT);
            if path.len() > levels {
                self.add(block..block + 1)?;
            } else {
                let bytes = self.read_block(device, superblock, block)?;
                path.push((bytes, 0));
            }
        }
        Ok(())
    }

    fn read_block(
        &mut self,
        device: &Device<'_>,
        superblock: &Superblock,
        block: u64,
    ) -> Result<Vec<u8>, Stop> {
        if self.tree.len() == RUNS_MAX {
            return Err(Kept::whole(reason::KEPT_LIMIT, "the journal is too scattered").into());
        }
        let inside = block > superblock.first_data_block && block < superblock.blocks;
        let mut bytes = vec![0; superblock.block_bytes as usize];
        // Within the file system, whose end was found to lie on the device.
        if !inside || !device.read_at(&mut bytes, block * superblock.block_bytes)? {
            return Err(odd("the map of the journal leads outside the file system"));
        }
        self.tree.push(block);
        Ok(bytes)
    }

    fn add(&mut self, blocks: Range<u64>) -> Result<(), Stop> {
        if blocks.is_empty() || blocks.end - blocks.start > self.wanted - self.blocks {
            return Err(odd("the journal has more blocks than its size says"));
        }
        self.blocks += blocks.end - blocks.start;
        let full = self.data.len() == RUNS_MAX;
        match self.data.last_mut() {
            Some(last) if last.end == blocks.start => last.end = blocks.end,
            _ if full => {
                return Err(Kept::whole(reason::KEPT_LIMIT, "the journal is too scattered").into());
            }
            _ => self.data.push(blocks),
        }
        Ok(())
    }
}

/// Whether the checksum behind the last entry that a node has room for holds.
fn node_holds(inode: &Inode, bytes: &[u8]) -> bool {
    // Room for at least one entry less than the block was checked; what is left of the block is the checksum's.
    let tail = (usize::from(bytes.u16_at(4)) + 1) * EXTENT_BYTES;
    match bytes.get(tail..tail + 4) {
        Some(stored) => crc32c_seeded(inode.checksum_seed, &bytes[..tail]) == stored.u32_at(0),
        None => false,
    }
}
