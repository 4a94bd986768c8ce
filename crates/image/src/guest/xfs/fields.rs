//! Big-endian numbers, as XFS keeps all but its checksums, and those checksums.

/// Big-endian numbers of a structure on disk; the offsets are below the structure's length.
pub(crate) trait BigEndian {
    /// 16 bits at `offset`.
    fn u16_be(&self, offset: usize) -> u16;
    /// 32 bits at `offset`.
    fn u32_be(&self, offset: usize) -> u32;
    /// 64 bits at `offset`.
    fn u64_be(&self, offset: usize) -> u64;
}

impl BigEndian for [u8] {
    fn u16_be(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self[offset], self[offset + 1]])
    }

    fn u32_be(&self, offset: usize) -> u32 {
        u32::from(self.u16_be(offset)) << 16 | u32::from(self.u16_be(offset + 2))
    }

    fn u64_be(&self, offset: usize) -> u64 {
        u64::from(self.u32_be(offset)) << 32 | u64::from(self.u32_be(offset + 4))
    }
}

/// Whether the CRC-32C at `offset`, little-endian, is that of `structure` with zeros in its place.
pub(crate) fn checksum_holds(structure: &[u8], offset: usize) -> bool {
    let (before, rest) = structure.split_at(offset);
    let (stored, behind) = rest.split_at(4);
    let crc = crc32c::crc32c(before);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, behind).to_le_bytes() == stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let mut bytes = *b"\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0tail";
        assert_eq!((bytes.u16_be(1), bytes.u32_be(0)), (0x0203, 0x0102_0304));
        assert_eq!(bytes.u64_be(0), 0x0102_0304_0506_0708);
        let crc = crc32c::crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
        assert!(checksum_holds(&bytes, 8));
        bytes[15] ^= 1;
        assert!(!checksum_holds(&bytes, 8));
    }
}
