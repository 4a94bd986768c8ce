//! Superblocks that no tool makes.

use proptest::prelude::*;

use super::*;

pub(crate) const DEVICE_BYTES: u64 = 4 * 1024 * 4096;

/// Four groups of 1,024 blocks of 4 KiB, with a log of 512 blocks in the third.
pub(crate) fn sector(version: u16) -> Vec<u8> {
    let mut sector = vec![0; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"XFSB");
    put(4, &4096_u32.to_be_bytes());
    put(8, &4096_u64.to_be_bytes());
    put(48, &(2_u64 << 10 | 100).to_be_bytes());
    put(84, &1024_u32.to_be_bytes());
    put(88, &4_u32.to_be_bytes());
    put(96, &512_u32.to_be_bytes());
    put(100, &(version | VERSION_DIRECTORY_V2).to_be_bytes());
    put(102, &512_u16.to_be_bytes());
    put(120, &[12, 9]);
    put(124, &[10]);
    sector
}

fn seal(sector: &mut [u8]) {
    sector[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].fill(0);
    let sum = crc32c::crc32c(sector);
    sector[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn both_versions_are_read() {
    for version in [4, 5] {
        let mut sector = sector(version);
        if version == 5 {
            assert_eq!(
                Superblock::parse(&sector, DEVICE_BYTES).map_err(|kept| kept.reason).err().as_deref(),
                Some(reason::KEPT_CHECKSUM)
            );
            seal(&mut sector);
        }
        let superblock = Superblock::parse(&sector, DEVICE_BYTES).expect("sound");
        assert_eq!((superblock.log_group, superblock.log.clone()), (2, 100..612));
        assert_eq!(superblock.blocks_of_group(3), 1024);
        assert!(Superblock::parse(&sector, DEVICE_BYTES - 1).is_err());
    }
}

/// That of version 4.
pub(crate) fn superblock() -> Superblock {
    Superblock::parse(&sector(4), DEVICE_BYTES).expect("sound")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever a field says, what is believed lies inside: groups on the device, the log in its group.
    #[test]
    fn what_is_believed_lies_inside(
        version in 4..=5_u16,
        changes in prop::collection::vec(
            (prop::sample::select(vec![4_usize, 8, 12, 48, 52, 84, 88, 96, 100, 120, 122, 124, 144, 200, 212, 216, 220]), prop_oneof![any::<u32>(), 0..5000_u32, (0..32_u32).prop_map(|bit| 1 << bit)]),
            0..4,
        ),
        device_bytes in prop_oneof![Just(DEVICE_BYTES), Just(u64::MAX), any::<u64>()],
    ) {
        let mut sector = sector(version);
        for (at, value) in changes {
            sector[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        seal(&mut sector);
        if let Ok(superblock) = Superblock::parse(&sector, device_bytes) {
            prop_assert!(superblock.blocks * superblock.block_bytes <= device_bytes);
            let last = superblock.groups - 1;
            let sum = u64::from(last) * superblock.group_blocks + u64::from(superblock.blocks_of_group(last));
            prop_assert_eq!(sum, superblock.blocks);
            prop_assert!(superblock.blocks_of_group(last) >= superblock.header_blocks());
            let log = &superblock.log;
            prop_assert!(superblock.header_blocks() <= log.start && log.start < log.end);
            prop_assert!(log.end <= superblock.blocks_of_group(superblock.log_group));
            prop_assert!(u64::from(log.end - log.start) * superblock.block_bytes <= LOG_BYTES_MAX);
        }
    }
}
