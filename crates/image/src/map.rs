//! Where the bytes of an image are, and which of them the guest has freed.
//!
//! [`DiskMap::open`] looks at partitions and file systems, [`DiskMap::walk`] goes once through the disk and hands over
//! its extents in order, neighbours of one sort joined. Memory does not grow with the disk: whoever wants all extents,
//! a picture or sums keeps them himself. Nothing of the guest's data is read, only tables.

mod report;

use std::ops::Range;

pub use self::report::{MapSummary, MapTotals, PartMap};
use crate::control::{Control, Phase};
use crate::disk::{Extent, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Image;
use crate::format::qcow2::Mapping;
use crate::guest::{self, ExtraGains, Layout};
use crate::progress::Meter;
use crate::reason;

/// The guest's free space is asked for in pieces of this size, as [`crate::compress`] does.
const UNIT_BYTES: u64 = 1 << 20;

/// A range of the guest's disk of which one thing is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapExtent {
    /// Guest bytes.
    pub range: Range<u64>,
    /// What the tables of the image say of it.
    pub kind: ExtentKind,
    /// The image stores it, and the guest has freed it, or it is one of the gains that were asked for: what compress drops.
    pub is_free: bool,
    /// Where the first byte lies in the image file, when the whole extent lies there in one piece.
    pub host_offset: Option<u64>,
    /// Bytes of the file that hold it; compressed clusters are counted where they start.
    pub stored_bytes: u64,
    /// The part it lies in, as an index of [`Layout::parts`].
    pub part: Option<usize>,
}

impl MapExtent {
    fn length_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Joins `next`, when it goes on where this one ends with the same things true.
    fn join(&mut self, next: &Self) -> bool {
        let place = self.host_offset.and_then(|offset| offset.checked_add(self.length_bytes()));
        let same = (self.kind, self.is_free, self.part) == (next.kind, next.is_free, next.part)
            && self.range.end == next.range.start
            && place == next.host_offset;
        if same {
            self.range.end = next.range.end;
            self.stored_bytes = self.stored_bytes.saturating_add(next.stored_bytes);
        }
        same
    }
}

/// An image whose guest was looked at, ready to be walked.
#[derive(Debug)]
pub struct DiskMap<'a> {
    image: &'a Image,
    layout: Layout,
}

impl<'a> DiskMap<'a> {
    /// Finds partitions and file systems.
    ///
    /// # Errors
    ///
    /// Of [`guest::scan`].
    pub fn open(image: &'a Image, control: &Control) -> Result<Self> {
        Self::open_with(image, ExtraGains::default(), control)
    }

    /// The same, and finds what can be dropped beside free space.
    ///
    /// # Errors
    ///
    /// Of [`guest::scan`].
    pub fn open_with(image: &'a Image, extra: ExtraGains, control: &Control) -> Result<Self> {
        Ok(Self { image, layout: guest::scan_with(&*image.disk, extra, control)? })
    }

    /// The parts that extents are told to lie in.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Hands every extent of the disk to `visit`, ascending and without gaps, and returns the sums. An error of
    /// `visit` ends the walk.
    ///
    /// # Errors
    ///
    /// Of reading the image, of `visit`, and when the caller cancels.
    pub fn walk<E: From<Error>>(
        &self,
        control: &Control,
        mut visit: impl FnMut(&MapExtent) -> Result<(), E>,
    ) -> Result<MapSummary, E> {
        let mut summary = MapSummary::new(self.image.disk.virtual_size_bytes(), &self.layout);
        let mut pending: Option<MapExtent> = None;
        let mut walk = Walk { map: self, extent: None, unit: 0..0, free: Vec::new(), pieces: Vec::new() };
        let meter = Meter::new(control, Phase::Planning, summary.virtual_size_bytes, 0.0, 1.0);
        let mut cursor = 0;
        while let Some(end) = walk.step(cursor)? {
            control.check_cancelled()?;
            for piece in walk.pieces.drain(..) {
                summary.add(&piece, &self.layout);
                if pending.as_mut().is_some_and(|pending| pending.join(&piece)) {
                    continue;
                }
                if let Some(done) = pending.replace(piece) {
                    visit(&done)?;
                }
            }
            meter.add(end - cursor);
            cursor = end;
        }
        if let Some(last) = pending {
            visit(&last)?;
        }
        Ok(summary)
    }
}

/// The state of a walk.
struct Walk<'w, 'a> {
    map: &'w DiskMap<'a>,
    /// What the last step looked at, which may reach further.
    extent: Option<Extent>,
    /// The piece of the disk that `free` is about.
    unit: Range<u64>,
    free: Vec<Range<u64>>,
    /// What the last step came to, ascending.
    pieces: Vec<MapExtent>,
}

impl Walk<'_, '_> {
    /// Takes the disk from `start` apart, up to the returned place; `None` at the end of the disk.
    fn step(&mut self, start: u64) -> Result<Option<u64>> {
        let Some((kind, extent_end)) = self.extent_at(start)? else { return Ok(None) };
        if !kind.is_stored() {
            self.split_by_part(start..extent_end, kind, false, None, 0);
            return Ok(Some(extent_end));
        }
        // One unit at a time: a single extent may be the whole of a large disk.
        let end = extent_end.min((start / UNIT_BYTES * UNIT_BYTES).saturating_add(UNIT_BYTES));
        self.read_free(start)?;
        let mut at = start;
        while at < end {
            at = self.stored_piece(at, end, kind)?;
        }
        Ok(Some(end))
    }

    /// The kind and the end of the extent that `start` lies in.
    fn extent_at(&mut self, start: u64) -> Result<Option<(ExtentKind, u64)>> {
        if self.extent.as_ref().is_none_or(|extent| extent.range.end <= start) {
            self.extent = self.map.image.disk.extent_at(start)?;
        }
        match &self.extent {
            Some(extent) if extent.range.contains(&start) => Ok(Some((extent.kind, extent.range.end))),
            None => Ok(None),
            Some(_) => {
                let message = "the extents of the image lead nowhere";
                Err(Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message))
            }
        }
    }

    /// What is free in the unit of `start`, asked for once for all extents in it.
    fn read_free(&mut self, start: u64) -> Result<()> {
        if self.unit.contains(&start) {
            return Ok(());
        }
        let disk = &*self.map.image.disk;
        let first = start / UNIT_BYTES * UNIT_BYTES;
        self.unit = first..first.saturating_add(UNIT_BYTES).min(disk.virtual_size_bytes());
        self.free.clear();
        self.map.layout.free_within(disk, self.unit.clone(), &mut self.free)
    }

    /// Takes what is stored from `at` in one place of the file, at most up to `end`.
    fn stored_piece(&mut self, at: u64, end: u64, kind: ExtentKind) -> Result<u64> {
        let (guest, mapping) = match &self.map.image.qcow2 {
            Some(image) => image.mapping_at(at)?,
            None => (at..end, Mapping::Data { host_offset: at }),
        };
        let end = end.min(guest.end);
        let (host_offset, mut stream_bytes) = match mapping {
            Mapping::Data { host_offset } => (Some(host_offset), 0),
            Mapping::Compressed { length_bytes, .. } if guest.start == at => (None, length_bytes),
            _ => (None, 0),
        };
        let mut start = at;
        let mut next = self.free.partition_point(|range| range.end <= at);
        while start < end {
            let free = self.free.get(next).filter(|range| range.start < end);
            let (until, is_free) = match free {
                Some(range) if range.start <= start => (range.end.min(end), true),
                Some(range) => (range.start, false),
                None => (end, false),
            };
            let place = host_offset.and_then(|offset| offset.checked_add(start - at));
            self.split_by_part(start..until, kind, is_free, place, std::mem::take(&mut stream_bytes));
            next += usize::from(is_free);
            start = until;
        }
        Ok(end)
    }

    /// Adds `range` to the pieces, cut where parts begin and end.
    fn split_by_part(
        &mut self,
        range: Range<u64>,
        kind: ExtentKind,
        is_free: bool,
        host_offset: Option<u64>,
        mut stream_bytes: u64,
    ) {
        let mut start = range.start;
        while start < range.end {
            let (part, border) = part_at(&self.map.layout, start);
            let piece = start..range.end.min(border);
            start = piece.end;
            let host_offset = host_offset.and_then(|offset| offset.checked_add(piece.start - range.start));
            let stored_bytes = match kind {
                ExtentKind::Data => piece.end - piece.start,
                _ => std::mem::take(&mut stream_bytes),
            };
            self.pieces.push(MapExtent { range: piece, kind, is_free, host_offset, stored_bytes, part });
        }
    }
}

/// The part that `offset` lies in, and where that changes. Of parts that overlap, in a table that is not believed, the
/// first one counts.
fn part_at(layout: &Layout, offset: u64) -> (Option<usize>, u64) {
    let mut found = None;
    let mut border = u64::MAX;
    for (index, part) in layout.parts().iter().enumerate() {
        let summary = part.summary();
        let (start, end) = (summary.start_bytes, summary.start_bytes.saturating_add(summary.length_bytes));
        if found.is_none() && (start..end).contains(&offset) {
            found = Some(index);
        }
        border = [start, end].into_iter().filter(|place| *place > offset).fold(border, u64::min);
    }
    (found, border)
}

#[cfg(test)]
mod tests;
