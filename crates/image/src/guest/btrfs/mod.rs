//! Free space of Btrfs on one device, with the profiles single and DUP.
//!
//! Everything is checked once, when the file system is opened: superblock, chunk tree against device tree, extent tree
//! against the used bytes of the block groups and against the free space tree. What does not agree keeps all. Only the
//! chunks stay in memory; each answer reads its block group's part of the extent tree again and checks it again.
//!
//! There is no mark of a clean unmount, and none is needed: all that the last commit names is in its trees, and what
//! is not in them nobody can reach. Only a log, which is newer than the commit, is outside, and keeps all. The four
//! older roots in the superblock may lose blocks that were free already, as with each trim.

mod checksum;
mod chunk;
mod devices;
mod free_space;
mod group;
mod node;
mod roots;
mod superblock;
mod walk;

use std::collections::VecDeque;
use std::ops::Range;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use self::chunk::{Chunk, Chunks};
use self::group::Group;
use self::node::Key;
use self::roots::Roots;
use self::superblock::{PLACE_BYTES, PLACES, Root, Superblock};
use self::walk::Walk;
use super::device::Device;
use super::reader::{FileSystem, Stop, nothing};
use super::{FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

/// The file system leaves the first MiB to boot code.
const HEAD_BYTES: u64 = 1 << 20;
/// Block groups whose free ranges are remembered: units come in order, so threads work on two neighbours at most.
const GROUPS_REMEMBERED: usize = 2;

type Checked<T> = Result<T, Stop>;

fn keep(reason: &'static str, message: &str) -> Stop {
    Stop::Kept(Kept::whole(reason, message))
}

/// What it takes to read a tree.
#[derive(Clone, Copy)]
struct Volume<'a> {
    device: &'a Device<'a>,
    superblock: &'a Superblock,
    chunks: &'a Chunks,
    control: Option<&'a Control>,
}

impl std::fmt::Debug for Volume<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Volume").finish_non_exhaustive()
    }
}

impl Volume<'_> {
    fn check_cancelled(&self) -> Result<()> {
        self.control.map_or(Ok(()), Control::check_cancelled)
    }
}

/// A file system whose trees were found sound.
#[derive(Debug)]
struct Btrfs {
    superblock: Superblock,
    chunks: Chunks,
    extents: Root,
    /// The groups that were asked for last, by the number of their chunk.
    remembered: Mutex<VecDeque<(usize, FreeRanges)>>,
}

/// The free logical addresses of a group, ascending; `None` when it is kept.
type FreeRanges = Option<Arc<Vec<Range<u64>>>>;

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, control: &Control) -> Result<FileSystem> {
    let mut label = None;
    let system = Superblock::read(device).and_then(|superblock| {
        label.clone_from(&superblock.label);
        check(device, superblock, control)
    });
    match system {
        Ok(system) => Ok(FileSystem { label, ..system }),
        Err(Stop::Kept(kept)) => Ok(FileSystem { label, ..nothing("btrfs", vec![kept]) }),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Everything behind the superblock.
fn check(device: &Device<'_>, superblock: Superblock, control: &Control) -> Checked<FileSystem> {
    let of_system = Chunks::of_system(&superblock)?;
    let volume = Volume { device, superblock: &superblock, chunks: &of_system, control: Some(control) };
    let chunks = Chunks::read(volume)?;
    let volume = Volume { chunks: &chunks, ..volume };
    let roots = Roots::read(volume)?;
    let walk = Walk::start(volume, roots.devices, Key::default())?;
    devices::check(&chunks, walk, &superblock.device_item)?;

    let (in_groups, scattered) = check_groups(volume, &roots)?;
    let free_bytes = in_groups + unallocated_bytes(&superblock, &chunks);
    let kept = Kept {
        groups: scattered,
        ..Kept::whole(reason::KEPT_LIMIT, "the free space of block groups is too scattered")
    };
    let kept = if scattered > 0 { vec![kept] } else { Vec::new() };
    let extents = roots.extents;
    let btrfs = Btrfs { superblock, chunks, extents, remembered: Mutex::default() };
    let free: Option<Box<dyn FreeSpace>> = if free_bytes > 0 { Some(Box::new(btrfs)) } else { None };
    Ok(FileSystem { content: "btrfs".to_owned(), label: None, free_bytes, kept, free })
}

/// Goes through all block groups: the free bytes in them, and how many have too many free ranges.
fn check_groups(volume: Volume<'_>, roots: &Roots) -> Checked<(u64, u64)> {
    let start = |root| Walk::start(volume, root, Key::default());
    let mut extents = start(roots.extents)?;
    let mut stated = roots.block_groups.map(start).transpose()?;
    let mut free_space = roots.free_space.map(start).transpose()?;
    let superblock = volume.superblock;
    let list = volume.chunks.list();
    let (mut used_bytes, mut free_bytes, mut scattered) = (0, 0, 0);
    for (number, chunk) in list.iter().enumerate() {
        let group = group::read(&mut extents, superblock, chunk, next_start(list, number))?;
        let stated_bytes = match &mut stated {
            Some(walk) => stated_bytes(walk, chunk)?,
            None => group.stated_bytes,
        };
        if stated_bytes != Some(group.used_bytes) {
            let message = "the extents of a block group do not add up to its used bytes";
            return Err(keep(reason::KEPT_FREE_COUNT, message));
        }
        used_bytes += group.used_bytes;
        if let (Some(free), Some(walk)) = (&group.free, &mut free_space) {
            free_space::check(walk, superblock, chunk, free)?;
        }
        scattered += u64::from(group.free.is_none());
        free_bytes += group_free_bytes(chunk, &group);
    }
    let ended = extents.item().is_none() && stated.is_none_or(|walk| walk.item().is_none());
    if !ended || used_bytes != superblock.used_bytes {
        let message = "the block groups do not add up to the file system";
        return Err(keep(reason::KEPT_FREE_COUNT, message));
    }
    Ok((free_bytes, scattered))
}

/// Where the chunk behind the one of this number starts.
fn next_start(list: &[Chunk], number: usize) -> u64 {
    list.get(number + 1).map_or(u64::MAX, |next| next.logical.start)
}

/// The used bytes of a chunk by the block group tree, which has one item for each.
fn stated_bytes(walk: &mut Walk<'_>, chunk: &Chunk) -> Checked<Option<u64>> {
    let Some((key, item)) = walk.item() else { return Ok(None) };
    let stated = group::stated_bytes(chunk, key, item)?;
    walk.advance()?;
    Ok(Some(stated))
}

/// What is never dropped, whatever the trees say, ascending: boot code with the superblock, and the superblock's copies.
fn never_dropped() -> [Range<u64>; 3] {
    let copy = |place: u64| place..place + PLACE_BYTES;
    [0..HEAD_BYTES, copy(PLACES[1]), copy(PLACES[2])]
}

/// Bytes of `free`, ascending, without what is never dropped.
fn droppable_bytes(free: &[Range<u64>]) -> u64 {
    let kept = |range: &Range<u64>| ranges::overlap_bytes(free, range);
    ranges::total_bytes(free) - never_dropped().iter().map(kept).sum::<u64>()
}

/// Droppable bytes in all copies of a chunk.
fn group_free_bytes(chunk: &Chunk, group: &Group) -> u64 {
    let Some(free) = &group.free else { return 0 };
    let in_copy = |place: Range<u64>| {
        let mut on_device = Vec::with_capacity(free.len());
        chunk.add_free(&place, free, &place, &mut on_device);
        droppable_bytes(&on_device)
    };
    chunk.copies().map(in_copy).sum()
}

/// Droppable bytes that no chunk takes.
fn unallocated_bytes(superblock: &Superblock, chunks: &Chunks) -> u64 {
    let taken: Vec<Range<u64>> = chunks.stripes().iter().map(|stripe| stripe.place.clone()).collect();
    let mut free = Vec::new();
    ranges::subtract(slice::from_ref(&(0..superblock.device_item.total_bytes)), &taken, &mut free);
    droppable_bytes(&free)
}

impl FreeSpace for Btrfs {
    fn end_bytes(&self) -> Option<u64> {
        Some(self.superblock.device_item.total_bytes)
    }

    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        // A part may be longer than its file system, after the latter was shrunk: what is behind is not known.
        let range = range.start..range.end.min(self.superblock.device_item.total_bytes);
        let (mut found, mut place) = (Vec::new(), range.start);
        for stripe in self.chunks.stripes_within(&range) {
            if place < stripe.place.start {
                ranges::push_joined(&mut found, place..stripe.place.start);
            }
            if let Some(group) = self.group(device, stripe.chunk)? {
                self.chunks.list()[stripe.chunk].add_free(&stripe.place, &group, &range, &mut found);
            }
            place = stripe.place.end;
        }
        if place < range.end {
            ranges::push_joined(&mut found, place..range.end);
        }
        let mut droppable = Vec::new();
        ranges::subtract(&found, &never_dropped(), &mut droppable);
        free.append(&mut droppable);
        Ok(())
    }
}

impl Btrfs {
    /// What is free in the chunk of a number.
    fn group(&self, device: &Device<'_>, number: usize) -> Result<FreeRanges> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, free)) = remembered.iter().find(|(other, _)| *other == number) {
            return Ok(free.clone());
        }
        let free = match self.read_group(device, number) {
            Ok(group) => group.free,
            // It was sound when the file system was opened: the image has changed since, and the caller will notice.
            Err(Stop::Kept(_)) => None,
            Err(Stop::Failed(error)) => return Err(error),
        };
        // A group that is kept is remembered too, so that it is not read again for each of its units.
        let free = free.map(Arc::new);
        remembered.truncate(GROUPS_REMEMBERED - 1);
        remembered.push_front((number, free.clone()));
        Ok(free)
    }

    fn read_group(&self, device: &Device<'_>, number: usize) -> Checked<Group> {
        let volume = Volume { device, superblock: &self.superblock, chunks: &self.chunks, control: None };
        let list = self.chunks.list();
        let chunk = &list[number];
        let mut walk = Walk::start(volume, self.extents, Key::first_of(chunk.logical.start))?;
        let group = group::read(&mut walk, &self.superblock, chunk, next_start(list, number))?;
        if group.stated_bytes.is_some_and(|stated| stated != group.used_bytes) {
            return Err(keep(reason::KEPT_FREE_COUNT, "the used bytes of a block group have changed"));
        }
        Ok(group)
    }
}
