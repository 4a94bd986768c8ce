//! What is free in one block group: the space that no extent covers.
//!
//! Field places: "On-disk format" of the Btrfs documentation, `struct btrfs_extent_item`, `btrfs_block_group_item`.

use std::ops::Range;

use super::chunk::Chunk;
use super::node::Key;
use super::superblock::{LEVELS, Superblock};
use super::walk::Walk;
use super::{Checked, keep};
use crate::guest::Kept;
use crate::guest::device::Fields;
use crate::reason;

/// Free ranges of one group that are remembered, 2 MiB of them: as many as a group of 1 GiB can have.
pub(crate) const RANGES_MAX: usize = 1 << 17;

const EXTENT_ITEM: u8 = 168;
const METADATA_ITEM: u8 = 169;
/// References of tree blocks and of data, by tree or by parent.
const REFERENCES: [u8; 4] = [176, 178, 182, 184];
const BLOCK_GROUP_ITEM: u8 = 192;
const CHUNK_TREE_OBJECT: u64 = 256;

const EXTENT_BYTES: usize = 24;
const FLAG_DATA: u64 = 1;
const FLAG_TREE_BLOCK: u64 = 2;
const FLAG_FULL_REFERENCE: u64 = 1 << 8;

/// The extents of a block group, added up.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Bytes of its extents.
    pub(crate) used_bytes: u64,
    /// The same as the block group's item says, when that is in the extent tree.
    pub(crate) stated_bytes: Option<u64>,
    /// Logical addresses, ascending, that no extent covers; `None` when there are too many.
    pub(crate) free: Option<Vec<Range<u64>>>,
}

/// Reads what the extent tree has of a chunk. The walk is at the first item that no earlier chunk has, and is left at
/// the first one from `next` on, the start of the following chunk: so nothing between chunks is passed over.
pub(crate) fn read(walk: &mut Walk<'_>, superblock: &Superblock, chunk: &Chunk, next: u64) -> Checked<Group> {
    let malformed = || keep(reason::KEPT_TREE, "an item of the extent tree makes no sense");
    let mut group = Group { free: Some(Vec::new()), ..Group::default() };
    // What was seen up to here; the start of the last extent.
    let (mut place, mut owner) = (chunk.logical.start, None);
    while let Some((key, item)) = walk.item().filter(|(key, _)| key.objectid < next) {
        match key.kind {
            EXTENT_ITEM | METADATA_ITEM => {
                let extent = extent(superblock, chunk, key, item).ok_or_else(malformed)?;
                if extent.start < place || extent.end > chunk.logical.end {
                    return Err(keep(reason::KEPT_TREE, "extents overlap, or lie in no chunk"));
                }
                group.used_bytes += extent.end - extent.start;
                group.add(place..extent.start);
                (place, owner) = (extent.end, Some(extent.start));
            }
            BLOCK_GROUP_ITEM if !superblock.has_block_group_tree() => {
                let stated = stated_bytes(chunk, key, item)?;
                if group.stated_bytes.replace(stated).is_some() {
                    return Err(malformed());
                }
            }
            kind if REFERENCES.contains(&kind) => {
                if owner != Some(key.objectid) {
                    return Err(malformed());
                }
            }
            kind => {
                let message = format!("items of kind {kind} in the extent tree are not known");
                return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message).into());
            }
        }
        walk.advance()?;
    }
    group.add(place..chunk.logical.end);
    Ok(group)
}

impl Group {
    fn add(&mut self, range: Range<u64>) {
        if let Some(free) = self.free.as_mut().filter(|_| !range.is_empty()) {
            free.push(range);
            if free.len() > RANGES_MAX {
                self.free = None;
            }
        }
    }
}

/// The addresses of an extent, or `None` when its item contradicts itself or the chunk.
fn extent(superblock: &Superblock, chunk: &Chunk, key: Key, item: &[u8]) -> Option<Range<u64>> {
    if item.len() < EXTENT_BYTES {
        return None;
    }
    let (references, generation, flags) = (item.u64_at(0), item.u64_at(8), item.u64_at(16));
    let data = match flags & !FLAG_FULL_REFERENCE {
        FLAG_DATA => true,
        FLAG_TREE_BLOCK => false,
        _ => return None,
    };
    let length = if key.kind == EXTENT_ITEM { key.offset } else { superblock.node_bytes };
    let fits = if data {
        key.kind == EXTENT_ITEM
    } else {
        length == superblock.node_bytes && (key.kind == EXTENT_ITEM || key.offset < LEVELS.into())
    };
    let sane = fits
        && chunk.takes(data)
        && references > 0
        && generation <= superblock.generation
        && length > 0
        && length.is_multiple_of(superblock.sector_bytes)
        && key.objectid.is_multiple_of(superblock.sector_bytes);
    let end = key.objectid.checked_add(length)?;
    sane.then_some(key.objectid..end)
}

/// The used bytes that the item of a block group states; each chunk has exactly one.
pub(crate) fn stated_bytes(chunk: &Chunk, key: Key, item: &[u8]) -> Checked<u64> {
    let expected =
        Key { objectid: chunk.logical.start, kind: BLOCK_GROUP_ITEM, offset: chunk.length_bytes() };
    if key != expected
        || item.len() != 24
        || item.u64_at(8) != CHUNK_TREE_OBJECT
        || item.u64_at(16) != chunk.flags
    {
        return Err(keep(reason::KEPT_GEOMETRY, "block groups and chunks disagree"));
    }
    Ok(item.u64_at(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_too_scattered_is_kept_and_its_ranges_forgotten() {
        let mut group = Group { free: Some(Vec::new()), ..Group::default() };
        for number in 0..RANGES_MAX as u64 {
            group.add(number * 8..number * 8 + 4);
            group.add(0..0);
        }
        assert_eq!(group.free.as_ref().map(Vec::len), Some(RANGES_MAX));
        for number in 0..10 {
            group.add(1 << 40..(1 << 40) + 4 + number);
            assert_eq!(group.free, None);
        }
    }
}
