//! The logical volumes of a group: where they lie, and whether their content may be looked into.

use std::collections::{BTreeMap, BTreeSet};

use super::group::{Physical, malformed, name, optional_words};
use super::segment::{Found, Names, Segment};
use super::text::{Entry, Section};
use crate::guest::Kept;
use crate::reason;

/// A logical volume that its owner sees.
#[derive(Debug)]
pub(crate) struct Logical {
    pub(crate) name: String,
    pub(crate) extents: u64,
    /// In the order of the volume, without gaps.
    pub(crate) segments: Vec<Segment>,
    /// Why its content is not looked into.
    pub(crate) kept: Option<Kept>,
}

/// How another volume uses one; the later one says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Component,
    Snapshot,
}

impl Use {
    fn kept(self) -> Kept {
        match self {
            Self::Component => Kept::whole(reason::KEPT_COMPONENT, "another volume is made of it"),
            // A snapshot shows what its origin held, freed blocks too.
            Self::Snapshot => Kept::whole(reason::KEPT_SNAPSHOT, "the volume has a snapshot, or is one"),
        }
    }
}

/// Extents are being moved.
pub(super) fn moving() -> Kept {
    Kept::whole(reason::KEPT_CHANGE_UNDER_WAY, "extents of the volume group are being moved")
}

/// Reads all volumes and marks their extents as used, those of hidden ones too. Returns the ones that are seen.
pub(super) fn read<'t>(
    list: Section<'_, 't>,
    places: &BTreeMap<&'t [u8], usize>,
    physical: &mut [Physical],
    extent_bytes: u64,
) -> Result<Vec<Logical>, Kept> {
    let all: BTreeSet<&[u8]> = list.entries().map(|(name, _)| name).collect();
    let names = Names { physical: places, logical: &all };
    let mut uses: BTreeMap<&[u8], Use> = BTreeMap::new();
    let mut seen = Vec::new();
    for (key, entry) in list.entries() {
        let Entry::Section(section) = entry else { return Err(malformed("has something beside volumes")) };
        let (visible, mut closed) = read_state(section)?;
        let mut segments = Vec::new();
        // All sections in a volume are segments.
        for (_, entry) in section.entries() {
            let Entry::Section(segment) = entry else { continue };
            let found = Found::read(segment, &names, extent_bytes)?;
            mark_used(&found.segment, physical)?;
            let how = if found.is_snapshot { Use::Snapshot } else { Use::Component };
            for other in found.uses {
                uses.entry(other).and_modify(|known| *known = how.max(*known)).or_insert(how);
            }
            closed = found.closed.or(closed);
            segments.push(found.segment);
        }
        let extents = check_order(section, &mut segments)?;
        let name = name(key)?;
        if visible {
            seen.push((key, Logical { name, extents, segments, kept: closed }));
        }
    }
    let add_use = |(key, mut volume): (&[u8], Logical)| {
        volume.kept = volume.kept.or_else(|| uses.get(key).map(|how| how.kept()));
        volume
    };
    Ok(seen.into_iter().map(add_use).collect())
}

/// Whether the volume is seen, and what in its state says not to look into it.
fn read_state(volume: Section<'_, '_>) -> Result<(bool, Option<Kept>), Kept> {
    let status = volume.words("status").ok_or_else(|| malformed("has a volume without a status"))?;
    let flags = optional_words(volume, "flags")?;
    let mut closed = None;
    for word in status.iter().chain(&flags) {
        match *word {
            // Not being activated and not being written to change nothing of what is in it.
            b"READ" | b"WRITE" | b"VISIBLE" | b"FIXED_MINOR" | b"ACTIVATION_SKIP" | b"WRITE_LOCKED" => {}
            b"PVMOVE" | b"LOCKED" => return Err(moving()),
            _ => {
                let message = "the volume is in a state that is not known";
                closed = Some(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
            }
        }
    }
    Ok((status.contains(&&b"VISIBLE"[..]), closed))
}

fn mark_used(segment: &Segment, physical: &mut [Physical]) -> Result<(), Kept> {
    let outside = || malformed("uses extents that are not there");
    for column in &segment.columns {
        let volume = physical.get_mut(column.volume).ok_or_else(outside)?;
        let end = column.extent.checked_add(segment.count / segment.columns.len() as u64);
        let end = end.filter(|end| *end <= volume.extents).ok_or_else(outside)?;
        volume.used.push(column.extent..end);
    }
    Ok(())
}

/// Sorts the segments, which must follow each other without gaps, and counts their extents.
fn check_order(volume: Section<'_, '_>, segments: &mut [Segment]) -> Result<u64, Kept> {
    if volume.number("segment_count") != Some(segments.len() as u64) {
        return Err(malformed("has a volume with too few or too many segments"));
    }
    segments.sort_by_key(|segment| segment.start);
    let mut end = 0;
    for segment in segments {
        if segment.start != end {
            return Err(malformed("has a volume with gaps or overlaps"));
        }
        // Both are below 2^32, and there are fewer segments than bytes in the text.
        end += segment.count;
    }
    Ok(end)
}
