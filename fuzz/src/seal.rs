//! Puts checksums right after a change, so that a parser looks at more than the checksum.
//!
//! A damage that comes with a right checksum is what a hostile image has. Only what follows from the bytes at a fixed
//! place is computed; structures are found by their marks, and one that is damaged too far is left as it is.

mod btrfs;
mod exfat;
mod ext;
mod gpt;
mod lvm;
mod xfs;

use crate::sparse::{PAGE_BYTES, Sparse};

/// Partitions of a table that are looked into.
const PARTITIONS_MAX: u64 = 8;

/// Puts right what is known of the whole disk and of its first partitions.
pub fn seal(image: &mut Sparse) {
    let mut starts = vec![0];
    let entry = |number: u64| 446 + 16 * number;
    starts.extend((0..4).map(|number| 512 * u64::from(image.u32_at(entry(number) + 8))));
    starts.extend(gpt::starts(image));
    starts.sort_unstable();
    starts.dedup();
    for start in starts {
        ext::seal(image, start);
        xfs::seal(image, start);
        btrfs::seal(image, start);
        exfat::seal(image, start);
        lvm::seal(image, start);
    }
    gpt::seal(image);
}

impl Sparse {
    fn u16_at(&self, place: u64) -> u16 {
        u16::from_le_bytes(self.get(place))
    }

    fn u32_at(&self, place: u64) -> u32 {
        u32::from_le_bytes(self.get(place))
    }

    fn u64_at(&self, place: u64) -> u64 {
        u64::from_le_bytes(self.get(place))
    }

    /// Places from `start` on where pages are held, each a multiple of `step` from `start`.
    fn held(&self, start: u64, step: u64) -> Vec<u64> {
        let mut places = Vec::new();
        for page in self.pages().filter(|page| page + PAGE_BYTES as u64 > start) {
            let first = start + page.saturating_sub(start).div_ceil(step) * step;
            places.extend((first..page + PAGE_BYTES as u64).step_by(step as usize));
        }
        places
    }
}

/// CRC-32 with the polynomial of Ethernet, without inversions: GPT has them, LVM another start.
fn crc32(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
            },
        )
    })
}

/// CRC-32C with a start, without the last inversion.
fn crc32c_from(start: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!start, bytes)
}
