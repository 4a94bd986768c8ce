//! The two checksums of ext4, as its superblock selects them.

use super::superblock::Superblock;
use crate::guest::device::Fields;

/// crc32c as the file system keeps it: with a seed, and without the final inversion.
pub(crate) fn crc32c_seeded(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// CRC-16 with the reflected polynomial a001, without the final inversion.
fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 })
    })
}

/// Whether the checksum of a group's descriptor holds; true when the file system has none.
pub(crate) fn descriptor_holds(superblock: &Superblock, group: u32, descriptor: &[u8]) -> bool {
    const FIELD: std::ops::Range<usize> = 30..32;
    let stored = descriptor.u16_at(FIELD.start);
    if superblock.has_metadata_checksums() {
        let crc = crc32c_seeded(superblock.checksum_seed, &group.to_le_bytes());
        let crc = crc32c_seeded(crc, &descriptor[..FIELD.start]);
        let crc = crc32c_seeded(crc, &[0, 0]);
        crc32c_seeded(crc, &descriptor[FIELD.end..]) as u16 == stored
    } else if superblock.has_descriptor_checksums() {
        let crc = crc16(crc16(!0, &superblock.uuid), &group.to_le_bytes());
        crc16(crc16(crc, &descriptor[..FIELD.start]), &descriptor[FIELD.end..]) == stored
    } else {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // "123456789" through CRC-16/MODBUS and CRC-32C; the latter inverted back.
        assert_eq!(crc16(!0, b"123456789"), 0x4b37);
        assert_eq!(crc32c_seeded(!0, b"123456789"), !0xe306_9283);
    }
}
