//! The names in the root directory: a B-tree of which the first node lies in the MFT. Offsets as in the Linux-NTFS
//! documentation, "$INDEX_ROOT" and "$INDEX_ALLOCATION".

use super::names::{FileName, I30};
use super::record::{REFERENCE, fix_up, kind};
use super::stream::Stream;
use super::volume::{Volume, file};
use super::{Stop, geometry};
use crate::control::Control;
use crate::guest::Kept;
use crate::guest::device::Fields;
use crate::reason;

/// Nodes that are read: 64 MiB of the usual size, which hold half a million names.
const NODES_MAX: u64 = 1 << 14;
/// Node numbers count sectors of this size where nodes are smaller than clusters.
const STRIDE: u64 = 512;
const FLAG_CHILD: u16 = 1;
const FLAG_LAST: u16 = 2;

/// Calls `take` with each name of the root directory and the number of its record.
pub(crate) fn walk_root(
    volume: &Volume<'_>,
    control: &Control,
    mut take: impl FnMut(u64, FileName<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let record = volume.read_record(file::ROOT)?;
    let mut pending = Vec::new();
    // In a record of its own when the list of the directory's other attributes leaves no room.
    let root = volume.find_stream(&record, kind::INDEX_ROOT, I30)?;
    let root = root.as_ref().and_then(Stream::resident).filter(|value| value.len() >= 32);
    let root = root.ok_or_else(|| geometry("the root directory has no index"))?;
    if root.u32_at(0) != kind::FILE_NAME {
        return Err(geometry("the index of the root directory is not one of names"));
    }
    read_entries(&root[16..], &mut pending, &mut take)?;
    if pending.is_empty() {
        return Ok(());
    }
    let nodes = volume.find_stream(&record, kind::INDEX_ALLOCATION, I30)?;
    let nodes = nodes.ok_or_else(|| geometry("the index of the root directory is not there"))?;
    let index_bytes = volume.boot.index_bytes as u64;
    let count = nodes.data_bytes() / index_bytes;
    if count > NODES_MAX {
        let message = "the root directory has more names than are looked at";
        return Err(Stop::Kept(Kept::whole(reason::KEPT_LIMIT, message)));
    }
    let mut seen = vec![false; count as usize];
    let mut node = vec![0; volume.boot.index_bytes];
    while let Some(number) = pending.pop() {
        control.check_cancelled()?;
        let unit = if volume.boot.cluster_bytes <= index_bytes { volume.boot.cluster_bytes } else { STRIDE };
        let place = number.checked_mul(unit).filter(|place| place.is_multiple_of(index_bytes));
        let seen = place.and_then(|place| seen.get_mut(usize::try_from(place / index_bytes).ok()?));
        // Each node has one parent, so a second visit is a loop.
        let (Some(place), Some(seen @ false)) = (place, seen) else {
            return Err(geometry("the index of the root directory loops or leaves itself"));
        };
        *seen = true;
        read_node(volume, &nodes, place, &mut node)?;
        if node.u64_at(16) != number {
            return Err(geometry("a node of the root directory is another one"));
        }
        read_entries(&node[24..], &mut pending, &mut take)?;
    }
    Ok(())
}

fn read_node(volume: &Volume<'_>, nodes: &Stream, place: u64, node: &mut [u8]) -> Result<(), Stop> {
    nodes.read_at(&volume.device, node, place)?;
    if !node.starts_with(b"INDX") || !fix_up(node) {
        let message = "a node of the root directory was not written in full";
        return Err(Stop::Kept(Kept::whole(reason::KEPT_CHECKSUM, message)));
    }
    Ok(())
}

/// Goes through the entries behind an index header; adds the nodes below to `pending`.
fn read_entries(
    header: &[u8],
    pending: &mut Vec<u64>,
    take: &mut impl FnMut(u64, FileName<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let broken = || geometry("an index entry of the root directory is damaged");
    let (start, end) = (header.u32_at(0) as usize, header.u32_at(4) as usize);
    let mut rest = header.get(start..end).filter(|_| start >= 16).ok_or_else(broken)?;
    loop {
        if rest.len() < 16 {
            return Err(broken());
        }
        let (entry, next) = rest.split_at_checked(usize::from(rest.u16_at(8))).ok_or_else(broken)?;
        if entry.len() < 16 {
            return Err(broken());
        }
        let flags = entry.u16_at(12);
        let key_end = 16 + usize::from(entry.u16_at(10));
        if flags & FLAG_CHILD != 0 {
            let child = entry.len().checked_sub(8).filter(|child| *child >= key_end).ok_or_else(broken)?;
            pending.push(entry.u64_at(child));
        }
        if flags & FLAG_LAST != 0 {
            return Ok(());
        }
        let name = entry.get(16..key_end).and_then(FileName::parse).ok_or_else(broken)?;
        take(entry.u64_at(0) & REFERENCE, name)?;
        rest = next;
    }
}
