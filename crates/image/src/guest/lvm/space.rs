//! What is free on a physical volume: extents that no volume has, and what the file systems in the volumes have freed.

use std::ops::Range;

use super::logical::Logical;
use super::setting::Setting;
use super::volume::{Map, VolumeDisk};
use crate::control::Control;
use crate::disk::Disk;
use crate::error::Result;
use crate::guest::device::Device;
use crate::guest::reader::{self, FileSystem};
use crate::guest::{ExtraGains, FreeSpace, Kept, VolumeSummary, ranges};
use crate::reason;

/// Volumes that are looked into; each keeps what its reader needs in memory.
const VOLUMES_MAX: usize = 128;
/// How much of a volume is asked for at a time when its free bytes are counted.
const STEP_BYTES: u64 = 16 << 20;

/// A volume whose content was looked into.
#[derive(Debug)]
struct Opened {
    /// Its number among the volumes that are named.
    number: usize,
    map: Map,
    free: Box<dyn FreeSpace>,
}

/// A column of a volume on this physical volume.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Number among the opened volumes.
    volume: usize,
    stretch: usize,
    column: usize,
}

/// A range of the physical volume in which something may be free.
#[derive(Debug)]
struct Area {
    range: Range<u64>,
    /// None: no volume has it.
    piece: Option<Piece>,
}

/// A physical volume that was found sound.
#[derive(Debug)]
pub(crate) struct Space {
    /// Ascending, disjoint.
    areas: Vec<Area>,
    opened: Vec<Opened>,
    volumes: Vec<VolumeSummary>,
}

impl Space {
    /// Looks into the volumes.
    pub(crate) fn open(
        setting: &Setting,
        disk: &dyn Disk,
        extra: ExtraGains,
        control: &Control,
    ) -> Result<Self> {
        let mut space = Self { areas: Vec::new(), opened: Vec::new(), volumes: Vec::new() };
        space.add_free_extents(setting);
        for volume in &setting.group.logical {
            control.check_cancelled()?;
            let mut columns = volume.segments.iter().flat_map(|segment| &segment.columns).peekable();
            // What lies on other physical volumes alone is named there.
            if columns.peek().is_some() && !columns.any(|column| column.volume == setting.own) {
                continue;
            }
            space.add_volume(setting, volume, disk, extra, control)?;
        }
        space.areas.sort_unstable_by_key(|area| area.range.start);
        Ok(space)
    }

    fn add_free_extents(&mut self, setting: &Setting) {
        let own = &setting.group.physical[setting.own];
        let mut free = Vec::new();
        ranges::subtract(std::slice::from_ref(&(0..own.extents)), &own.used, &mut free);
        // No overflow: the extents lie within the device.
        let bytes = |extent: u64| own.start_bytes + extent * setting.group.extent_bytes;
        let areas =
            free.into_iter().map(|range| Area { range: bytes(range.start)..bytes(range.end), piece: None });
        self.areas.extend(areas);
    }

    fn add_volume(
        &mut self,
        setting: &Setting,
        volume: &Logical,
        disk: &dyn Disk,
        extra: ExtraGains,
        control: &Control,
    ) -> Result<()> {
        let map = match (&volume.kept, setting.map(volume)) {
            (Some(kept), _) => Err(kept.clone()),
            (None, None) => {
                let message = "a part of the volume is on no physical volume of this disk";
                Err(Kept::whole(reason::KEPT_OTHER_DEVICE, message))
            }
            (None, Some(_)) if self.opened.len() >= VOLUMES_MAX => {
                Err(Kept::whole(reason::KEPT_LIMIT, "more volumes than are looked into"))
            }
            (None, Some(map)) => Ok(map),
        };
        let system = match &map {
            Ok(map) => {
                let volume = VolumeDisk { disk, map };
                reader::look_into_volume(&Device::new(&volume, 0, map.length_bytes), extra, control)?
            }
            Err(kept) => reader::nothing("unknown", vec![kept.clone()]),
        };
        let FileSystem { content, label, free_bytes, kept, free } = system;
        self.volumes.push(VolumeSummary {
            name: format!("{}/{}", setting.group.name, volume.name),
            // The size of a thin volume is only a number.
            length_bytes: volume.extents.saturating_mul(setting.group.extent_bytes),
            content,
            label,
            free_bytes: 0,
            kept,
            extra: free.as_ref().and_then(|free| free.extra()).cloned(),
        });
        if let (Ok(map), Some(free)) = (map, free) {
            let number = self.volumes.len() - 1;
            let here = self.add_pieces(setting, volume, &map);
            let length = map.length_bytes;
            self.opened.push(Opened { number, map, free });
            self.volumes[number].free_bytes =
                if here == length { free_bytes } else { self.count_free_bytes(disk)? };
        }
        Ok(())
    }

    /// Adds the columns of the volume that is opened next, and returns how many bytes of it are on this physical volume.
    fn add_pieces(&mut self, setting: &Setting, volume: &Logical, map: &Map) -> u64 {
        let mut bytes = 0;
        for (stretch, (segment, stripes)) in volume.segments.iter().zip(&map.stretches).enumerate() {
            let columns = segment.columns.iter().zip(&stripes.columns).enumerate();
            for (column, (_, start)) in columns.filter(|(_, (place, _))| place.volume == setting.own) {
                let start = start - setting.start_bytes;
                let piece = Piece { volume: self.opened.len(), stretch, column };
                self.areas.push(Area { range: start..start + stripes.column_bytes(), piece: Some(piece) });
                bytes += stripes.column_bytes();
            }
        }
        bytes
    }

    /// What is free of the volume that was opened last, on this physical volume.
    fn count_free_bytes(&self, disk: &dyn Disk) -> Result<u64> {
        let (mut bytes, mut free, mut extra) = (0, Vec::new(), Vec::new());
        let last = self.opened.len() - 1;
        let pieces = self.areas.iter().filter_map(|area| Some((&area.range, area.piece?)));
        for (range, piece) in pieces.filter(|(_, piece)| piece.volume == last) {
            for start in (range.start..range.end).step_by(STEP_BYTES as usize) {
                let step = start..range.end.min(start + STEP_BYTES);
                free.clear();
                self.free_in_piece(disk, range, piece, step.clone(), &mut free)?;
                extra.clear();
                self.extra_in_piece(range, piece, step, &mut extra);
                bytes += ranges::total_bytes(&free) - ranges::total_bytes(&extra);
            }
        }
        Ok(bytes)
    }

    /// All that is free.
    pub(crate) fn free_bytes(&self) -> u64 {
        let nobodys = self.areas.iter().filter(|area| area.piece.is_none());
        let nobodys: u64 = nobodys.map(|area| area.range.end - area.range.start).sum();
        nobodys + self.volumes.iter().map(|volume| volume.free_bytes).sum::<u64>()
    }

    fn areas_within(&self, range: &Range<u64>) -> impl Iterator<Item = (&Area, Range<u64>)> {
        let first = self.areas.partition_point(|area| area.range.end <= range.start);
        let (start, end) = (range.start, range.end);
        let areas = self.areas[first..].iter().take_while(move |area| area.range.start < end);
        areas.map(move |area| (area, area.range.start.max(start)..area.range.end.min(end)))
    }

    /// Asks the file system in a volume for the part of it that lies in `range` of the column at `column`, stripe by
    /// stripe.
    fn free_in_piece(
        &self,
        disk: &dyn Disk,
        column: &Range<u64>,
        piece: Piece,
        range: Range<u64>,
        free: &mut Vec<Range<u64>>,
    ) -> Result<()> {
        let opened = &self.opened[piece.volume];
        let volume = VolumeDisk { disk, map: &opened.map };
        let device = Device::new(&volume, 0, opened.map.length_bytes);
        self.ask_in_piece(column, piece, range, free, |range, found| {
            opened.free.free_within(&device, range, found)
        })
    }

    /// The same for what is dropped beside free space.
    fn extra_in_piece(
        &self,
        column: &Range<u64>,
        piece: Piece,
        range: Range<u64>,
        extra: &mut Vec<Range<u64>>,
    ) {
        let opened = &self.opened[piece.volume];
        let asked = self.ask_in_piece(column, piece, range, extra, |range, found| {
            opened.free.extra_within(range, found);
            Ok(())
        });
        debug_assert!(asked.is_ok(), "nothing is read");
    }

    fn ask_in_piece(
        &self,
        column: &Range<u64>,
        piece: Piece,
        range: Range<u64>,
        answer: &mut Vec<Range<u64>>,
        mut ask: impl FnMut(Range<u64>, &mut Vec<Range<u64>>) -> Result<()>,
    ) -> Result<()> {
        let stretch = &self.opened[piece.volume].map.stretches[piece.stretch];
        let mut found = Vec::new();
        let mut place = range.start;
        while place < range.end {
            let (logical, follow) = stretch.logical(piece.column, place - column.start);
            let length = follow.min(range.end - place);
            found.clear();
            ask(logical..logical + length, &mut found)?;
            for piece in &found {
                ranges::push_joined(answer, piece.start - logical + place..piece.end - logical + place);
            }
            place += length;
        }
        Ok(())
    }
}

impl FreeSpace for Space {
    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        for (area, range) in self.areas_within(&range) {
            match area.piece {
                None => ranges::push_joined(free, range),
                Some(piece) => self.free_in_piece(device.disk(), &area.range, piece, range, free)?,
            }
        }
        Ok(())
    }

    fn extra_within(&self, range: Range<u64>, found: &mut Vec<Range<u64>>) {
        for (area, range) in self.areas_within(&range) {
            if let Some(piece) = area.piece {
                self.extra_in_piece(&area.range, piece, range, found);
            }
        }
    }

    fn volumes(&self) -> &[VolumeSummary] {
        &self.volumes
    }

    fn volumes_within(&self, range: Range<u64>, found: &mut Vec<(usize, Range<u64>)>) {
        for (area, range) in self.areas_within(&range) {
            if let Some(piece) = area.piece {
                found.push((self.opened[piece.volume].number, range));
            }
        }
    }
}
