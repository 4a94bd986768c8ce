//! The boot record of FAT: where the tables and the clusters lie.
//!
//! Microsoft, "FAT: General Overview of On-Disk Format", 1.03. No checksum guards the record, so each figure that decides
//! where clusters lie needs a witness: FAT32 has a copy of the record; the others are held against the type's name, the
//! marks at the start of each table and the size of the device, and what is left (size of a sector, of a cluster and
//! of the root directory, number of tables) is taken only from values of which no two differ by one bit.

use std::ops::Range;

use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Bytes of the record, whatever the size of a sector.
const LENGTH: usize = 512;
/// All that decides where things lie in FAT32. Between them: what only a BIOS needs, and tools change in one copy alone.
const GEOMETRY: [Range<usize>; 2] = [11..24, 32..50];

const STATE_DIRTY: u8 = 1;
const STATE_ERROR: u8 = 2;

/// Clusters below this make a FAT12 by the specification and by Linux.
const FAT16_CLUSTERS: u64 = 4085;
/// Windows counts two more clusters as FAT12: what lies between is read as either.
const FAT16_CLUSTERS_EVERYWHERE: u64 = 4087;
/// From here on a table of 16-bit entries does not do.
const FAT32_CLUSTERS: u64 = 65_525;
/// The highest cluster number is `0x0fff_fff6`; the next one marks a bad cluster.
const CLUSTERS_MAX: u64 = 0x0fff_fff5;

/// Width of an entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

impl Width {
    /// Name of the file system.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fat12 => "fat12",
            Self::Fat16 => "fat16",
            Self::Fat32 => "fat32",
        }
    }

    /// Bits from one entry to the next.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }

    fn is_named(self, record: &[u8; LENGTH]) -> bool {
        match self {
            Self::Fat12 => record[54..62] == *b"FAT12   ",
            Self::Fat16 => record[54..62] == *b"FAT16   ",
            Self::Fat32 => record[82..90] == *b"FAT32   ",
        }
    }
}

/// Where the entries of the root directory start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// Between the tables and the clusters.
    Place(u64),
    /// In a chain of clusters, as all other directories.
    Cluster(u32),
}

/// What the rest needs to know of the file system. Places are bytes of the device.
#[derive(Debug)]
pub(crate) struct BootRecord {
    pub(crate) width: Width,
    pub(crate) sector_bytes: u64,
    pub(crate) reserved_sectors: u64,
    pub(crate) media: u8,
    pub(crate) tables: u64,
    pub(crate) table_bytes: u64,
    pub(crate) data_start: u64,
    pub(crate) cluster_bytes: u64,
    pub(crate) clusters: u32,
    /// Clusters up to this number lie inside the file system whichever of its sizes is right.
    pub(crate) settled_clusters: u32,
    pub(crate) root: Root,
    raw: Box<[u8; LENGTH]>,
}

fn geometry(message: &str) -> Kept {
    Kept::whole(reason::KEPT_GEOMETRY, message)
}

/// Sizes of the root directory that are taken, in entries: two floppy sizes and the powers of two.
fn is_usual_root(entries: u64) -> bool {
    matches!(entries, 112 | 224) || entries >= 16 && entries.is_power_of_two()
}

impl BootRecord {
    /// Reads the record; the inner error is the reason to keep all.
    pub(crate) fn read(device: &Device<'_>) -> Result<Result<Self, Kept>> {
        let Some(raw) = device.read::<LENGTH>(0)? else {
            return Ok(Err(geometry("the device is shorter than a boot record")));
        };
        Ok(Self::parse(raw, device.length_bytes()))
    }

    fn parse(raw: [u8; LENGTH], device_bytes: u64) -> Result<Self, Kept> {
        let (mut record, total) = Self::sizes(raw)
            .ok_or_else(|| geometry("the sizes in the boot record contradict each other or are unusual"))?;
        if !record.width.is_named(&record.raw) {
            return Err(geometry("the type named in the boot record is not the one that its sizes make"));
        }
        let device_sectors = device_bytes / record.sector_bytes;
        if total > device_sectors {
            return Err(geometry("the file system is larger than its device"));
        }
        if record.width != Width::Fat32 {
            // Formatters take the device, or its whole tracks. Without a copy of the record nothing but the device vouches
            // for the size, and a part of a track at the end is left alone.
            let whole_tracks = device_sectors - device_sectors % u64::from(record.raw.u16_at(24).max(1));
            if total != device_sectors && total != whole_tracks {
                return Err(geometry("nothing confirms that the file system is smaller than its device"));
            }
            let settled = (whole_tracks * record.sector_bytes).saturating_sub(record.data_start);
            let settled = settled / record.cluster_bytes;
            record.settled_clusters = record.clusters.min(u32::try_from(settled).unwrap_or(u32::MAX));
        }
        Ok(record)
    }

    /// Sizes and places, with the number of sectors; `None` when they make no sense.
    fn sizes(raw: [u8; LENGTH]) -> Option<(Self, u64)> {
        let sector_bytes = u64::from(raw.u16_at(11));
        let cluster_sectors = u64::from(raw[13]);
        let reserved_sectors = u64::from(raw.u16_at(14));
        let tables = u64::from(raw[16]);
        let root_entries = u64::from(raw.u16_at(17));
        let total = match (u64::from(raw.u16_at(19)), u64::from(raw.u32_at(32))) {
            (0, total) | (total, 0) => total,
            (short, long) => (short == long).then_some(long)?,
        };
        // Every driver takes a size of 0 here for FAT32, however few clusters there are.
        let wide = raw.u16_at(22) == 0;
        let table_sectors = u64::from(if wide { raw.u32_at(36) } else { raw.u16_at(22).into() });
        let sane = matches!(sector_bytes, 512 | 1024 | 2048 | 4096)
            && cluster_sectors.is_power_of_two()
            && reserved_sectors > 0
            && (1..=2).contains(&tables)
            && table_sectors > 0
            && (root_entries * 32).is_multiple_of(sector_bytes)
            && if wide { root_entries == 0 && raw.u16_at(42) == 0 } else { is_usual_root(root_entries) };
        if !sane {
            return None;
        }
        let root_start = reserved_sectors + tables * table_sectors;
        let data_start = root_start + root_entries * 32 / sector_bytes;
        let clusters = total.checked_sub(data_start)? / cluster_sectors;
        let width = match clusters {
            0 => return None,
            _ if wide => (clusters <= CLUSTERS_MAX).then_some(Width::Fat32)?,
            _ if clusters < FAT16_CLUSTERS => Width::Fat12,
            FAT16_CLUSTERS_EVERYWHERE..FAT32_CLUSTERS => Width::Fat16,
            _ => return None,
        };
        let root_cluster = raw.u32_at(44);
        let last = clusters + 1;
        if wide && !(2..=last).contains(&u64::from(root_cluster)) {
            return None;
        }
        if (last + 1) * width.bits() > table_sectors * sector_bytes * 8 {
            return None;
        }
        let clusters = u32::try_from(clusters).ok()?;
        let record = Self {
            width,
            sector_bytes,
            reserved_sectors,
            media: raw[21],
            tables,
            table_bytes: table_sectors * sector_bytes,
            data_start: data_start * sector_bytes,
            cluster_bytes: cluster_sectors * sector_bytes,
            clusters,
            settled_clusters: clusters,
            root: if wide { Root::Cluster(root_cluster) } else { Root::Place(root_start * sector_bytes) },
            raw: Box::new(raw),
        };
        Some((record, total))
    }

    /// The reason to keep all when the record itself says that the file system is not in order (Windows and Linux).
    pub(crate) fn check_state(&self) -> Result<(), Kept> {
        let state = self.raw[if self.width == Width::Fat32 { 65 } else { 37 }];
        if state & STATE_DIRTY != 0 {
            let message = "the boot record says that the file system was not cleanly unmounted";
            return Err(Kept::whole(reason::KEPT_NOT_CLEAN, message));
        }
        if state & STATE_ERROR != 0 {
            let message = "the boot record says that the medium has errors";
            return Err(Kept::whole(reason::KEPT_ERROR_STATE, message));
        }
        // Only one table is kept up to date then, and nothing vouches for it.
        if self.width == Width::Fat32 && self.raw.u16_at(40) & 0x80 != 0 {
            let message = "the copies of the file allocation table are not kept equal";
            return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
        }
        Ok(())
    }

    /// The reason to keep all when no second place of the device confirms where the tables start, or it contradicts.
    pub(crate) fn check_witness(&self, device: &Device<'_>) -> Result<Result<(), Kept>> {
        if self.width == Width::Fat32 {
            let backup = u64::from(self.raw.u16_at(50));
            let inside = backup > 0 && backup < self.reserved_sectors;
            let place = inside.then(|| backup * self.sector_bytes);
            let copy = place.map(|place| device.read::<LENGTH>(place)).transpose()?.flatten();
            let agrees =
                copy.is_some_and(|copy| GEOMETRY.iter().all(|at| copy[at.clone()] == self.raw[at.clone()]));
            return Ok(agrees
                .then_some(())
                .ok_or_else(|| geometry("the boot record and its copy disagree, or there is no copy")));
        }
        // A table that starts earlier would be the right one, and all that follows would lie elsewhere.
        for sector in 1..self.reserved_sectors {
            let start = device.read::<3>(sector * self.sector_bytes)?;
            if start == Some([self.media, 0xff, 0xff]) {
                return Ok(Err(geometry("a file allocation table starts among the reserved sectors")));
            }
        }
        Ok(Ok(()))
    }

    /// Where a table starts.
    pub(crate) fn table_start(&self, table: u64) -> u64 {
        self.reserved_sectors * self.sector_bytes + table * self.table_bytes
    }

    /// Number of free clusters by the sector of FAT32 that keeps count; advice, and often stale.
    pub(crate) fn counted_free(&self, device: &Device<'_>) -> Result<Option<u64>> {
        let sector = u64::from(self.raw.u16_at(48));
        if self.width != Width::Fat32 || sector == 0 || sector >= self.reserved_sectors {
            return Ok(None);
        }
        let Some(info) = device.read::<LENGTH>(sector * self.sector_bytes)? else { return Ok(None) };
        let signed = info[..4] == *b"RRaA" && info[484..488] == *b"rrAa" && info.u32_at(508) == 0xaa55_0000;
        Ok(signed.then(|| u64::from(info.u32_at(488))))
    }

    /// The label in the record: a copy of the one in the root directory that some systems forget to change.
    pub(crate) fn label(&self) -> Option<String> {
        let place = if self.width == Width::Fat32 { 71 } else { 43 };
        super::label(&self.raw[place..place + 11]).filter(|label| label != "NO NAME")
    }
}

#[cfg(test)]
mod tests;
