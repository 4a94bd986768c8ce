//! What the owner's tool says of a physical volume, read line by line.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::peers::{run_ok, text};

/// A segment of a volume of the type `striped`.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    start: u64,
    count: u64,
    stripe_bytes: u64,
    extents: Vec<u64>,
}

/// A volume group on one physical volume.
#[derive(Debug, Default)]
pub(crate) struct Group {
    extent_bytes: u64,
    start: u64,
    extents: u64,
    pub(crate) volumes: Vec<(String, Vec<Segment>)>,
}

/// Parses what `pvck --dump metadata` prints.
pub(crate) fn dump(physical_volume: &Path) -> Group {
    let dumped = run_ok("pvck", &["--nolocking", "--dump", "metadata", text(physical_volume)]);
    let mut group = Group::default();
    let mut sections: Vec<String> = Vec::new();
    for line in dumped.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            sections.push(name.to_owned());
            match sections.len() {
                3 if sections[1] == "logical_volumes" => group.volumes.push((name.to_owned(), Vec::new())),
                4 => group.volumes.last_mut().unwrap().1.push(Segment::default()),
                _ => {}
            }
        } else if line == "}" {
            sections.pop();
        }
        let number = |text: &str| text.trim().trim_end_matches(',').parse::<u64>().ok();
        let value = line.split_once(" = ").and_then(|(_, value)| number(value));
        let segment = group.volumes.last_mut().and_then(|(_, segments)| segments.last_mut());
        match (line.split(' ').next().unwrap_or_default(), value, segment) {
            ("extent_size", Some(sectors), _) => group.extent_bytes = sectors * 512,
            ("pe_start", Some(sectors), _) => group.start = sectors * 512,
            ("pe_count", Some(extents), _) => group.extents = extents,
            ("start_extent", Some(start), Some(segment)) => segment.start = start,
            ("extent_count", Some(count), Some(segment)) => segment.count = count,
            ("stripe_size", Some(sectors), Some(segment)) => segment.stripe_bytes = sectors * 512,
            (first, None, Some(segment)) if first.starts_with('"') && first.ends_with(',') => {
                segment.extents.push(number(line.split_once(", ").unwrap().1).unwrap());
            }
            _ => {}
        }
    }
    assert!(group.extent_bytes > 0 && group.extents > 0, "{dumped}");
    group
}

impl Group {
    /// Extents that no volume has.
    pub(crate) fn free(&self) -> Vec<Range<u64>> {
        let mut used = vec![false; self.extents as usize];
        for segment in self.volumes.iter().flat_map(|(_, segments)| segments) {
            for first in &segment.extents {
                let share = segment.count / segment.extents.len() as u64;
                used[*first as usize..(*first + share) as usize].fill(true);
            }
        }
        let place = |extent: u64| self.start + extent * self.extent_bytes;
        let free = (0..self.extents).filter(|extent| !used[*extent as usize]);
        free.map(|extent| place(extent)..place(extent + 1)).collect()
    }

    /// The pieces of a volume in its order: offset in the volume, offset on the device, length.
    pub(crate) fn pieces(&self, name: &str) -> Vec<(u64, u64, u64)> {
        let (_, segments) = self.volumes.iter().find(|(other, _)| other == name).unwrap();
        let mut pieces = Vec::new();
        for segment in segments {
            let start = segment.start * self.extent_bytes;
            let length = segment.count * self.extent_bytes;
            let width = segment.extents.len() as u64;
            let stripe = if width == 1 { length } else { segment.stripe_bytes };
            for number in 0..length / stripe {
                let column = segment.extents[(number % width) as usize];
                let place = self.start + column * self.extent_bytes + number / width * stripe;
                pieces.push((start + number * stripe, place, stripe));
            }
        }
        pieces.sort_unstable();
        pieces
    }

    /// Ranges of a volume as ranges of the device, ascending.
    pub(crate) fn on_device(&self, name: &str, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut mapped = Vec::new();
        for (offset, place, length) in self.pieces(name) {
            for range in ranges {
                let inside = range.start.max(offset)..range.end.min(offset + length);
                if !inside.is_empty() {
                    mapped.push(inside.start - offset + place..inside.end - offset + place);
                }
            }
        }
        mapped.sort_unstable_by_key(|range| range.start);
        mapped
    }

    /// Copies a volume out of a device, or with `back` into it.
    pub(crate) fn copy(&self, name: &str, device: &File, volume: &File, back: bool) {
        for (offset, place, length) in self.pieces(name) {
            let mut buffer = vec![0; length as usize];
            if back {
                volume.read_exact_at(&mut buffer, offset).unwrap();
                device.write_all_at(&buffer, place).unwrap();
            } else {
                device.read_exact_at(&mut buffer, place).unwrap();
                volume.write_all_at(&buffer, offset).unwrap();
            }
        }
    }
}
