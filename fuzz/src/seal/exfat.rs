//! exFAT: both boot regions, and the sets of directory entries.

use crate::sparse::{PAGE_BYTES, Sparse};

const BOOT_SECTORS: usize = 11;
const ENTRY: usize = 32;
const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;

pub(super) fn seal(image: &mut Sparse, start: u64) {
    let shift = image.get::<1>(start + 108)[0];
    if image.get(start + 3) != *b"EXFAT   " || !(9..=12).contains(&shift) {
        return;
    }
    let sector = 1_usize << shift;
    for region in [start, start + 12 * sector as u64] {
        let boot = image.take(region, BOOT_SECTORS * sector);
        // Seeds need not have the second region, which the engine does not read.
        if image.get::<4>(region + boot.len() as u64) == [0; 4] {
            continue;
        }
        // Flags and the share in use change without it.
        let covered = boot.iter().enumerate().filter(|(at, _)| ![106, 107, 112].contains(at));
        let sum = covered.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        image.put(region + boot.len() as u64, &sum.to_le_bytes().repeat(sector / 4));
    }
    let heap = start + (u64::from(image.u32_at(start + 88)) << shift);
    for page in image.held(heap.min(image.size_bytes), PAGE_BYTES as u64) {
        seal_entries(image, page);
    }
}

/// Sets of entries that lie in one page.
fn seal_entries(image: &mut Sparse, page: u64) {
    let bytes = image.get::<PAGE_BYTES>(page);
    for at in (0..PAGE_BYTES).step_by(ENTRY).filter(|at| bytes[*at] == FILE) {
        let Some(set) = bytes[at..].get(..ENTRY * (1 + usize::from(bytes[at + 1]))) else { continue };
        // Other content may begin with the same byte.
        if set.get(ENTRY) != Some(&STREAM) {
            continue;
        }
        let covered = set.iter().enumerate().filter(|(at, _)| ![2, 3].contains(at));
        let sum = covered.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add((*byte).into()));
        image.put(page + at as u64 + 2, &sum.to_le_bytes());
    }
}
