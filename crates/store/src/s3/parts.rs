//! How a file is cut into the parts of an upload, and what the server calls the result.

use md5::{Digest, Md5};

const MIB: u64 = 1 << 20;
/// Length of a part unless there would be too many.
pub(super) const PART_BYTES: u64 = 8 * MIB;
/// Parts that a server takes.
const PARTS_MAX: u64 = 10_000;
/// Length of an object that a server takes: 5 TiB.
pub(super) const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Parts of one upload that are under way at the same time, and the bytes that they may hold in memory together.
const IN_FLIGHT_MAX: u64 = 4;
const IN_FLIGHT_BYTES_MAX: u64 = 64 * MIB;

/// The parts of a file: all of the same length, the last excepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) size_bytes: u64,
    pub(super) part_bytes: u64,
}

impl Parts {
    pub(super) fn of(size_bytes: u64) -> Self {
        let part_bytes = size_bytes.div_ceil(PARTS_MAX).next_multiple_of(MIB).max(PART_BYTES);
        Self { size_bytes, part_bytes }
    }

    /// At least one: an empty file has an empty part.
    pub(super) fn count(self) -> u64 {
        self.size_bytes.div_ceil(self.part_bytes).max(1)
    }

    pub(super) fn in_flight(self) -> usize {
        let fitting = (IN_FLIGHT_BYTES_MAX / self.part_bytes).clamp(1, IN_FLIGHT_MAX);
        fitting.min(self.count()) as usize
    }

    /// Begin and length of a part.
    pub(super) fn part(self, index: u64) -> (u64, usize) {
        let start = (index * self.part_bytes).min(self.size_bytes);
        (start, self.part_bytes.min(self.size_bytes - start) as usize)
    }
}

/// The entity tag of an object that was put in one piece: the digest of its bytes.
pub(super) fn whole_tag(digest: [u8; 16]) -> String {
    hex(digest)
}

/// The entity tag of an object that was put in parts: the digest of the parts' digests, and their number.
pub(super) fn parts_tag(digests: &[[u8; 16]]) -> String {
    format!("{}-{}", hex(digest(digests.as_flattened())), digests.len())
}

pub(super) fn digest(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_file_within_the_limits_of_servers() {
        for size in [0, 1, PART_BYTES, PART_BYTES + 1, PART_BYTES * PARTS_MAX, 100 << 30, OBJECT_BYTES_MAX] {
            let parts = Parts::of(size);
            assert!(parts.count() <= PARTS_MAX, "{size}");
            let covered: u64 = (0..parts.count()).map(|index| parts.part(index).1 as u64).sum();
            assert_eq!(covered, size);
            assert!(parts.in_flight() as u64 * parts.part_bytes <= IN_FLIGHT_BYTES_MAX.max(parts.part_bytes));
        }
        assert_eq!(Parts::of(PART_BYTES + 5).part(1), (PART_BYTES, 5));
    }

    #[test]
    fn tags_as_servers_make_them() {
        assert_eq!(whole_tag(digest(b"")), "d41d8cd98f00b204e9800998ecf8427e");
        // printf a | md5sum, printf b | md5sum, both as bytes | md5sum.
        assert_eq!(parts_tag(&[digest(b"a"), digest(b"b")]), "96e024ba2074fe77e8e965ba43a704be-2");
    }
}
