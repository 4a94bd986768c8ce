//! Cuts a disk into units, in guest order.

use std::ops::Range;

use super::unit::{UNIT_BYTES, Unit};
use crate::disk::{Disk, Extent, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::reason;

/// How far ahead the medium is told of what will be read: some units for each of a few threads.
const AHEAD_BYTES: u64 = 8 * UNIT_BYTES;

/// Hands out the pieces of a disk in which something is stored, and never looks at the rest.
pub(crate) struct Feed<'a> {
    disk: &'a dyn Disk,
    cursor: u64,
    extent: Option<Extent>,
    sequence: u64,
}

impl<'a> Feed<'a> {
    /// Starts at the beginning of `disk`.
    pub(crate) fn new(disk: &'a dyn Disk) -> Self {
        Self { disk, cursor: 0, extent: None, sequence: 0 }
    }

    /// Bytes ahead of the last unit that will be wanted next, to be told to the medium.
    pub(crate) fn ahead(&self) -> Range<u64> {
        let start = self.cursor.saturating_add(AHEAD_BYTES);
        start..start.saturating_add(UNIT_BYTES)
    }

    /// The next unit, or `None` at the end of the disk.
    pub(crate) fn next(&mut self) -> Result<Option<Unit>> {
        let mut unit: Option<Unit> = None;
        while let Some(extent) = self.current()? {
            let stored = matches!(extent.kind, ExtentKind::Data | ExtentKind::Compressed);
            if let Some(unit) = unit.as_mut().filter(|unit| self.cursor < unit.range.end) {
                let end = extent.range.end.min(unit.range.end);
                if stored {
                    crate::guest::ranges::push_joined(&mut unit.stored, self.cursor..end);
                }
                self.cursor = if stored { end } else { extent.range.end };
            } else if unit.is_some() {
                break;
            } else if stored {
                let start = self.cursor / UNIT_BYTES * UNIT_BYTES;
                let end = start.saturating_add(UNIT_BYTES).min(self.disk.virtual_size_bytes());
                unit = Some(Unit { sequence: self.sequence, range: start..end, stored: Vec::new() });
                self.sequence += 1;
            } else {
                self.cursor = extent.range.end;
            }
        }
        Ok(unit)
    }

    /// The extent that the cursor lies in.
    fn current(&mut self) -> Result<Option<Extent>> {
        if self.extent.as_ref().is_none_or(|extent| extent.range.end <= self.cursor) {
            self.extent = self.disk.extent_at(self.cursor)?;
            if self.extent.as_ref().is_some_and(|extent| !extent.range.contains(&self.cursor)) {
                let message = "the extents of the image lead nowhere";
                return Err(Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message));
            }
        }
        Ok(self.extent.clone())
    }
}
