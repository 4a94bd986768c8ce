//! What is inside the guest: partitions and file systems, and what they have freed.
//!
//! The rule over all rules: what is not understood in full is kept. A range counts as free only when a structure that
//! passed every check says so; whatever is left alone is named with a reason. Nothing here writes.
//!
//! To teach the engine a file system: one file that implements `FreeSpace`, and one line in `reader::READERS`.

mod btrfs;
mod device;
mod exfat;
mod ext;
mod extra;
mod fat;
mod gaps;
mod gpt;
mod lvm;
mod mbr;
mod ntfs;
pub(crate) mod ranges;
mod reader;
mod signature;
mod swap;
mod table;
mod whole_disk;
mod xfs;

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use self::device::Device;
pub use self::extra::{ExtraGains, ExtraSummary};
pub use self::gaps::Gaps;
use crate::control::Control;
use crate::disk::Disk;
use crate::error::Result;

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Master boot record, with logical partitions when there are any.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// Why something was left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Stable code from [`crate::reason`], `KEPT_…`.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
    /// How many block groups or the like this is about; 0 when it is about the whole.
    pub groups: u64,
}

impl Kept {
    /// The whole of something is kept.
    pub(crate) fn whole(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), groups: 0 }
    }
}

/// One partition, or the disk itself when it has no partition table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSummary {
    /// Number in the partition table, as the guest counts; 0 for the disk itself.
    pub index: u32,
    /// Name in the partition table, when it has one.
    pub name: Option<String>,
    /// Type in the partition table: a GUID, or two hexadecimal digits.
    pub type_id: Option<String>,
    /// First byte on the disk.
    pub start_bytes: u64,
    /// Length in bytes.
    pub length_bytes: u64,
    /// What is in it: `ext4`, `xfs`, `swap`, … or `unknown`.
    pub content: String,
    /// Label of the file system, when it was read.
    pub label: Option<String>,
    /// Bytes that the guest has freed, whether the image stores them or not.
    pub free_bytes: u64,
    /// Why it, or groups of it, were left alone.
    pub kept: Vec<Kept>,
    /// What can be dropped beside free space, when it was asked for and the content may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<ExtraSummary>,
    /// The logical volumes, when it is a physical volume of LVM2. A volume that lies on several parts is listed with each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSummary>,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSummary {
    /// `group/volume`.
    pub name: String,
    /// Length in bytes, wherever they lie.
    pub length_bytes: u64,
    /// What is in it, as in [`PartSummary::content`].
    pub content: String,
    /// Label of the file system, when it was read.
    pub label: Option<String>,
    /// Bytes that the guest has freed, of those that lie in this part.
    pub free_bytes: u64,
    /// Why it, or groups of it, were left alone.
    pub kept: Vec<Kept>,
    /// As in [`PartSummary::extra`], of all of the volume, wherever it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<ExtraSummary>,
}

/// What a file system says of its free space. It was checked as a whole before; each answer checks again what it
/// depends on, so that only small figures stay in memory.
pub(crate) trait FreeSpace: Send + Sync + fmt::Debug {
    /// Adds to `free`, ascending, what is free in `range`, and what else may be dropped there when it was asked for. Both
    /// count from the start of `device`.
    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()>;

    /// The first byte behind the file system, where a hash tree over all of it may begin.
    fn end_bytes(&self) -> Option<u64> {
        None
    }

    /// What can be dropped beside free space, when it was asked for and this may have it.
    fn extra(&self) -> Option<&ExtraSummary> {
        None
    }

    /// Adds, ascending, which pieces of `range` are dropped beside free space; those that hold nothing else.
    fn extra_within(&self, _range: Range<u64>, _found: &mut Vec<Range<u64>>) {}

    /// The volumes that the device is divided into.
    fn volumes(&self) -> &[VolumeSummary] {
        &[]
    }

    /// Adds which pieces of `range` belong to which of the volumes, ascending; those in which nothing is free may be
    /// left out.
    fn volumes_within(&self, _range: Range<u64>, _found: &mut Vec<(usize, Range<u64>)>) {}
}

/// A part of the disk, and what its file system says of its free space.
#[derive(Debug)]
pub struct Part {
    summary: PartSummary,
    free: Option<Box<dyn FreeSpace>>,
}

impl Part {
    /// A table that is not believed may name any place.
    fn end(&self) -> u64 {
        self.summary.start_bytes.saturating_add(self.summary.length_bytes)
    }

    /// Where it lies and what is in it.
    pub fn summary(&self) -> &PartSummary {
        &self.summary
    }

    /// Adds to `free`, ascending, the bytes of `range` that the guest has freed, and those that may be dropped beside;
    /// counted from the start of the disk.
    pub fn free_within(&self, disk: &dyn Disk, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let Some(space) = &self.free else { return Ok(()) };
        let device = Device::new(disk, self.summary.start_bytes, self.summary.length_bytes);
        let inside = range.start.max(self.summary.start_bytes)..range.end.min(self.end());
        if inside.is_empty() {
            return Ok(());
        }
        let start = self.summary.start_bytes;
        // A list of its own: a place of this part must not be taken for the same place of the part before it.
        let mut found = Vec::new();
        space.free_within(&device, inside.start - start..inside.end - start, &mut found)?;
        free.extend(found.into_iter().map(|range| range.start + start..range.end + start));
        Ok(())
    }

    /// Adds, ascending, the bytes of `range` that are dropped beside free space; counted from the start of the disk.
    pub fn extra_within(&self, range: Range<u64>, found: &mut Vec<Range<u64>>) {
        let Some(space) = &self.free else { return };
        let start = self.summary.start_bytes;
        let inside = range.start.max(start)..range.end.min(self.end());
        if inside.is_empty() {
            return;
        }
        let first = found.len();
        space.extra_within(inside.start - start..inside.end - start, found);
        for range in &mut found[first..] {
            *range = range.start + start..range.end + start;
        }
    }

    /// Adds which pieces of `range` belong to which volume, as its number in [`PartSummary::volumes`]; counted from the
    /// start of the disk. Pieces in which nothing is free may be left out.
    pub fn volumes_within(&self, range: Range<u64>, found: &mut Vec<(usize, Range<u64>)>) {
        let Some(space) = &self.free else { return };
        let start = self.summary.start_bytes;
        let inside = range.start.max(start)..range.end.min(self.end());
        if inside.is_empty() {
            return;
        }
        let first = found.len();
        space.volumes_within(inside.start - start..inside.end - start, found);
        for (_, range) in &mut found[first..] {
            *range = range.start + start..range.end + start;
        }
    }
}

/// What a guest's disk is divided into.
#[derive(Debug)]
pub struct Layout {
    table: Option<TableKind>,
    kept: Vec<Kept>,
    parts: Vec<Part>,
    gaps: Option<Gaps>,
}

impl Layout {
    /// The partition table, when there is one.
    pub fn table(&self) -> Option<TableKind> {
        self.table
    }

    /// Why the disk as a whole was left alone, when it was.
    pub fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// The partitions in the order of the disk, or the disk itself.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The gaps between partitions, when they were asked for.
    pub fn gaps(&self) -> Option<&Gaps> {
        self.gaps.as_ref()
    }

    /// Adds to `free`, ascending, the bytes of `range` that the guest has freed, and those that may be dropped beside.
    pub fn free_within(&self, disk: &dyn Disk, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        // Parts do not overlap and are sorted, so the answers are too.
        let before = free.len();
        let first = self.parts.partition_point(|part| part.end() <= range.start);
        for part in self.parts[first..].iter().take_while(|part| part.summary.start_bytes < range.end) {
            part.free_within(disk, range.clone(), free)?;
        }
        let found = free.len();
        if let Some(gaps) = &self.gaps {
            gaps.within(&range, free);
        }
        if free.len() > found {
            // Gaps lie between parts: together they are disjoint.
            free[before..].sort_unstable_by_key(|range| range.start);
        }
        Ok(())
    }
}

/// Finds partitions and file systems, and checks what the file systems say of their free space.
///
/// # Errors
///
/// Only when the image cannot be read or the caller cancels: a guest that is not understood is no error.
pub fn scan(disk: &dyn Disk, control: &Control) -> Result<Layout> {
    scan_with(disk, ExtraGains::default(), control)
}

/// The same, and what can be dropped beside free space.
///
/// # Errors
///
/// Those of [`scan`].
pub fn scan_with(disk: &dyn Disk, extra: ExtraGains, control: &Control) -> Result<Layout> {
    let whole = Device::new(disk, 0, disk.virtual_size_bytes());
    let found = table::read(&whole)?;
    let mut parts = Vec::with_capacity(found.partitions.len().max(1));
    if found.table.is_none() && found.kept.is_none() {
        parts.push(reader::scan_part(&whole, table::Partition::whole_disk(&whole), extra, control)?);
    }
    let closed = found.partitions.iter().any(|partition| partition.closed.is_some());
    for partition in found.partitions {
        control.check_cancelled()?;
        let device = Device::new(disk, partition.start_bytes, partition.length_bytes);
        parts.push(match &found.kept {
            Some(_) => reader::closed_part(partition),
            None => reader::scan_part(&device, partition, extra, control)?,
        });
    }
    let kept_whole = whole_disk::keep(&mut parts);
    let gaps = if !extra.gaps || found.table.is_none() {
        None
    } else if found.kept.is_some() {
        Some(Gaps::refused("the partition table is not believed"))
    } else if closed {
        Some(Gaps::refused("a partition of the disk belongs to a volume manager"))
    } else if let Some(message) = kept_whole {
        Some(Gaps::refused(message))
    } else {
        Some(Gaps::find(&whole, &found.claims, &parts)?)
    };
    Ok(Layout { table: found.table, kept: found.kept.into_iter().collect(), parts, gaps })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::disk::Extent;

    /// A thousand free bytes at one place of a part.
    #[derive(Debug)]
    struct Thousand(u64);

    impl FreeSpace for Thousand {
        fn free_within(
            &self,
            _device: &Device<'_>,
            _range: Range<u64>,
            free: &mut Vec<Range<u64>>,
        ) -> Result<()> {
            ranges::push_joined(free, self.0..self.0 + 1000);
            Ok(())
        }
    }

    struct Nothing;

    impl Disk for Nothing {
        fn virtual_size_bytes(&self) -> u64 {
            10_000
        }

        fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<()> {
            unreachable!("nothing is read")
        }

        fn extent_at(&self, _offset: u64) -> Result<Option<Extent>> {
            Ok(None)
        }
    }

    #[test]
    fn the_free_ranges_of_two_parts_are_not_joined_by_their_places_within_each() {
        let part = |start_bytes, free| {
            let device = Device::new(&Nothing, start_bytes, 4000);
            let partition = table::Partition { start_bytes, ..table::Partition::whole_disk(&device) };
            let mut part = reader::closed_part(partition);
            part.free = Some(Box::new(Thousand(free)));
            part
        };
        // The first part's range ends at 2000 of the disk, the second part's starts at 2000 of the part.
        let parts = vec![part(0, 1000), part(4000, 2000)];
        let layout = Layout { table: None, kept: Vec::new(), parts, gaps: None };
        let mut free = Vec::new();
        layout.free_within(&Nothing, 0..10_000, &mut free).unwrap();
        assert_eq!(free, [1000..2000, 6000..7000]);
    }
}
