//! The boot sector: sizes and places. Offsets as in Microsoft's "NTFS Partition Boot Sector".

use super::{Stop, geometry};
use crate::guest::device::{Device, Fields};

/// Bytes of the boot sector that are looked at, whatever the sector size.
const LENGTH: usize = 512;
/// `NTFS` and four spaces.
const OEM_ID: std::ops::Range<usize> = 3..11;
/// Sector size and sectors of a cluster; sectors, places of the MFT and its mirror, sizes of records. Not the serial
/// number, which tools change in one place only.
const COMPARED: [std::ops::Range<usize>; 2] = [11..14, 40..72];
/// Largest cluster that any Windows makes.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;
/// MFT records and index blocks are 1 KiB or 4 KiB everywhere; whoever needs more is not understood.
const RECORD_BYTES_MAX: u64 = 1 << 16;

/// What the rest needs to know of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) sector_bytes: u64,
    pub(crate) sectors: u64,
    pub(crate) cluster_bytes: u64,
    pub(crate) clusters: u64,
    pub(crate) mft_cluster: u64,
    pub(crate) mirror_cluster: u64,
    pub(crate) record_bytes: usize,
    pub(crate) index_bytes: usize,
}

impl Boot {
    /// Reads the boot sector, and compares it with its copy behind the last cluster.
    pub(crate) fn read(device: &Device<'_>) -> Result<Self, Stop> {
        let Some(sector) = device.read::<LENGTH>(0)? else {
            return Err(geometry("the device is shorter than a boot sector"));
        };
        let boot = Self::parse(&sector)
            .ok_or_else(|| geometry("the sizes in the boot sector contradict each other"))?;
        let end = boot.sectors.checked_mul(boot.sector_bytes);
        let Some(end) = end.filter(|end| *end <= device.length_bytes()) else {
            return Err(geometry("the file system is larger than its device"));
        };
        // Not every tool writes the copy; where there is none, the bitmap still has to agree with all files.
        if let Some(copy) = device.read::<LENGTH>(end)?
            && copy[OEM_ID] == sector[OEM_ID]
            && COMPARED.iter().any(|field| copy[field.clone()] != sector[field.clone()])
        {
            return Err(geometry("the boot sector and its copy disagree"));
        }
        Ok(boot)
    }

    /// Sizes and places, or `None` when they make no sense.
    fn parse(sector: &[u8; LENGTH]) -> Option<Self> {
        let sector_bytes = u64::from(sector.u16_at(11));
        let cluster_sectors = match sector[13] {
            count @ 1..=128 => u64::from(count),
            // Larger ones as a negative power of two: f7 is 2^9 sectors.
            count @ 240..=253 => 1 << (256 - u64::from(count)),
            _ => return None,
        };
        // What FAT has in these places; Windows mounts nothing where they are not 0.
        let unused =
            [14, 17, 19, 22, 32, 34].iter().all(|place| sector.u16_at(*place) == 0) && sector[16] == 0;
        let signed = sector[510..] == [0x55, 0xaa];
        let cluster_bytes = sector_bytes * cluster_sectors;
        let plausible = matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
            && cluster_sectors.is_power_of_two()
            && cluster_bytes <= CLUSTER_BYTES_MAX;
        if !(unused && signed && plausible) {
            return None;
        }
        let sectors = sector.u64_at(40);
        let boot = Self {
            sector_bytes,
            sectors,
            cluster_bytes,
            clusters: sectors / cluster_sectors,
            mft_cluster: sector.u64_at(48),
            mirror_cluster: sector.u64_at(56),
            record_bytes: record_bytes(sector[64], cluster_bytes)?,
            index_bytes: record_bytes(sector[68], cluster_bytes)?,
        };
        // More clusters than 32 bits count no implementation makes.
        let placed = boot.clusters <= u64::from(u32::MAX)
            && (1..boot.clusters).contains(&boot.mft_cluster)
            && (1..boot.clusters).contains(&boot.mirror_cluster)
            && boot.mft_cluster != boot.mirror_cluster;
        placed.then_some(boot)
    }
}

/// The size of a record: a number of clusters, or a negative power of two of bytes.
fn record_bytes(code: u8, cluster_bytes: u64) -> Option<usize> {
    let bytes = match code {
        0..=127 => u64::from(code) * cluster_bytes,
        128.. => 1_u64.checked_shl(256 - u32::from(code))?,
    };
    let sane = bytes.is_power_of_two() && (512..=RECORD_BYTES_MAX).contains(&bytes);
    sane.then_some(usize::try_from(bytes).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sector(sector_bytes: u16, cluster_code: u8, record_code: u8, index_code: u8) -> [u8; LENGTH] {
        let mut sector = [0; LENGTH];
        sector[11..13].copy_from_slice(&sector_bytes.to_le_bytes());
        sector[13] = cluster_code;
        sector[40..48].copy_from_slice(&0x0100_0000_u64.to_le_bytes());
        sector[48] = 4;
        sector[56] = 8;
        sector[64] = record_code;
        sector[68] = index_code;
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    fn sizes(sector_bytes: u16, cluster_code: u8, record: u8, index: u8) -> Option<(u64, u64, usize, usize)> {
        Boot::parse(&sector(sector_bytes, cluster_code, record, index))
            .map(|boot| (boot.cluster_bytes, boot.clusters, boot.record_bytes, boot.index_bytes))
    }

    #[test]
    fn sizes_are_counts_or_negative_powers_of_two() {
        assert_eq!(sizes(512, 8, 0xf6, 1), Some((4096, 0x20_0000, 1024, 4096)));
        assert_eq!(sizes(512, 1, 2, 8), Some((512, 0x100_0000, 1024, 4096)));
        assert_eq!(sizes(512, 0x80, 0xf6, 0xf4), Some((65_536, 0x2_0000, 1024, 4096)));
        assert_eq!(sizes(512, 0xf8, 0xf6, 0xf4), Some((131_072, 0x1_0000, 1024, 4096)));
        assert_eq!(sizes(512, 0xf4, 0xf6, 0xf4), Some((2 << 20, 0x1000, 1024, 4096)));
        assert_eq!(sizes(4096, 1, 1, 1), Some((4096, 0x100_0000, 4096, 4096)));
        for broken in [
            (256, 8, 0xf6, 1),
            (513, 8, 0xf6, 1),
            (512, 0, 0xf6, 1),
            (512, 3, 0xf6, 1),
            (512, 0xf3, 0xf6, 1),
            (512, 0x81, 0xf6, 1),
            (4096, 0xf4, 0xf6, 1),
            (512, 8, 0, 1),
            (512, 8, 3, 1),
            (512, 8, 0x80, 1),
            (512, 8, 0xe1, 1),
            (512, 8, 0xf6, 0xf8),
        ] {
            assert_eq!(sizes(broken.0, broken.1, broken.2, broken.3), None, "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn no_sector_breaks_the_parser(bytes in prop::collection::vec(any::<u8>(), LENGTH), valid in any::<bool>()) {
            let mut raw: [u8; LENGTH] = bytes.try_into().expect("as long as a sector");
            if valid {
                // Random sizes and places in an otherwise plausible sector.
                let random = raw;
                raw = sector(512, random[13], random[64], random[68]);
                raw[40..64].copy_from_slice(&random[40..64]);
            }
            if let Some(boot) = Boot::parse(&raw) {
                prop_assert!(boot.clusters * boot.cluster_bytes / boot.sector_bytes <= boot.sectors);
                prop_assert!(boot.mft_cluster < boot.clusters && boot.mirror_cluster < boot.clusters);
            }
        }
    }
}
