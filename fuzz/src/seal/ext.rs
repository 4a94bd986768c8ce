//! ext4 with metadata checksums: bitmaps, descriptors, superblock; and the numbers of free blocks, which vouch for the
//! bitmaps, too.

use std::ops::Range;

use super::crc32c_from;
use crate::sparse::Sparse;

const GROUPS_MAX: u64 = 256;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_SEED: u32 = 0x2000;
const RO_CHECKSUMS: u32 = 0x400;
const BLOCK_UNINIT: u16 = 2;

/// What the superblock says of sizes.
struct Sizes {
    start: u64,
    block: u64,
    /// Blocks of one bit.
    cluster: u64,
    blocks: u64,
    first: u64,
    per_group: u64,
    descriptor: u64,
    seed: u32,
}

impl Sizes {
    fn read(image: &Sparse, start: u64) -> Option<Self> {
        let at = start + 1024;
        let word = |offset| u64::from(image.u32_at(at + offset));
        let (incompat, read_only) = (image.u32_at(at + 96), image.u32_at(at + 100));
        let is_ours = image.u16_at(at + 56) == 0xef53
            && read_only & RO_CHECKSUMS != 0
            && word(24) <= 6
            && word(28) <= 16
            && word(28) >= word(24)
            && word(32) > 0;
        let wide = incompat & INCOMPAT_64BIT != 0;
        let high = if wide { word(336) << 32 } else { 0 };
        let descriptor = if wide { image.u16_at(at + 254).into() } else { 32 };
        let seed = match incompat & INCOMPAT_SEED {
            0 => crc32c_from(!0, &image.get::<16>(at + 104)),
            _ => image.u32_at(at + 624),
        };
        (is_ours && (32..=1024).contains(&descriptor)).then(|| Self {
            start,
            block: 1024 << word(24),
            cluster: 1 << (word(28) - word(24)),
            blocks: word(4) | high,
            first: word(20),
            per_group: word(32),
            descriptor,
            seed,
        })
    }

    /// Where the descriptor of a group lies.
    fn descriptor(&self, group: u64) -> Range<u64> {
        // Behind the block of the superblock, which is not the first data block with small blocks and bigalloc.
        let block = (self.first + 1).max(1024 / self.block + 1);
        let place = self.start + block * self.block + group * self.descriptor;
        place..place + self.descriptor
    }
}

pub(super) fn seal(image: &mut Sparse, start: u64) {
    let Some(sizes) = Sizes::read(image, start) else { return };
    let at = start + 1024;
    if image.u32_at(at + 96) & INCOMPAT_META_BG == 0 {
        seal_groups(image, &sizes, at);
    }
    let sum = crc32c_from(!0, &image.get::<1020>(at));
    image.put(at + 1020, &sum.to_le_bytes());
}

/// Descriptors that lie behind the superblock, all together.
fn seal_groups(image: &mut Sparse, sizes: &Sizes, superblock: u64) {
    let groups = sizes.blocks.saturating_sub(sizes.first).div_ceil(sizes.per_group);
    let mut free = 0;
    for group in 0..groups.min(GROUPS_MAX) {
        free += seal_group(image, sizes, group);
    }
    image.put(superblock + 12, &(free as u32).to_le_bytes());
}

/// The number of its free blocks.
fn seal_group(image: &mut Sparse, sizes: &Sizes, group: u64) -> u64 {
    let Range { start: at, end } = sizes.descriptor(group);
    let is_wide = sizes.descriptor >= 64;
    let high = |offset| if is_wide { u64::from(image.u32_at(at + offset)) << 32 } else { 0 };
    let place = (u64::from(image.u32_at(at)) | high(32)).checked_mul(sizes.block);
    let free = if image.u16_at(at + 18) & BLOCK_UNINIT != 0 {
        let high = if is_wide { u64::from(image.u16_at(at + 44)) << 16 } else { 0 };
        u64::from(image.u16_at(at + 12)) | high
    } else {
        let place = place.and_then(|place| place.checked_add(sizes.start)).unwrap_or(u64::MAX);
        let bitmap = image.take(place, sizes.block as usize);
        let begin = sizes.first + group * sizes.per_group;
        let blocks = sizes.blocks.saturating_sub(begin).min(sizes.per_group);
        let bits = blocks.div_ceil(sizes.cluster).min(sizes.block * 8) as usize;
        let free = (0..bits).filter(|bit| bitmap[bit / 8] >> (bit % 8) & 1 == 0).count() as u64;
        let covered = (sizes.per_group / sizes.cluster / 8).min(sizes.block) as usize;
        let sum = crc32c_from(sizes.seed, &bitmap[..covered]).to_le_bytes();
        image.put(at + 12, &(free as u16).to_le_bytes());
        image.put(at + 24, &sum[..2]);
        if is_wide {
            image.put(at + 44, &((free >> 16) as u16).to_le_bytes());
            image.put(at + 56, &sum[2..]);
        }
        free
    };
    image.put(at + 30, &[0; 2]);
    let sum = crc32c_from(sizes.seed, &(group as u32).to_le_bytes());
    let sum = crc32c_from(sum, &image.take(at, (end - at) as usize));
    image.put(at + 30, &(sum as u16).to_le_bytes());
    free * sizes.cluster
}
