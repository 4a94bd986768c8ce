//! The boot region of exFAT: sizes and places, under a checksum.
//!
//! Microsoft, "exFAT file system specification", sections 3.1 (main boot sector) and 3.4 (boot checksum).

use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Sectors that the checksum covers; the next one holds it.
const COVERED_SECTORS: usize = 11;
/// Flags and fill level change while the file system is in use: the checksum leaves them out.
const NOT_COVERED: [usize; 3] = [106, 107, 112];

const SECOND_TABLE: u16 = 1;
const DIRTY: u16 = 2;
const MEDIA_FAILURE: u16 = 4;
const CLEAR_TO_ZERO: u16 = 8;

/// What the rest needs to know of the file system. Places are bytes of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootRegion {
    pub(crate) table_start: u64,
    pub(crate) data_start: u64,
    pub(crate) cluster_bytes: u64,
    pub(crate) clusters: u32,
    pub(crate) root: u32,
}

fn geometry(message: &str) -> Kept {
    Kept::whole(reason::KEPT_GEOMETRY, message)
}

impl BootRegion {
    /// Reads the main region; the inner error is the reason to keep all.
    pub(crate) fn read(device: &Device<'_>) -> Result<Result<Self, Kept>> {
        let shift = device.read::<1>(108)?.map_or(0, |[shift]| shift);
        if !(9..=12).contains(&shift) {
            return Ok(Err(geometry("the size of a sector makes no sense")));
        }
        let mut region = vec![0; (COVERED_SECTORS + 1) << shift];
        if !device.read_at(&mut region, 0)? {
            return Ok(Err(geometry("the device is shorter than a boot region")));
        }
        Ok(Self::parse(&region, device.length_bytes()))
    }

    fn parse(region: &[u8], device_bytes: u64) -> Result<Self, Kept> {
        let (covered, sums) = region.split_at(region.len() / (COVERED_SECTORS + 1) * COVERED_SECTORS);
        let sum = checksum(covered);
        if sums.chunks_exact(4).any(|stored| stored.u32_at(0) != sum) {
            return Err(Kept::whole(reason::KEPT_CHECKSUM, "the checksum of the boot region is wrong"));
        }
        let boot = Self::sizes(covered)
            .ok_or_else(|| geometry("the sizes in the boot sector contradict each other"))?;
        if covered.u16_at(104) >> 8 != 1 {
            return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, "the revision is not known"));
        }
        if covered[110] != 1 {
            // TexFAT, of which only a flag outside the checksum tells the table and the bitmap in force.
            return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, "two file allocation tables"));
        }
        if covered.u64_at(72).checked_mul(sector_bytes(covered)).is_none_or(|bytes| bytes > device_bytes) {
            return Err(geometry("the file system is larger than its device"));
        }
        check_flags(covered.u16_at(106))?;
        Ok(boot)
    }

    /// Sizes and places, or `None` when they make no sense.
    fn sizes(sector: &[u8]) -> Option<Self> {
        let sector_bytes = sector_bytes(sector);
        let sector_shift = u32::from(sector[108]);
        let cluster_shift = u32::from(sector[109]);
        let volume_sectors = sector.u64_at(72);
        let (table_first, table_sectors) = (u64::from(sector.u32_at(80)), u64::from(sector.u32_at(84)));
        let data_first = u64::from(sector.u32_at(88));
        let clusters = sector.u32_at(92);
        let root = sector.u32_at(96);
        let last = clusters.checked_add(1).filter(|last| *last < BAD_CLUSTER)?;
        let sane = cluster_shift + sector_shift <= 25
            && table_first >= 24
            && table_sectors * sector_bytes / 4 > u64::from(last)
            && data_first >= table_first + table_sectors * u64::from(sector[110])
            && clusters > 0
            && (2..=last).contains(&root)
            // 25 bits of shift on 32 bits of clusters, and 12 on 32: nothing overflows.
            && data_first + (u64::from(clusters) << cluster_shift) <= volume_sectors;
        sane.then(|| Self {
            table_start: table_first * sector_bytes,
            data_start: data_first * sector_bytes,
            cluster_bytes: sector_bytes << cluster_shift,
            clusters,
            root,
        })
    }

    /// Where a cluster starts; its number was checked.
    pub(crate) fn place(&self, cluster: u32) -> u64 {
        self.data_start + u64::from(cluster - 2) * self.cluster_bytes
    }

    /// Whether a cluster of that number exists.
    pub(crate) fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster - 2 < self.clusters
    }

    /// Clusters that `length_bytes` take.
    pub(crate) fn clusters_of(&self, length_bytes: u64) -> u64 {
        length_bytes.div_ceil(self.cluster_bytes)
    }
}

/// The first of the table's marks that are no cluster numbers.
const BAD_CLUSTER: u32 = 0xffff_fff7;

fn sector_bytes(sector: &[u8]) -> u64 {
    1 << sector[108]
}

fn check_flags(flags: u16) -> Result<(), Kept> {
    if flags & !(SECOND_TABLE | DIRTY | MEDIA_FAILURE | CLEAR_TO_ZERO) != 0 || flags & SECOND_TABLE != 0 {
        let message = format!("volume flags {flags:#x} are not known");
        return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
    }
    if flags & DIRTY != 0 {
        return Err(Kept::whole(reason::KEPT_NOT_CLEAN, "the file system was not cleanly unmounted"));
    }
    if flags & MEDIA_FAILURE != 0 {
        return Err(Kept::whole(
            reason::KEPT_ERROR_STATE,
            "the file system has recorded errors of its medium",
        ));
    }
    Ok(())
}

fn checksum(sectors: &[u8]) -> u32 {
    let covered = sectors.iter().enumerate().filter(|(place, _)| !NOT_COVERED.contains(place));
    covered.fold(0, |sum: u32, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The boot region that mkfs.exfat gives a device of 32 MiB, boot code left out.
    fn region(change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut region = vec![0; 12 * 512];
        region[72..80].copy_from_slice(&65_536_u64.to_le_bytes());
        for (place, value) in [(80, 2048), (84, 64), (88, 4096), (92, 7680), (96, 5_u32)] {
            region[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
        region[104..106].copy_from_slice(&0x100_u16.to_le_bytes());
        region[108..111].copy_from_slice(&[9, 3, 1]);
        change(&mut region);
        let sum = checksum(&region[..11 * 512]);
        for place in (11 * 512..region.len()).step_by(4) {
            region[place..place + 4].copy_from_slice(&sum.to_le_bytes());
        }
        region
    }

    const SIZE: u64 = 32 << 20;

    #[test]
    fn the_places_are_those_of_the_specification() {
        let boot = BootRegion::parse(&region(|_| ()), SIZE).unwrap();
        assert_eq!((boot.table_start, boot.data_start, boot.cluster_bytes), (1 << 20, 2 << 20, 4096));
        assert_eq!(
            (boot.place(2), boot.has(1), boot.has(7681), boot.has(7682)),
            (2 << 20, false, true, false)
        );
    }

    #[test]
    fn every_skip_condition_has_its_reason() {
        let reason =
            |change: &dyn Fn(&mut [u8])| BootRegion::parse(&region(change), SIZE).unwrap_err().reason;
        assert_eq!(reason(&|region| region[106] = 2), reason::KEPT_NOT_CLEAN);
        assert_eq!(reason(&|region| region[106] = 4), reason::KEPT_ERROR_STATE);
        assert_eq!(reason(&|region| region[106] = 1), reason::KEPT_UNKNOWN_FEATURE);
        assert_eq!(reason(&|region| region[107] = 1), reason::KEPT_UNKNOWN_FEATURE);
        assert_eq!(reason(&|region| region[110] = 2), reason::KEPT_UNKNOWN_FEATURE);
        assert_eq!(reason(&|region| region[105] = 2), reason::KEPT_UNKNOWN_FEATURE);
        assert_eq!(reason(&|region| region[72] = 1), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&|region| region[84] = 50), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&|region| region[96] = 1), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&|region| region[109] = 17), reason::KEPT_GEOMETRY);
        assert_eq!(BootRegion::parse(&region(|_| ()), SIZE - 1).unwrap_err().reason, reason::KEPT_GEOMETRY);
        assert!(BootRegion::parse(&region(|region| region[106] = 8), SIZE).is_ok());
    }

    #[test]
    fn every_flipped_bit_is_noticed_but_for_the_fill_level() {
        let sound = region(|_| ());
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The size of a sector is checked before the region is cut out.
            if bit / 8 != 108 && BootRegion::parse(&flipped, SIZE).is_ok() {
                assert!(bit / 8 == 112 || bit == 106 * 8 + 3, "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_region_is_refused_or_lies_inside_its_device(
            noise in prop::collection::vec((72..111_usize, any::<u8>()), 0..8), device_bytes in any::<u64>(),
        ) {
            let region = region(|region| {
                for (place, byte) in &noise {
                    region[*place] = *byte;
                }
                region[108] = 9;
            });
            if let Ok(boot) = BootRegion::parse(&region, device_bytes) {
                prop_assert!(boot.place(boot.clusters + 1) + boot.cluster_bytes <= device_bytes);
                prop_assert!(boot.table_start + (u64::from(boot.clusters) + 2) * 4 <= boot.data_start);
            }
        }
    }
}
