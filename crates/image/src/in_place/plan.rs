//! What is free where, and what became of it.

use std::ops::Range;

use crate::compress::{GapsReport, PartReport};
use crate::disk::Disk;
use crate::error::Result;
use crate::guest::{Layout, ranges};

/// Free space is asked for in pieces of this size, or of a cluster when that is larger.
const UNIT_BYTES: u64 = 1 << 20;

/// Asks for free space piece by piece, and keeps the sums.
pub(super) struct Plan<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    unit_bytes: u64,
    /// The piece that `free` is about.
    unit: Range<u64>,
    free: Vec<Range<u64>>,
    parts: Vec<PartReport>,
    gaps: Option<GapsReport>,
    dropped_bytes: u64,
    extra_dropped_bytes: u64,
    left_bytes: u64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(disk: &'a dyn Disk, layout: &'a Layout) -> Self {
        let parts = layout.parts().iter().map(PartReport::new).collect();
        Self {
            disk,
            layout,
            unit_bytes: UNIT_BYTES,
            unit: 0..0,
            free: Vec::new(),
            parts,
            gaps: layout.gaps().map(GapsReport::new),
            dropped_bytes: 0,
            extra_dropped_bytes: 0,
            left_bytes: 0,
        }
    }

    /// No question is for more than a cluster, and none crosses one.
    pub(super) fn set_cluster_bytes(&mut self, cluster_bytes: u64) {
        self.unit_bytes = UNIT_BYTES.max(cluster_bytes);
    }

    /// The end of the piece that `offset` lies in: questions do not cross it.
    pub(super) fn unit_end(&self, offset: u64) -> u64 {
        (offset / self.unit_bytes * self.unit_bytes).saturating_add(self.unit_bytes)
    }

    /// Puts what is free in `range` into `free`, ascending.
    pub(super) fn free_within(&mut self, range: &Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        free.clear();
        if !self.unit.contains(&range.start) {
            let start = range.start / self.unit_bytes * self.unit_bytes;
            self.unit = start..self.unit_end(start).min(self.disk.virtual_size_bytes());
            self.free.clear();
            self.layout.free_within(self.disk, self.unit.clone(), &mut self.free)?;
        }
        let first = self.free.partition_point(|other| other.end <= range.start);
        for other in self.free[first..].iter().take_while(|other| other.start < range.end) {
            ranges::push_joined(free, other.start.max(range.start)..other.end.min(range.end));
        }
        Ok(())
    }

    /// Counts stored bytes of the guest that were given back.
    pub(super) fn count_dropped(&mut self, range: &Range<u64>) {
        self.dropped_bytes += range.end - range.start;
        for (part, report) in self.layout.parts().iter().zip(&mut self.parts) {
            let summary = part.summary();
            let end = summary.start_bytes.saturating_add(summary.length_bytes);
            let inside = summary.start_bytes.max(range.start)..end.min(range.end);
            if !inside.is_empty() {
                self.extra_dropped_bytes += report.count_dropped(part, std::slice::from_ref(&inside));
            }
        }
        if let (Some(gaps), Some(report)) = (self.layout.gaps(), &mut self.gaps) {
            let mut inside = Vec::new();
            gaps.within(range, &mut inside);
            report.dropped_bytes += ranges::total_bytes(&inside);
            self.extra_dropped_bytes += ranges::total_bytes(&inside);
        }
    }

    /// Counts stored bytes of the guest that are free and stay.
    pub(super) fn count_left(&mut self, bytes: u64) {
        self.left_bytes += bytes;
    }

    pub(super) fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    /// Of the dropped bytes, what is not free space.
    pub(super) fn extra_dropped_bytes(&self) -> u64 {
        self.extra_dropped_bytes
    }

    pub(super) fn gaps(&self) -> Option<&GapsReport> {
        self.gaps.as_ref()
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// The parts of the layout, and what was given back of each.
    pub(super) fn parts(&self) -> &[PartReport] {
        &self.parts
    }
}
