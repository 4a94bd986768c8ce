//! The physical volumes of one disk, and the description of their group that is in force.

use super::area;
use super::group::Group;
use super::label::{ID_BYTES, Label};
use crate::control::Control;
use crate::disk::Disk;
use crate::error::Result;
use crate::guest::device::Device;
use crate::guest::{Kept, signature, table};
use crate::reason;

/// Other physical volumes on the disk that are looked at.
const MEMBERS_MAX: usize = 16;

/// A physical volume, and where it lies on the disk.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) start_bytes: u64,
    pub(crate) length_bytes: u64,
    pub(crate) label: Label,
}

impl Member {
    /// The inner error is the reason to keep all.
    pub(crate) fn read(device: &Device<'_>) -> Result<Result<Self, Kept>> {
        let label = Label::read(device)?;
        let (start_bytes, length_bytes) = (device.start_bytes(), device.length_bytes());
        Ok(label.map(|label| Self { start_bytes, length_bytes, label }))
    }

    fn device<'a>(&self, disk: &'a dyn Disk) -> Device<'a> {
        Device::new(disk, self.start_bytes, self.length_bytes)
    }

    /// The physical volumes in the other partitions of the disk; those that cannot be told are passed over, as if they
    /// were on another disk.
    pub(crate) fn others(device: &Device<'_>) -> Result<Result<Vec<Self>, Kept>> {
        let whole = Device::new(device.disk(), 0, device.disk().virtual_size_bytes());
        let mut others = Vec::new();
        for partition in table::read(&whole)?.partitions {
            let other = Device::new(device.disk(), partition.start_bytes, partition.length_bytes);
            if partition.start_bytes == device.start_bytes() || partition.closed.is_some() {
                continue;
            }
            let Ok(member) = Self::read(&other)? else { continue };
            if others.len() == MEMBERS_MAX {
                let message = "more physical volumes on the disk than are looked at";
                return Ok(Err(Kept::whole(reason::KEPT_LIMIT, message)));
            }
            others.push(member);
        }
        Ok(Ok(others))
    }

    /// Whether it is a physical volume and nothing else.
    pub(crate) fn is_sole(&self, disk: &dyn Disk) -> Result<bool> {
        Ok(signature::find(&self.device(disk))?.len() == 1)
    }
}

/// The best description so far.
#[derive(Default)]
struct Choice {
    best: Option<(Vec<u8>, Group)>,
}

impl Choice {
    /// The error is the reason to keep all.
    fn offer(&mut self, text: Vec<u8>, group: Group) -> std::result::Result<(), Kept> {
        let Some((known, best)) = &self.best else {
            self.best = Some((text, group));
            return Ok(());
        };
        let contradiction = if best.id != group.id {
            Some("the metadata areas of the physical volume describe two volume groups")
        } else if best.sequence == group.sequence && *known != text {
            Some("two descriptions of the volume group have the same number and say different things")
        } else {
            None
        };
        if let Some(message) = contradiction {
            return Err(Kept::whole(reason::KEPT_METADATA_CONFLICT, message));
        }
        if group.sequence > best.sequence {
            self.best = Some((text, group));
        }
        Ok(())
    }

    /// Whether the very same text was seen: all areas have the same one, as a rule.
    fn is_known(&self, text: &[u8]) -> bool {
        self.best.as_ref().is_some_and(|(known, _)| known == text)
    }

    fn knows(&self, id: &[u8; ID_BYTES]) -> bool {
        self.best.as_ref().is_some_and(|(_, group)| group.find(id).is_some())
    }
}

/// The description of the group that `own` belongs to: the newest of all metadata areas on the disk.
///
/// A damaged area keeps all, even beside a sound one: it may have held the newer description.
pub(crate) fn find_group(
    disk: &dyn Disk,
    own: &Member,
    others: &[Member],
    control: &Control,
) -> Result<std::result::Result<Group, Kept>> {
    let mut choice = Choice::default();
    if let Err(kept) = offer(disk, own, &mut choice, |_, _| Ok(()))? {
        return Ok(Err(kept));
    }
    // What is wrong with the others counts when they turn out to be of this group.
    let mut faults = Vec::new();
    for other in others {
        control.check_cancelled()?;
        let check = |choice: &Choice, group: &Group| check_other(choice, group, own);
        if let Err(kept) = offer(disk, other, &mut choice, check)? {
            faults.push((other.label.id, kept));
        }
    }
    if let Some((_, kept)) = faults.into_iter().find(|(id, _)| choice.knows(id)) {
        return Ok(Err(kept));
    }
    Ok(match choice.best {
        Some((_, group)) if group.find(&own.label.id).is_some() => Ok(group),
        Some(_) => {
            let message = "the volume group does not know the physical volume";
            Err(Kept::whole(reason::KEPT_METADATA_CONFLICT, message))
        }
        None => {
            let message = "the physical volume belongs to no volume group that is described on the disk";
            Err(Kept::whole(reason::KEPT_NO_VOLUME_GROUP, message))
        }
    })
}

/// Reads the texts of a physical volume, and lets `take` judge each one that was not seen before.
fn offer(
    disk: &dyn Disk,
    member: &Member,
    choice: &mut Choice,
    take: impl Fn(&Choice, &Group) -> std::result::Result<(), Kept>,
) -> Result<std::result::Result<(), Kept>> {
    for place in &member.label.metadata_areas {
        let offered = area::read(&member.device(disk), *place)?.and_then(|text| match text {
            Some(text) if !choice.is_known(&text) => {
                let group = Group::parse(&text)?;
                take(choice, &group)?;
                choice.offer(text, group)
            }
            _ => Ok(()),
        });
        if offered.is_err() {
            return Ok(offered);
        }
    }
    Ok(Ok(()))
}

/// Whether a description found on another physical volume is of the group that is looked for.
fn check_other(choice: &Choice, group: &Group, own: &Member) -> std::result::Result<(), Kept> {
    let same = match &choice.best {
        Some((_, best)) => best.id == group.id,
        None => group.find(&own.label.id).is_some(),
    };
    if same {
        return Ok(());
    }
    let message = "the physical volumes on the disk describe different volume groups";
    Err(Kept::whole(reason::KEPT_METADATA_CONFLICT, message))
}
