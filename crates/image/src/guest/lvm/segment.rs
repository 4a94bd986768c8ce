//! A segment of a logical volume: a stretch of it that is laid out in one way.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{COUNT_MAX, SECTOR_BYTES, malformed};
use super::logical::moving;
use super::text::{Entry, Item, Section};
use crate::guest::Kept;
use crate::reason;

/// Extents in one piece on a physical volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// Number of the physical volume in its group.
    pub(crate) volume: usize,
    /// Its first extent there.
    pub(crate) extent: u64,
}

/// A stretch of a volume over one or more columns, a stripe from each in turn.
#[derive(Debug)]
pub(crate) struct Segment {
    /// First extent in the volume.
    pub(crate) start: u64,
    pub(crate) count: u64,
    /// Bytes of a stripe; all of the segment when there is one column.
    pub(crate) stripe_bytes: u64,
    /// Each has the same share of the extents; none when the segment lies on other volumes.
    pub(crate) columns: Vec<Column>,
}

/// A segment, and what it means for its volume and for others.
pub(super) struct Found<'t> {
    pub(super) segment: Segment,
    /// Why its volume is not looked into.
    pub(super) closed: Option<Kept>,
    /// Whether it ties a snapshot to its origin.
    pub(super) is_snapshot: bool,
    /// Logical volumes that it uses.
    pub(super) uses: Vec<&'t [u8]>,
}

/// Names of the group's physical volumes, with their numbers, and of its logical ones.
pub(super) struct Names<'a, 't> {
    pub(super) physical: &'a BTreeMap<&'t [u8], usize>,
    pub(super) logical: &'a BTreeSet<&'t [u8]>,
}

/// Types other than `striped` of which it is known that they keep their extents in hidden volumes, or have none.
fn is_known(kind: &[u8]) -> bool {
    let known: [&[u8]; 13] = [
        b"snapshot",
        b"mirror",
        b"thin",
        b"thin-pool",
        b"cache",
        b"cache-pool",
        b"writecache",
        b"integrity",
        b"vdo",
        b"vdo-pool",
        b"zero",
        b"error",
        b"raid0_meta",
    ];
    let raid = kind.strip_prefix(b"raid").and_then(|rest| rest.first());
    known.contains(&kind) || raid.is_some_and(u8::is_ascii_digit)
}

impl<'t> Found<'t> {
    /// Reads the section of a segment; the error is the reason to keep the whole group.
    pub(super) fn read(
        section: Section<'_, 't>,
        names: &Names<'_, 't>,
        extent_bytes: u64,
    ) -> Result<Self, Kept> {
        let count = |key: &str| section.number(key).filter(|count| *count <= COUNT_MAX);
        let (Some(start), Some(length)) =
            (count("start_extent"), count("extent_count").filter(|count| *count > 0))
        else {
            return Err(malformed("has a segment without a size"));
        };
        let kind = section.text("type").ok_or_else(|| malformed("has a segment without a type"))?;
        let mut found = Self {
            segment: Segment { start, count: length, stripe_bytes: 0, columns: Vec::new() },
            closed: None,
            is_snapshot: kind == b"snapshot",
            uses: Vec::new(),
        };
        let plain = kind == b"striped";
        if !plain {
            // Flags of a type follow a plus sign.
            let base = kind.split(|byte| *byte == b'+').next().unwrap_or_default();
            if !is_known(base) {
                let message = "a volume of the group is of a type that is not known";
                return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
            }
            let message = format!(
                "what a volume of the type {} holds is not looked into",
                String::from_utf8_lossy(base)
            );
            found.closed = Some(Kept::whole(reason::KEPT_VOLUME_TYPE, message));
        }
        found.read_uses(section, names, plain)?;
        if plain {
            found.check_stripes(section, extent_bytes)?;
        }
        Ok(found)
    }

    /// Everything in the segment that names a volume.
    fn read_uses(
        &mut self,
        section: Section<'_, 't>,
        names: &Names<'_, 't>,
        plain: bool,
    ) -> Result<(), Kept> {
        for (key, entry) in section.entries() {
            match entry {
                Entry::Text(value) if key != b"type" => self.uses.extend(names.logical.get(value)),
                Entry::List(list) if key == b"stripes" || key == b"mirrors" => {
                    self.read_areas(list, names, plain && key == b"stripes")?;
                }
                Entry::List(list) if key != b"tags" => {
                    for item in list.items() {
                        let Item::Text(value) = item else { continue };
                        if let Some(volume) = names.logical.get(value) {
                            self.uses.push(volume);
                        } else if names.physical.contains_key(value) {
                            return Err(malformed("uses extents in a way that is not known"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A list of pairs: a volume, and an extent of it.
    fn read_areas(
        &mut self,
        list: Section<'_, 't>,
        names: &Names<'_, 't>,
        striped: bool,
    ) -> Result<(), Kept> {
        let mut items = list.items();
        while let Some(item) = items.next() {
            let (Item::Text(volume), Some(Item::Number(extent))) = (item, items.next()) else {
                return Err(malformed("has a segment without a place"));
            };
            let extent = u64::try_from(extent).map_err(|_| malformed("has a segment without a place"))?;
            // A logical volume may have the name that the text has for a physical one, which then is meant.
            if let Some(number) = names.physical.get(volume) {
                if !striped {
                    // The tools mirror extents themselves only while they move them.
                    return Err(moving());
                }
                self.segment.columns.push(Column { volume: *number, extent });
            } else if !names.logical.contains(volume) {
                return Err(malformed("has a segment on a volume that is not there"));
            }
            if let Some(volume) = names.logical.get(volume) {
                self.uses.push(volume);
                let message = "the volume lies on other volumes";
                self.closed.get_or_insert_with(|| Kept::whole(reason::KEPT_VOLUME_TYPE, message));
            }
        }
        Ok(())
    }

    fn check_stripes(&mut self, section: Section<'_, 't>, extent_bytes: u64) -> Result<(), Kept> {
        let Segment { count, columns, stripe_bytes, .. } = &mut self.segment;
        let width = section.number("stripe_count").filter(|width| *width > 0 && count.is_multiple_of(*width));
        let Some(width) = width else { return Err(malformed("has a segment that is not divided evenly")) };
        if columns.len() as u64 != width {
            // Stripes over other volumes have no columns at all.
            return if columns.is_empty() && !self.uses.is_empty() {
                Ok(())
            } else {
                Err(malformed("has a segment with too few or too many stripes"))
            };
        }
        if width == 1 {
            // Both are below 2^32, in sectors the second.
            *stripe_bytes =
                count.checked_mul(extent_bytes).ok_or_else(|| malformed("has a segment without a size"))?;
            return Ok(());
        }
        let sectors = section.number("stripe_size").filter(|sectors| (1..=COUNT_MAX).contains(sectors));
        *stripe_bytes = sectors.ok_or_else(|| malformed("has stripes without a size"))? * SECTOR_BYTES;
        let column_bytes = (*count / width).checked_mul(extent_bytes);
        if !column_bytes.is_some_and(|bytes| bytes.is_multiple_of(*stripe_bytes)) {
            let message = "the stripes of the volume do not fill its extents";
            self.closed.get_or_insert_with(|| Kept::whole(reason::KEPT_GEOMETRY, message));
        }
        Ok(())
    }
}
