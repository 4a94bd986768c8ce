//! Raw images: free space becomes holes. Any number of the holes, in any order, leaves a valid image.

use super::medium::Medium;
use super::plan::Plan;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Image;
use crate::progress::Meter;
use crate::reason;

/// The smallest piece that a file system gives back.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// The whole blocks of a range of the file.
pub(super) fn whole_blocks(range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
    let start = range.start.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
    start..(range.end / BLOCK_BYTES * BLOCK_BYTES).max(start)
}

pub(super) fn punch(
    image: &Image,
    medium: &dyn Medium,
    plan: &mut Plan<'_>,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<()> {
    let mut cursor = 0;
    let mut free = Vec::new();
    while let Some(extent) = image.disk.extent_at(cursor)? {
        control.check_cancelled()?;
        if extent.range.end <= cursor {
            let message = "the extents of the image lead nowhere";
            return Err(Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message));
        }
        let mut end = extent.range.end;
        if extent.kind.is_stored() {
            end = end.min(plan.unit_end(cursor));
            plan.free_within(&(cursor..end), &mut free)?;
            for range in &free {
                let hole = whole_blocks(range);
                if !hole.is_empty() {
                    medium.punch(hole.clone())?;
                    plan.count_dropped(&hole);
                }
                plan.count_left(range.end - range.start - (hole.end - hole.start));
            }
        }
        meter.add(end - cursor);
        cursor = end;
    }
    Ok(medium.flush()?)
}
