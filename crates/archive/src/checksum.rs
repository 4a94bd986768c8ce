//! CRC-32 with a short way over zeros, of which empty disks have hundreds of gigabytes.

use zlib_rs::crc32::crc32;

/// Zeros that are passed over in one step.
pub(crate) const BLOCK_BYTES: usize = 1 << 16;

/// The polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// A linear map of the register: what becomes of each of its bits.
type Map = [u32; 32];

/// The sum of what came so far.
#[derive(Clone, Debug)]
pub(crate) struct Checksum {
    crc32: u32,
    over_zeros: Map,
}

impl Checksum {
    pub(crate) fn new() -> Self {
        Self { crc32: 0, over_zeros: over_zeros(BLOCK_BYTES) }
    }

    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.crc32 = crc32(self.crc32, bytes);
    }

    /// Adds [`BLOCK_BYTES`] zeros. They change the register, which is the inverse of the sum, by a linear map.
    pub(crate) fn add_zeros(&mut self) {
        self.crc32 = !apply(&self.over_zeros, !self.crc32);
    }

    pub(crate) fn value(&self) -> u32 {
        self.crc32
    }
}

fn apply(map: &Map, register: u32) -> u32 {
    let bits = map.iter().enumerate().filter(|(bit, _)| register >> bit & 1 == 1);
    bits.fold(0, |sum, (_, image)| sum ^ image)
}

/// What `bytes` zeros, a power of two, do: what one does, doubled as often as it takes.
fn over_zeros(bytes: usize) -> Map {
    let shift = |register: u32| if register & 1 == 1 { register >> 1 ^ POLYNOMIAL } else { register >> 1 };
    let mut map: Map = std::array::from_fn(|bit| (0..8).fold(1 << bit, |register, _| shift(register)));
    for _ in 0..bytes.trailing_zeros() {
        map = map.map(|image| apply(&map, image));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_leads_to_the_same_sum() {
        let zeros = vec![0; BLOCK_BYTES];
        let (mut short, mut long) = (Checksum::new(), Checksum::new());
        assert_eq!(short.value(), 0);
        for piece in [&b""[..], b"some bytes", b"\xff\0"] {
            short.add(piece);
            long.add(piece);
            for _ in 0..3 {
                short.add_zeros();
                long.add(&zeros);
                assert_eq!(short.value(), long.value());
            }
        }
        let mut known = Checksum::new();
        known.add(b"123456789");
        assert_eq!(known.value(), 0xcbf4_3926);
    }
}
