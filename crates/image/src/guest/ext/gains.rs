//! What can be dropped beside free space: the places of both gains, and why one was refused.

use std::ops::Range;

use super::{Ext, inode_tables, journal};
use crate::control::Control;
use crate::error::Result;
use crate::guest::device::Device;
use crate::guest::reader::Stop;
use crate::guest::{ExtraGains, ExtraSummary, Kept, ranges};
use crate::reason;

/// The gains of one file system.
#[derive(Debug, Default)]
pub(super) struct Gains {
    /// Bytes of the device, ascending and disjoint.
    places: Vec<Range<u64>>,
    summary: ExtraSummary,
}

impl Gains {
    /// Looks for what `extra` asks for. Where a group is not `sound`, any block may be another's than it seems.
    pub(super) fn find(
        device: &Device<'_>,
        ext: &Ext,
        extra: ExtraGains,
        sound: bool,
        control: &Control,
    ) -> Result<Self> {
        let superblock = &ext.superblock;
        let mut gains = Self::default();
        let mut blocks = Vec::new();
        if !sound || !ext.metadata.complete {
            let message = "a block group is damaged, so nothing but free space is dropped";
            let asked = [
                (extra.journals && superblock.has_journal(), reason::KEPT_JOURNAL),
                (extra.inode_tables, reason::KEPT_INODE_TABLE),
            ];
            let refused = asked.into_iter().filter(|(asked, _)| *asked);
            gains.summary.kept = refused.map(|(_, reason)| Kept::whole(reason, message)).collect();
            return Ok(gains);
        }
        if extra.journals && superblock.has_journal() {
            match journal::find(device, ext) {
                Ok(body) => blocks.extend(body),
                Err(Stop::Kept(kept)) => gains.summary.kept.push(kept),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        if extra.inode_tables {
            let (unused, kept) = inode_tables::find(device, ext, control)?;
            blocks.extend(unused);
            gains.summary.kept.extend(kept);
        }
        blocks.sort_unstable_by_key(|range| range.start);
        for range in blocks {
            // No overflow: the blocks lie inside the file system, whose end was found to lie on the device.
            let bytes = range.start * superblock.block_bytes..range.end * superblock.block_bytes;
            ranges::push_joined(&mut gains.places, bytes);
        }
        gains.summary.bytes = ranges::total_bytes(&gains.places);
        Ok(gains)
    }

    pub(super) fn summary(&self) -> &ExtraSummary {
        &self.summary
    }

    /// Adds, ascending, what lies in `range`.
    pub(super) fn within(&self, range: &Range<u64>, found: &mut Vec<Range<u64>>) {
        ranges::add_within(&self.places, range, found);
    }
}
