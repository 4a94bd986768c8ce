//! The four checksums of Btrfs metadata (btrfs(5), "Checksum algorithms").

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use twox_hash::XxHash64;

/// Bytes at the head of the superblock and of each node that hold its checksum, whatever the kind; the rest is covered.
pub(crate) const FIELD: usize = 32;

/// Which checksum the file system uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By the number in the superblock.
    pub(crate) fn by_number(number: u16) -> Option<Self> {
        [Self::Crc32c, Self::XxHash64, Self::Sha256, Self::Blake2b].get(usize::from(number)).copied()
    }

    /// Whether the checksum at the head of `block` is that of the rest.
    pub(crate) fn holds(self, block: &[u8]) -> bool {
        let (stored, covered) = block.split_at(FIELD);
        match self {
            Self::Crc32c => stored.starts_with(&crc32c::crc32c(covered).to_le_bytes()),
            Self::XxHash64 => stored.starts_with(&XxHash64::oneshot(0, covered).to_le_bytes()),
            Self::Sha256 => stored == digest(&SHA256, covered).as_ref(),
            Self::Blake2b => stored == Blake2b::<U32>::digest(covered).as_slice(),
        }
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Crc32c => "crc32c",
            Self::XxHash64 => "xxhash64",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2b",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let answers: [(&str, &str); 4] = [
            ("e3069283", "123456789"), // the check value of CRC-32C
            ("44bc2cf5ad770999", "abc"),
            ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc"), // FIPS 180-2, B.1
            ("bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319", "abc"),
        ];
        for (number, (sum, text)) in answers.into_iter().enumerate() {
            let checksum = Checksum::by_number(number as u16).expect("one of four");
            let mut block = hex::decode(sum).expect("hexadecimal");
            if number < 2 {
                block.reverse();
            }
            block.resize(FIELD, 0);
            block.extend(text.bytes());
            assert!(checksum.holds(&block), "{checksum:?}");
            block[FIELD] ^= 1;
            assert!(!checksum.holds(&block), "{checksum:?}");
        }
        assert!(Checksum::by_number(4).is_none());
    }
}
