//! Proof that what is in the output is what went in.

use twox_hash::XxHash3_128;

/// A sum over the clusters of a disk that hold something: each adds a 128-bit hash of its place and its bytes.
///
/// The order of adding does not matter, so that threads sum for themselves, and all-zero clusters add nothing, so that
/// a hole and stored zeros give the same proof. It guards against faults, not against someone who forges collisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    sum: u128,
    clusters: u64,
}

impl Proof {
    /// Adds `bytes` found at `place`, a number that no other piece of the sum has.
    pub(crate) fn add(&mut self, place: u64, bytes: &[u8]) {
        self.sum = self.sum.wrapping_add(XxHash3_128::oneshot_with_seed(place, bytes));
        self.clusters += 1;
    }

    /// Adds what another thread has summed.
    pub(crate) fn merge(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.clusters += other.clusters;
    }
}

impl std::fmt::Display for Proof {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "xxh3-128-sum:{:032x}:{}", self.sum, self.clusters)
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Wide blocks first: the compiler turns the fold into vector instructions, and used clusters end it at once.
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_but_place_and_bytes_do() {
        let sum = |pieces: &[(u64, &[u8])]| {
            let mut proof = Proof::default();
            pieces.iter().for_each(|(place, bytes)| proof.add(*place, bytes));
            proof
        };
        assert_eq!(sum(&[(0, b"a"), (1, b"b")]), sum(&[(1, b"b"), (0, b"a")]));
        assert_ne!(sum(&[(0, b"a"), (1, b"b")]), sum(&[(0, b"b"), (1, b"a")]));
        assert_ne!(sum(&[(0, b"a")]), sum(&[(0, b"c")]));
        assert_ne!(sum(&[(0, b"a")]), sum(&[]));
    }

    #[test]
    fn zero_test_sees_every_byte() {
        let mut bytes = vec![0_u8; 1000];
        assert!(is_zero(&bytes));
        for index in [0, 127, 128, 500, 999] {
            bytes[index] = 1;
            assert!(!is_zero(&bytes), "byte {index}");
            bytes[index] = 0;
        }
    }
}
