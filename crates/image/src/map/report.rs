//! Sums of a map.

use serde::{Deserialize, Serialize};

use super::MapExtent;
use crate::compress::{GapsReport, PartReport};
use crate::disk::ExtentKind;
use crate::guest::{Kept, Layout, TableKind, ranges};

/// Guest bytes by what the image says of them and what the guest does with them; together the length of what they are
/// about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapTotals {
    /// Stored plain, and not known to be free.
    pub data_bytes: u64,
    /// Stored compressed, and not known to be free.
    pub compressed_bytes: u64,
    /// Stored, plain or compressed, and freed by the guest, or one of the gains that were asked for: what compress drops.
    pub dropped_bytes: u64,
    /// Read as zeros by an explicit mark.
    pub zero_bytes: u64,
    /// Not stored.
    pub hole_bytes: u64,
}

impl MapTotals {
    /// All that the image stores.
    pub fn stored_bytes(&self) -> u64 {
        self.data_bytes + self.compressed_bytes + self.dropped_bytes
    }

    /// What the image stores and compress keeps, zeros aside.
    pub fn kept_bytes(&self) -> u64 {
        self.data_bytes + self.compressed_bytes
    }

    /// Adds an extent.
    pub fn add(&mut self, extent: &MapExtent) {
        let sum = match extent.kind {
            ExtentKind::Data | ExtentKind::Compressed if extent.is_free => &mut self.dropped_bytes,
            ExtentKind::Data => &mut self.data_bytes,
            ExtentKind::Compressed => &mut self.compressed_bytes,
            ExtentKind::Zero => &mut self.zero_bytes,
            ExtentKind::Hole => &mut self.hole_bytes,
        };
        *sum += extent.range.end - extent.range.start;
    }
}

/// What a walk came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MapSummary {
    /// Size of the disk that the guest sees.
    pub virtual_size_bytes: u64,
    /// The whole disk.
    pub totals: MapTotals,
    /// The partition table, when there is one.
    pub table: Option<TableKind>,
    /// Why the disk as a whole was left alone, when it was.
    pub kept: Vec<Kept>,
    /// Each partition, or the disk itself, in the order of the disk.
    pub parts: Vec<PartMap>,
    /// Of the dropped bytes, the extra gains.
    #[serde(default)]
    pub extra_dropped_bytes: u64,
    /// The gaps between partitions, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaps: Option<GapsReport>,
}

/// One part of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartMap {
    /// The part, what is in it, what compress would leave out, and the reasons for what was left alone.
    #[serde(flatten)]
    pub report: PartReport,
    /// What the image holds of it.
    pub totals: MapTotals,
}

impl MapSummary {
    pub(super) fn new(virtual_size_bytes: u64, layout: &Layout) -> Self {
        let parts = layout.parts().iter();
        Self {
            virtual_size_bytes,
            totals: MapTotals::default(),
            table: layout.table(),
            kept: layout.kept().to_vec(),
            parts: parts
                .map(|part| PartMap { report: PartReport::new(part), totals: MapTotals::default() })
                .collect(),
            extra_dropped_bytes: 0,
            gaps: layout.gaps().map(GapsReport::new),
        }
    }

    pub(super) fn add(&mut self, extent: &MapExtent, layout: &Layout) {
        self.totals.add(extent);
        let dropped = std::slice::from_ref(&extent.range);
        if let Some(index) = extent.part {
            self.parts[index].totals.add(extent);
            if extent.is_free {
                let report = &mut self.parts[index].report;
                self.extra_dropped_bytes += report.count_dropped(&layout.parts()[index], dropped);
            }
        } else if let Some(gaps) = self.gaps.as_mut().filter(|_| extent.is_free) {
            // Outside of all parts nothing else is free.
            let bytes = ranges::total_bytes(dropped);
            gaps.dropped_bytes += bytes;
            self.extra_dropped_bytes += bytes;
        }
    }
}
