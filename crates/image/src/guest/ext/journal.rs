//! The body of a clean journal inside of the file system.
//!
//! A journal whose superblock says that nothing waits for replay is not read again: whoever mounts the file system
//! starts writing into it anew, and a replay later ends at the first block that is not of the next transaction, which
//! zeros never are. The tools make new journals of zeros themselves. So all but its first block can go; and the area of
//! fast commits, which has another reader, stays as well.
//!
//! What goes is told by an inode and its map, so these must be above doubt. The superblock has a copy of the inode's
//! map, which must agree. Below it, checksums vouch for a tree of extents. Where there are none, the journal must lie in
//! one piece, with nothing but its own map and metadata of the file system between its first block and its last: a
//! number that was changed leaves a hole there, or makes two of one block.
//!
//! Source: the layout as the kernel's `Documentation/filesystems/ext4` describes it (journal, inodes, block map).

use std::ops::Range;

use super::checksum::crc32c_seeded;
use super::inode::Inode;
use super::mapping::Mapping;
use super::metadata::Share;
use super::superblock::{JOURNAL_INODE, Superblock};
use super::{Ext, is_all_used};
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::guest::reader::Stop;
use crate::reason;

const MAGIC: u32 = 0xc03b_3998;
const KIND_FIRST: u32 = 3;
const KIND_SECOND: u32 = 4;
const LENGTH: usize = 1024;
const CHECKSUM: usize = 252;
const CHECKSUM_KIND_CRC32C: u8 = 4;

const COMPAT_KNOWN: u32 = 0x1;
const INCOMPAT_CHECKSUMS_2: u32 = 0x8;
const INCOMPAT_CHECKSUMS_3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// Revocations, 64-bit numbers, asynchronous commits, both kinds of checksums, fast commits.
const INCOMPAT_KNOWN: u32 =
    0x1 | 0x2 | 0x4 | INCOMPAT_CHECKSUMS_2 | INCOMPAT_CHECKSUMS_3 | INCOMPAT_FAST_COMMIT;
/// Blocks for fast commits when the superblock of the journal does not say how many.
const FAST_COMMIT_BLOCKS: u64 = 256;

fn keep(reason: &'static str, message: &str) -> Stop {
    Kept::whole(reason, message).into()
}

fn odd(message: &str) -> Stop {
    keep(reason::KEPT_JOURNAL, message)
}

/// Finds the blocks of the journal that can be dropped, ascending and disjoint.
pub(super) fn find(device: &Device<'_>, ext: &Ext) -> Result<Vec<Range<u64>>, Stop> {
    let superblock = &ext.superblock;
    if !superblock.is_valid() {
        return Err(odd("the file system was not closed"));
    }
    if !superblock.journal_is_internal() {
        return Err(odd("the journal is not inside of the file system"));
    }
    let inode = Inode::read(device, superblock, JOURNAL_INODE)?;
    let copy = superblock.journal_copy();
    if copy.is_none_or(|(map, size)| *map != inode.map || size != inode.size_bytes) {
        return Err(odd("the inode of the journal and its copy in the superblock disagree"));
    }
    let mapping = Mapping::read(device, superblock, &inode)?;
    check_places(device, ext, &mapping, inode.uses_extents)?;

    let first = mapping.data.first().map_or(0, |run| run.start);
    let total: u64 = mapping.data.iter().map(|run| run.end - run.start).sum();
    let Some(head) = device.read::<LENGTH>(first * superblock.block_bytes)? else {
        return Err(odd("the journal lies outside the device"));
    };
    let kept_at_end = check_head(&head, superblock, total)?;
    Ok(body(&mapping.data, total, kept_at_end))
}

/// All runs but the first block and the last `kept_at_end`, of `total` blocks.
fn body(runs: &[Range<u64>], total: u64, kept_at_end: u64) -> Vec<Range<u64>> {
    let wanted = 1..total.saturating_sub(kept_at_end);
    let mut place = 0;
    let mut body = Vec::new();
    for run in runs {
        let length = run.end - run.start;
        let first = wanted.start.clamp(place, place + length) - place;
        let last = wanted.end.clamp(place, place + length) - place;
        if first < last {
            body.push(run.start + first..run.start + last);
        }
        place += length;
    }
    body.sort_unstable_by_key(|run| run.start);
    body
}

/// Every block is inside, used, in one place of the journal only, and no other metadata.
fn check_places(device: &Device<'_>, ext: &Ext, mapping: &Mapping, extents: bool) -> Result<(), Stop> {
    let superblock = &ext.superblock;
    let mut all = mapping.data.clone();
    all.extend(mapping.tree.iter().map(|block| *block..*block + 1));
    all.sort_unstable_by_key(|run| run.start);
    let outside = |run: &Range<u64>| run.start <= superblock.first_data_block || run.end > superblock.blocks;
    if all.iter().any(outside) {
        return Err(odd("the journal lies outside the file system"));
    }
    if all.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err(odd("two parts of the journal lie in one place"));
    }
    for run in &all {
        if ext.metadata.share_of(superblock, run) != Share::None {
            return Err(odd("the journal and metadata of the file system lie in one place"));
        }
        if !is_all_used(device, ext, run)? {
            return Err(odd("a block of the journal is free by the bitmap"));
        }
    }
    let vouched = superblock.has_metadata_checksums() && extents;
    let explained = |pair: &[Range<u64>]| {
        let between = pair[0].end..pair[1].start;
        // Metadata that lie together are no longer than that; a number that was changed may lead anywhere.
        let near = between.end - between.start <= superblock.blocks_per_group;
        between.is_empty() || near && ext.metadata.share_of(superblock, &between) == Share::All
    };
    if !vouched && !all.windows(2).all(explained) {
        return Err(odd("no checksum vouches for the map of the journal, which lies in pieces"));
    }
    Ok(())
}

/// Checks the first block of a journal of `total` blocks; returns how many at its end are kept.
fn check_head(head: &[u8; LENGTH], superblock: &Superblock, total: u64) -> Result<u64, Stop> {
    let word = |place: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&head[place..place + 4]);
        u32::from_be_bytes(bytes)
    };
    let kind = word(4);
    if word(0) != MAGIC || !matches!(kind, KIND_FIRST | KIND_SECOND) {
        return Err(odd("the journal has no superblock"));
    }
    // The first version ends before the features.
    let features = |place| if kind == KIND_SECOND { word(place) } else { 0 };
    let [compat, incompat, read_only, users] = [36, 40, 44, 64].map(features);
    if compat & !COMPAT_KNOWN != 0 || incompat & !INCOMPAT_KNOWN != 0 || read_only != 0 {
        return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "features of the journal are not known"));
    }
    match incompat & (INCOMPAT_CHECKSUMS_2 | INCOMPAT_CHECKSUMS_3) {
        0 => {}
        INCOMPAT_CHECKSUMS_2 | INCOMPAT_CHECKSUMS_3 => {
            let mut bare = *head;
            bare[CHECKSUM..CHECKSUM + 4].fill(0);
            if head[80] != CHECKSUM_KIND_CRC32C || crc32c_seeded(!0, &bare) != word(CHECKSUM) {
                return Err(keep(reason::KEPT_CHECKSUM, "the checksum of the journal's superblock is wrong"));
            }
        }
        _ => return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "two kinds of checksum in one journal")),
    }
    if word(28) != 0 {
        return Err(odd("the journal must be replayed first"));
    }
    if word(32) != 0 {
        return Err(odd("the journal has recorded an error"));
    }
    let sizes = u64::from(word(12)) == superblock.block_bytes && u64::from(word(16)) == total;
    if !sizes || word(20) != 1 || users > 1 {
        return Err(odd("the sizes in the journal contradict those of its file"));
    }
    let fast = superblock.has_fast_commits() || incompat & INCOMPAT_FAST_COMMIT != 0;
    let said = u64::from(features(84));
    if said >= total {
        return Err(odd("the sizes in the journal contradict those of its file"));
    }
    Ok(match (fast, said) {
        (false, 0) => 0,
        (_, 0) => FAST_COMMIT_BLOCKS,
        // Without the feature the number is left from when it was there.
        (_, said) => said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_leaves_out_the_first_block_and_the_end() {
        let left = |runs: &[Range<u64>], kept_at_end| {
            let total = runs.iter().map(|run| run.end - run.start).sum();
            body(runs, total, kept_at_end).iter().map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        let runs = [100..110, 40..50];
        assert_eq!(left(&runs, 0), [(40, 50), (101, 110)]);
        assert_eq!(left(&runs, 3), [(40, 47), (101, 110)]);
        assert_eq!(left(&runs, 12), [(101, 108)]);
        assert_eq!(left(&runs, 30), []);
        assert_eq!(left(&[7..8, 9..30], 0), [(9, 30)]);
    }
}
