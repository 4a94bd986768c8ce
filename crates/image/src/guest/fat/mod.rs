//! Free space of FAT12, FAT16 and FAT32.
//!
//! Everything is checked once, when the file system is opened; each answer reads its entries again, in every copy of
//! the table. A cluster is free only when all copies say so: a table of which there is one copy is believed only when
//! the count that FAT32 keeps beside it agrees.

mod boot;
mod table;

use std::ops::{ControlFlow, Range};

use self::boot::{BootRecord, Root};
use self::table::Tables;
use super::device::Device;
use super::reader::{FileSystem, nothing};
use super::{FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

/// A file system whose boot record and tables were found sound.
#[derive(Debug)]
struct Fat {
    tables: Tables,
    data_start: u64,
    cluster_bytes: u64,
    /// Clusters that may be dropped when they are free, from number 2 on.
    clusters: u32,
}

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, control: &Control) -> Result<FileSystem> {
    let record = match BootRecord::read(device)? {
        Ok(record) => record,
        Err(kept) => return Ok(nothing("fat", vec![kept])),
    };
    let content = record.width.name();
    let label = read_label(device, &record)?;
    let system = match check(device, &record, control)? {
        Ok(system) => system,
        Err(kept) => nothing(content, vec![kept]),
    };
    Ok(FileSystem { content: content.to_owned(), label, ..system })
}

/// Everything behind the boot record; the inner error is the reason to keep all.
fn check(device: &Device<'_>, record: &BootRecord, control: &Control) -> Result<Result<FileSystem, Kept>> {
    if let Err(kept) = record.check_witness(device)? {
        return Ok(Err(kept));
    }
    if let Err(kept) = record.check_state() {
        return Ok(Err(kept));
    }
    let tables = Tables::new(record);
    if let Err(kept) = tables.check_marks(device)? {
        return Ok(Err(kept));
    }
    if let Root::Cluster(cluster) = record.root {
        let used = tables.for_each(device, cluster..cluster + 1, |_, entries| {
            if entries.contains(&0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if used.is_some() {
            let message = "the cluster of the root directory is marked as free";
            return Ok(Err(Kept::whole(reason::KEPT_FREE_COUNT, message)));
        }
    }
    let count = match tables.check(device, record.settled_clusters + 2, control)? {
        Ok(count) => count,
        Err(kept) => return Ok(Err(kept)),
    };
    if record.tables == 1 && record.counted_free(device)? != Some(count.free) {
        let message =
            "there is one copy of the file allocation table, and no count of free clusters confirms it";
        return Ok(Err(Kept::whole(reason::KEPT_FREE_COUNT, message)));
    }
    let mut kept = Vec::new();
    if count.disputed > 0 {
        let message = "the copies of the file allocation table disagree on whether a cluster is free";
        let reason = reason::KEPT_FREE_COUNT.to_owned();
        kept.push(Kept { reason, message: message.to_owned(), groups: count.disputed });
    }
    let fat = Fat {
        tables,
        data_start: record.data_start,
        cluster_bytes: record.cluster_bytes,
        clusters: record.settled_clusters,
    };
    let free_bytes = count.settled * fat.cluster_bytes;
    let free: Option<Box<dyn FreeSpace>> = if free_bytes > 0 { Some(Box::new(fat)) } else { None };
    Ok(Ok(FileSystem { content: String::new(), label: None, free_bytes, kept, free }))
}

impl FreeSpace for Fat {
    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let start = range.start.max(self.data_start);
        let end = range.end.min(self.data_start + u64::from(self.clusters) * self.cluster_bytes);
        if start >= end {
            return Ok(());
        }
        let number = |index: u64| u32::try_from(index).expect("below the number of clusters") + 2;
        let first = number((start - self.data_start) / self.cluster_bytes);
        let last = number((end - self.data_start).div_ceil(self.cluster_bytes));
        self.tables.for_each(device, first..last, |cluster, entries| {
            if entries == [0, 0] {
                let place = self.data_start + u64::from(cluster - 2) * self.cluster_bytes;
                ranges::push_joined(free, place.max(start)..(place + self.cluster_bytes).min(end));
            }
            ControlFlow::<()>::Continue(())
        })?;
        Ok(())
    }
}

/// The label: an entry of the root directory, as a rule its first, or else the one in the boot record.
fn read_label(device: &Device<'_>, record: &BootRecord) -> Result<Option<String>> {
    const ATTRIBUTES: usize = 11;
    const VOLUME: u8 = 0x08;
    const VOLUME_MASK: u8 = 0x3f;
    let place = match record.root {
        Root::Place(place) => place,
        Root::Cluster(cluster) => record.data_start + u64::from(cluster - 2) * record.cluster_bytes,
    };
    let entries = device.read::<512>(place)?.unwrap_or([0; 512]);
    let in_use = entries.chunks_exact(32).take_while(|entry| entry[0] != 0).filter(|entry| entry[0] != 0xe5);
    let mut labels = in_use.filter(|entry| entry[ATTRIBUTES] & VOLUME_MASK == VOLUME);
    Ok(match labels.next() {
        Some(entry) => label(&entry[..ATTRIBUTES]),
        None => record.label(),
    })
}

/// Eleven bytes, filled up with spaces, in a code page that is known to the guest alone.
fn label(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_owned())
}
