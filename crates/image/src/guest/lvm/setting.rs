//! A physical volume in its group: which of the group's physical volumes are on the disk, and where their extents lie.

use super::group::{Group, Physical};
use super::label::Place;
use super::logical::Logical;
use super::member::{self, Member};
use super::volume::{Map, Stripes};
use crate::control::Control;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::reason;

/// The label lies in one of the sectors below, whatever else does.
const DATA_START_MIN: u64 = 4 * 512;

/// A physical volume whose group holds together.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) group: Group,
    /// Its number in the group.
    pub(crate) own: usize,
    /// First byte of it on the disk.
    pub(crate) start_bytes: u64,
    /// For each physical volume of the group the first byte of its extents on the disk; none when it is not there.
    pub(crate) placed: Vec<Option<u64>>,
}

impl Setting {
    /// The inner error is the reason to keep all.
    pub(crate) fn read(device: &Device<'_>, control: &Control) -> Result<std::result::Result<Self, Kept>> {
        let disk = device.disk();
        let member = match Member::read(device)? {
            Ok(member) => member,
            Err(kept) => return Ok(Err(kept)),
        };
        let others = match Member::others(device)? {
            Ok(others) => others,
            Err(kept) => return Ok(Err(kept)),
        };
        let group = match member::find_group(disk, &member, &others, control)? {
            Ok(group) => group,
            Err(kept) => return Ok(Err(kept)),
        };
        let own = group.find(&member.label.id).expect("the group was chosen because it knows the volume");
        let mut placed = vec![None; group.physical.len()];
        match place(&member, &group.physical[own], group.extent_bytes) {
            Ok(start) => placed[own] = Some(start),
            Err(kept) => return Ok(Err(kept)),
        }
        for other in &others {
            let Some(number) = group.find(&other.label.id) else { continue };
            if placed[number].is_some() {
                let message = "two physical volumes on the disk have the same identifier";
                return Ok(Err(Kept::whole(reason::KEPT_METADATA_CONFLICT, message)));
            }
            if other.is_sole(disk)? {
                placed[number] = place(other, &group.physical[number], group.extent_bytes).ok();
            }
        }
        Ok(Ok(Self { group, own, start_bytes: device.start_bytes(), placed }))
    }

    /// Where a volume lies; `None` when a part of it is on no physical volume of this disk.
    pub(crate) fn map(&self, volume: &Logical) -> Option<Map> {
        let extent_bytes = self.group.extent_bytes;
        let mut stretches = Vec::with_capacity(volume.segments.len());
        for segment in &volume.segments {
            let start = |number: usize| self.placed.get(number).copied().flatten();
            let columns: Option<Vec<u64>> = segment
                .columns
                .iter()
                // No overflow: the extents lie within their devices.
                .map(|column| start(column.volume).map(|start| start + column.extent * extent_bytes))
                .collect();
            let columns = columns.filter(|columns| !columns.is_empty())?;
            stretches.push(Stripes {
                start: segment.start * extent_bytes,
                length: segment.count * extent_bytes,
                stripe_bytes: segment.stripe_bytes,
                columns,
            });
        }
        let length_bytes = stretches.last().map_or(0, |stretch| stretch.start + stretch.length);
        Some(Map { stretches, length_bytes })
    }
}

/// The first byte of a physical volume's extents on the disk, when they lie where nothing else does.
fn place(member: &Member, physical: &Physical, extent_bytes: u64) -> std::result::Result<u64, Kept> {
    let start = physical.start_bytes;
    let end = start + physical.extents * extent_bytes;
    let apart = |place: &Place| place.offset >= end || place.offset.saturating_add(place.length) <= start;
    let label = &member.label;
    let sound = start >= DATA_START_MIN
        && start == label.data_start
        && end <= member.length_bytes
        && label.metadata_areas.iter().all(apart)
        && label.boot_loader_areas.iter().all(apart);
    if sound {
        return Ok(member.start_bytes + start);
    }
    let message =
        "the extents of the physical volume are not where its label and its device have room for them";
    Err(Kept::whole(reason::KEPT_GEOMETRY, message))
}
