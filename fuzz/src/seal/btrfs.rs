//! Btrfs with CRC-32C: superblocks, and nodes wherever the file system's identifier is.

use crate::sparse::{PAGE_BYTES, Sparse};

const SUPERBLOCKS: [u64; 2] = [64 << 10, 64 << 20];
const FIELD: u64 = 32;

pub(super) fn seal(image: &mut Sparse, start: u64) {
    let superblock = start + SUPERBLOCKS[0];
    let node_bytes = u64::from(image.u32_at(superblock + 148));
    let is_ours = image.get(superblock + 64) == *b"_BHRfS_M" && image.u16_at(superblock + 196) == 0;
    if !is_ours || !node_bytes.is_power_of_two() || !(4096..=65_536).contains(&node_bytes) {
        return;
    }
    let system = image.get::<16>(superblock + 32);
    for place in image.held(start, PAGE_BYTES as u64) {
        if image.get(place + 32) == system {
            let is_superblock = SUPERBLOCKS.contains(&(place - start));
            let length = if is_superblock { 4096 } else { node_bytes };
            let sum = crc32c::crc32c(&image.take(place + FIELD, (length - FIELD) as usize));
            image.put(place, &sum.to_le_bytes());
        }
    }
}
