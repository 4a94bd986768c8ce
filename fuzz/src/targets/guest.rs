//! Partitions and file systems: what is free must be told without contradictions.

use std::ops::Range;

use imageops_image::Control;
use imageops_image::disk::Disk;
use imageops_image::guest::{self, Layout};

use super::{Limits, disk, open, within};

const LIMITS: Limits = Limits { memory_bytes: 64 << 20, reads: 1 << 20, bytes_read: 2 << 30 };
/// Free ranges around which answers for pieces of the disk are compared with the one for all of it.
const PIECES: usize = 24;
/// No file system lends out its first sector.
const HEAD_BYTES: u64 = 512;

/// Scans a disk and asks for what is free.
pub fn guest(input: &[u8]) {
    let image = open(input);
    let disk = disk(&image);
    let layout = within(&LIMITS, &image, || guest::scan(&disk, &Control::default()));
    let layout = layout.expect("an image in memory can be read");
    let free = within(&LIMITS, &image, || free_of(&disk, &layout, 0..disk.virtual_size_bytes()));
    check_parts(&layout, &free);
    check_pieces(&disk, &layout, &free);
}

/// What is free in a range, sorted and inside of it.
pub(super) fn free_of(disk: &dyn Disk, layout: &Layout, range: Range<u64>) -> Vec<Range<u64>> {
    let mut free = Vec::new();
    layout.free_within(disk, range.clone(), &mut free).expect("an image in memory can be read");
    let mut end = range.start;
    for piece in &free {
        assert!(end <= piece.start && piece.start < piece.end && piece.end <= range.end, "{piece:?}");
        end = piece.end;
    }
    free
}

/// Bytes of sorted `free` that lie in `range`.
fn overlap(free: &[Range<u64>], range: &Range<u64>) -> u64 {
    let first = free.partition_point(|piece| piece.end <= range.start);
    let inside = free[first..].iter().take_while(|piece| piece.start < range.end);
    inside.map(|piece| piece.end.min(range.end) - piece.start.max(range.start)).sum()
}

/// What a summary says is what is found.
fn check_parts(layout: &Layout, free: &[Range<u64>]) {
    let mut total = 0;
    for part in layout.parts() {
        let summary = part.summary();
        total += summary.free_bytes;
        if summary.free_bytes == 0 {
            continue;
        }
        let range = summary.start_bytes..summary.start_bytes + summary.length_bytes;
        assert_eq!(overlap(free, &range), summary.free_bytes, "{summary:?}");
        let head = range.start..range.start + HEAD_BYTES;
        assert_eq!(overlap(free, &head), 0, "the first sector is never free: {summary:?}");
        assert!(summary.volumes.iter().map(|volume| volume.free_bytes).sum::<u64>() <= summary.free_bytes);
    }
    assert_eq!(overlap(free, &(0..u64::MAX)), total, "outside of all parts nothing is free");
}

/// A piece of the disk is told of as the whole is.
fn check_pieces(disk: &dyn Disk, layout: &Layout, free: &[Range<u64>]) {
    let size = disk.virtual_size_bytes();
    let step = (free.len() / PIECES).max(1);
    for piece in free.iter().step_by(step) {
        for place in [piece.start, piece.end] {
            let range = place.saturating_sub(777)..place.saturating_add(77_777).min(size);
            let found = free_of(disk, layout, range.clone());
            let sum: u64 = found.iter().map(|piece| piece.end - piece.start).sum();
            assert_eq!(sum, overlap(free, &range), "{range:?}");
            assert!(found.iter().all(|piece| overlap(free, piece) == piece.end - piece.start), "{range:?}");
        }
    }
}
