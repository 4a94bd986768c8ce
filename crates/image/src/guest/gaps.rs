//! Gaps between and behind partitions.
//!
//! What lies in a gap belongs to no partition, but is not nobody's for that: boot loaders live before the first
//! partition, tables of logical partitions between them, and volume managers, firmware and backup tables at the end of
//! the disk. So the space before the first partition and the last of the disk are never a gap, whatever lies around a
//! piece of the table is left out, and where anything speaks for an owner, all or that gap is kept.

use std::ops::Range;

use super::device::Device;
use super::table::Claims;
use super::{ExtraSummary, Kept, Part, ranges, signature};
use crate::error::Result;
use crate::reason;

/// What is smaller is alignment, and is left alone. Pieces of the table keep as much around them.
const GAP_BYTES_MIN: u64 = 1 << 20;
/// Left alone at the end of the disk.
const TAIL_BYTES: u64 = 1 << 20;
/// Other tables that can lie beside an MBR or a GPT: Apple's map at each of its sector sizes, and the label of the BSDs.
const OTHER_TABLES: [(u64, &[u8]); 5] =
    [(512, b"PM\0\0"), (1024, b"PM\0\0"), (2048, b"PM\0\0"), (4096, b"PM\0\0"), (512, b"\x57\x45\x56\x82")];

/// The gaps of a disk with a partition table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Ascending, disjoint, in no part.
    ranges: Vec<Range<u64>>,
    summary: ExtraSummary,
}

fn kept(message: impl Into<String>) -> Kept {
    Kept::whole(reason::KEPT_GAP, message)
}

impl Gaps {
    /// All gaps are kept.
    pub(super) fn refused(message: &str) -> Self {
        Self { ranges: Vec::new(), summary: ExtraSummary::refused(kept(message)) }
    }

    /// Looks between `parts`, sorted, of a table that was found sound.
    pub(super) fn find(disk: &Device<'_>, claims: &Claims, parts: &[Part]) -> Result<Self> {
        if claims.leftovers {
            return Ok(Self::refused("an unused entry of the partition table is not empty"));
        }
        for (place, magic) in OTHER_TABLES {
            if disk.read::<4>(place)?.is_some_and(|bytes| bytes == magic) {
                return Ok(Self::refused("there is another partition table on the disk"));
            }
        }
        let mut gaps = Self::default();
        for gap in candidates(disk.length_bytes(), claims, parts) {
            match gap.kept(disk, claims.guarded)? {
                None => gaps.ranges.push(gap.range),
                Some(kept) => gaps.summary.kept.push(kept),
            }
        }
        gaps.summary.bytes = ranges::total_bytes(&gaps.ranges);
        Ok(gaps)
    }

    /// What they come to.
    pub fn summary(&self) -> &ExtraSummary {
        &self.summary
    }

    /// Adds, ascending, what lies in `range`.
    pub fn within(&self, range: &Range<u64>, found: &mut Vec<Range<u64>>) {
        ranges::add_within(&self.ranges, range, found);
    }
}

/// A gap that is large enough, with its neighbours.
struct Gap<'a> {
    range: Range<u64>,
    before: &'a Part,
    after: Option<&'a Part>,
}

/// The gaps that are large enough.
fn candidates<'a>(disk_bytes: u64, claims: &Claims, parts: &'a [Part]) -> Vec<Gap<'a>> {
    let end = claims.usable.end.min(disk_bytes.saturating_sub(TAIL_BYTES));
    // Whole units of alignment around each piece of the table: the track or the cylinder that it begins, and what
    // others may have put behind it.
    let around = |table: &Range<u64>| {
        let start = table.start / GAP_BYTES_MIN * GAP_BYTES_MIN;
        start..table.end.saturating_add(GAP_BYTES_MIN)
    };
    let mut tables: Vec<_> = claims.tables.iter().map(around).collect();
    tables.sort_unstable_by_key(|range| range.start);
    let mut found = Vec::new();
    let mut pieces = Vec::new();
    for (index, before) in parts.iter().enumerate() {
        let after = parts.get(index + 1);
        let next = after.map_or(end, |after| after.summary().start_bytes);
        let gap = before.end().max(claims.usable.start)..next.min(end);
        if gap.is_empty() {
            continue;
        }
        ranges::subtract(std::slice::from_ref(&gap), &tables, &mut pieces);
        let large = pieces.drain(..).filter(|piece| piece.end - piece.start >= GAP_BYTES_MIN);
        found.extend(large.map(|range| Gap { range, before, after }));
    }
    found
}

impl Gap<'_> {
    /// Why it is kept. Where the table is not `guarded` by checksums, the file systems on both sides must confirm it: by
    /// beginning where their partition does, and by being no larger.
    fn kept(&self, disk: &Device<'_>, guarded: bool) -> Result<Option<Kept>> {
        let sure = |part: &Part| {
            let summary = part.summary();
            summary.content != "unknown" && !summary.kept.iter().any(|kept| kept.groups == 0)
        };
        if !(guarded || sure(self.before) && self.after.is_none_or(sure)) {
            let message =
                "no checksum vouches for the partition table, and no file system beside the gap confirms it";
            return Ok(Some(kept(message)));
        }
        if self.before.summary().kept.iter().any(|kept| kept.reason == reason::KEPT_GEOMETRY) {
            let message = "a file system that may be larger than its partition lies before the gap";
            return Ok(Some(kept(message)));
        }
        // What a volume manager or an encryption can be told to open at any place.
        let start = disk.start_bytes() + self.range.start;
        let inside = Device::new(disk.disk(), start, self.range.end - self.range.start);
        let closed = signature::find(&inside)?.into_iter().find(|signature| signature.closed.is_some());
        Ok(closed.map(|signature| kept(format!("the signature of {} lies in the gap", signature.name))))
    }
}
