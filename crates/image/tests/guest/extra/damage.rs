//! One flipped bit in what the gains trust never drops a used byte.

use std::ops::Range;
use std::path::Path;

use super::made::{KINDS, make, number, peer_all, tree_blocks};
use super::{BOTH, extra_ranges, scan_with};
use crate::peers::{images, open, run_ok, text};
use crate::proofs::{Numbers, flipped, free_ranges, outside, total};

const FLIPS: u64 = 160;

/// Where the trusted structures lie: the superblock, descriptors, the journal's inode, its map, its first block, inode
/// bitmaps.
fn trusted(source: &Path) -> Vec<Range<u64>> {
    let dump = run_ok("dumpe2fs", &[text(source)]);
    let stat = run_ok("debugfs", &["-R", "stat <8>", text(source)]);
    let block = number(&dump, "Block size").unwrap();
    let inode = number(&dump, "Inode size").unwrap();
    let mut places = vec![1024..2048, block.max(2048)..block.max(2048) + 512];
    let place = run_ok("debugfs", &["-R", "imap <8>", text(source)]);
    let (table, offset) = place.split_once("located at block ").unwrap().1.split_once(", offset 0x").unwrap();
    let table: u64 = table.trim().parse().unwrap();
    let inode_place = table * block + u64::from_str_radix(offset.trim(), 16).unwrap();
    places.extend([inode_place..inode_place + 104, inode_place..inode_place + inode]);
    places.extend(tree_blocks(&stat).into_iter().map(|number| number * block..(number + 1) * block));
    let map = run_ok("debugfs", &["-R", "bmap <8> 0", text(source)]);
    let head: u64 = map.split_whitespace().last().unwrap().parse().unwrap();
    places.extend([head * block..head * block + 96, head * block..head * block + 1024]);
    places.extend(dump.lines().filter_map(|line| {
        let rest = line.trim().split("Inode bitmap at ").nth(1)?;
        let number: u64 = rest.split([' ', ',']).next()?.parse().ok()?;
        Some(number * block..(number + 1) * block)
    }));
    places
}

#[test]
fn a_flipped_bit_never_drops_a_used_byte_with_the_gains_on() {
    let test = "a_flipped_bit_never_drops_a_used_byte_with_the_gains_on";
    let Some(_) = images(test, &["mke2fs", "dumpe2fs", "debugfs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (mut flips, mut noticed) = (0, 0);
    for kind in KINDS.iter().filter(|kind| kind.journal) {
        let Some(source) = make(kind, scratch.path()) else { continue };
        let disk = open(&source).disk;
        let (theirs, places) = (peer_all(&source, true), trusted(&source));
        let before = total(&extra_ranges(&scan_with(&*disk, BOTH)));
        assert!(before > 0, "{}", kind.name);
        let mut numbers = Numbers(flips);
        for turn in 0..FLIPS {
            let range = &places[turn as usize % places.len()];
            let place = range.start + numbers.below(range.end - range.start);
            let damaged = flipped(&disk, place, numbers.below(8) as u8);
            let layout = scan_with(&damaged, BOTH);
            let ours = free_ranges(&damaged, &layout);
            assert_eq!(outside(&ours, &theirs), 0, "{}: bit of byte {place}", kind.name);
            flips += 1;
            noticed += u64::from(total(&extra_ranges(&layout)) < before);
        }
        std::fs::remove_file(&source).unwrap();
    }
    // Older tools may lack a feature or two.
    assert!(flips >= 10 * FLIPS, "{flips} flips");
    assert!(noticed > flips / 3, "{noticed} of {flips} flips were noticed");
}

/// Every bit of the map of a journal that no checksum vouches for.
#[test]
fn every_bit_of_an_unguarded_map_counts() {
    let test = "every_bit_of_an_unguarded_map_counts";
    let Some(_) = images(test, &["mke2fs", "dumpe2fs", "debugfs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let kind = KINDS.iter().find(|kind| kind.name == "ext3-1k").unwrap();
    let Some(source) = make(kind, scratch.path()) else { return };
    let disk = open(&source).disk;
    let stat = run_ok("debugfs", &["-R", "stat <8>", text(&source)]);
    let trees = tree_blocks(&stat);
    assert!(trees.len() > 2, "{stat}");
    // The last of them is full in part only: what lies behind the journal's end must be empty.
    for number in [trees[0], trees[1], trees[trees.len() - 1]] {
        for byte in (0..1024).step_by(3) {
            let damaged = flipped(&disk, number * 1024 + byte, (byte % 8) as u8);
            let found = extra_ranges(&scan_with(&damaged, BOTH));
            assert!(found.is_empty(), "byte {byte} of block {number}");
        }
    }
}
