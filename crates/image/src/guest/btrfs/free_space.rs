//! The free space tree: the complement of the extent tree, written down a second time. It is compared and never
//! believed by itself.
//!
//! Each block group has an item with the number of its free ranges, and then either the ranges themselves as keys
//! without data, or bitmaps with a bit for each sector, the lowest first, where 1 is free.

use std::ops::Range;

use super::chunk::Chunk;
use super::superblock::Superblock;
use super::walk::Walk;
use super::{Checked, keep};
use crate::guest::device::Fields;
use crate::guest::ranges;
use crate::reason;

const FREE_SPACE_INFO: u8 = 198;
const FREE_SPACE_EXTENT: u8 = 199;
const FREE_SPACE_BITMAP: u8 = 200;
const FLAG_BITMAPS: u32 = 1;

/// Compares what the tree has of a chunk with `free`. The walk is not past the chunk's first item, and is left behind
/// its last one. Items between chunks mean nothing: mkfs.btrfs leaves those of groups that it has removed again.
pub(crate) fn check(
    walk: &mut Walk<'_>,
    superblock: &Superblock,
    chunk: &Chunk,
    free: &[Range<u64>],
) -> Checked<()> {
    let differs = || keep(reason::KEPT_FREE_COUNT, "the free space tree and the extent tree disagree");
    let logical = &chunk.logical;
    pass(walk, logical.start)?;
    let info = walk.item().filter(|(key, item)| {
        (key.objectid, key.kind, key.offset) == (logical.start, FREE_SPACE_INFO, chunk.length_bytes())
            && item.len() == 8
            && u64::from(item.u32_at(0)) == free.len() as u64
            && item.u32_at(4) & !FLAG_BITMAPS == 0
    });
    let bitmaps = info.ok_or_else(differs)?.1.u32_at(4) == FLAG_BITMAPS;
    walk.advance()?;
    // Bitmaps cut a range in two: a piece is compared when the next one does not touch it.
    let (mut expected, mut place) = (free.iter(), logical.start);
    let mut pending: Vec<Range<u64>> = Vec::new();
    while let Some((key, item)) = walk.item().filter(|(key, _)| key.objectid < logical.end) {
        let end = key.objectid.checked_add(key.offset).filter(|end| *end <= logical.end);
        let whole = key.objectid..end.ok_or_else(differs)?;
        if whole.is_empty() || whole.start < place {
            return Err(differs());
        }
        place = whole.end;
        match key.kind {
            FREE_SPACE_EXTENT if !bitmaps && item.is_empty() => ranges::push_joined(&mut pending, whole),
            FREE_SPACE_BITMAP if bitmaps => {
                bitmap(superblock.sector_bytes, whole, item, &mut pending).ok_or_else(differs)?;
            }
            _ => return Err(differs()),
        }
        let complete = pending.len().saturating_sub(1);
        if pending.drain(..complete).any(|range| expected.next() != Some(&range)) {
            return Err(differs());
        }
        walk.advance()?;
    }
    if pending.iter().any(|range| expected.next() != Some(range)) || expected.next().is_some() {
        return Err(differs());
    }
    Ok(())
}

/// Goes past what the tree has below a logical address.
fn pass(walk: &mut Walk<'_>, end: u64) -> Checked<()> {
    while walk.item().is_some_and(|(key, _)| key.objectid < end) {
        walk.advance()?;
    }
    Ok(())
}

/// Adds the free ranges of a bitmap over `whole`; `None` when it has another length.
fn bitmap(sector_bytes: u64, whole: Range<u64>, bits: &[u8], free: &mut Vec<Range<u64>>) -> Option<()> {
    let length = whole.end - whole.start;
    let sectors = length / sector_bytes;
    if !length.is_multiple_of(sector_bytes) || bits.len() as u64 != sectors.div_ceil(8) {
        return None;
    }
    for sector in 0..sectors {
        if bits[(sector / 8) as usize] >> (sector % 8) & 1 == 1 {
            let start = whole.start + sector * sector_bytes;
            ranges::push_joined(free, start..start + sector_bytes);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_count_from_the_lowest_bit() {
        let mut free = Vec::new();
        ranges::push_joined(&mut free, 0..4096);
        assert!(bitmap(4096, 4096..11 * 4096, &[0b1000_0011, 0b11], &mut free).is_some());
        assert_eq!(free, [0..3 * 4096, 8 * 4096..11 * 4096]);
        assert!(bitmap(4096, 0..17 * 4096, &[0; 2], &mut free).is_none());
        assert!(bitmap(4096, 0..4097, &[0; 1], &mut free).is_none());
    }
}
