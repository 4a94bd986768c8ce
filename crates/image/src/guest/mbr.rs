//! Master boot record, with the chain of logical partitions.

use super::Kept;
use super::device::{Device, Fields};
use super::table::{Claims, PARTITIONS_MAX, Partition};
use crate::error::Result;
use crate::reason;

const SECTOR_BYTES: u64 = 512;
const ENTRIES_OFFSET: usize = 446;
const ENTRY_BYTES: usize = 16;
const TYPE_PROTECTIVE: u8 = 0xee;
const TYPE_LDM: u8 = 0x42;
/// Type codes of containers for logical partitions.
const TYPES_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Tables of logical partitions of which none can be missed: the first lies where the container begins, and any other is
/// the next.
const LINKS_SURE: usize = 2;
/// The first logical partition has this number, whatever the primary ones are.
const FIRST_LOGICAL: u32 = 5;

/// What the first sector says.
#[derive(Debug)]
pub(crate) enum Mbr {
    /// No partition table.
    None,
    /// One partition of the protective type and no other: the GPT counts.
    Protective,
    /// Partitions, containers of logical ones left out.
    Partitions(Vec<Partition>, Claims),
    /// A table that contradicts itself.
    Broken(Kept),
}

#[derive(Clone, Copy)]
struct Entry {
    kind: u8,
    start: u64,
    sectors: u64,
}

impl Entry {
    /// Unused, and not empty.
    fn is_leftover(&self) -> bool {
        (self.kind == 0 || self.sectors == 0) && (self.kind != 0 || self.start != 0 || self.sectors != 0)
    }
}

fn broken(message: &str) -> Mbr {
    Mbr::Broken(Kept::whole(reason::KEPT_TABLE_INVALID, message))
}

/// The four entries of a table sector, or `None` when it is no such sector: boot code of a file system ends in the
/// same two bytes, but has no four entries that make sense.
fn entries(sector: &[u8; 512]) -> Option<[Entry; 4]> {
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let mut entries = [Entry { kind: 0, start: 0, sectors: 0 }; 4];
    for (index, entry) in entries.iter_mut().enumerate() {
        let bytes = &sector[ENTRIES_OFFSET + index * ENTRY_BYTES..][..ENTRY_BYTES];
        if bytes[0] & 0x7f != 0 {
            return None;
        }
        *entry = Entry { kind: bytes[4], start: bytes.u32_at(8).into(), sectors: bytes.u32_at(12).into() };
    }
    Some(entries)
}

fn partition(index: u32, entry: Entry, base: u64) -> Partition {
    let closed = (entry.kind == TYPE_LDM)
        .then(|| Kept::whole(reason::KEPT_VOLUME_MANAGER, "the partition belongs to a dynamic disk"));
    Partition {
        index,
        name: None,
        type_id: Some(format!("{:02x}", entry.kind)),
        start_bytes: (base + entry.start) * SECTOR_BYTES,
        length_bytes: entry.sectors * SECTOR_BYTES,
        closed,
    }
}

/// Reads the table in the first sector and the chain of logical partitions.
pub(crate) fn read(device: &Device<'_>) -> Result<Mbr> {
    let Some(sector) = device.read::<512>(0)? else { return Ok(Mbr::None) };
    let Some(entries) = entries(&sector) else { return Ok(Mbr::None) };
    let used: Vec<(u32, Entry)> =
        (1..).zip(entries).filter(|(_, entry)| entry.kind != 0 && entry.sectors != 0).collect();
    if used.is_empty() {
        return Ok(Mbr::None);
    }
    if used.iter().any(|(_, entry)| entry.kind == TYPE_PROTECTIVE) {
        let alone = used.len() == 1 && used[0].1.start == 1;
        return Ok(if alone { Mbr::Protective } else { broken("a protective MBR entry beside others") });
    }
    let mut partitions = Vec::new();
    let mut claims = Claims {
        usable: SECTOR_BYTES..device.length_bytes(),
        tables: Vec::new(),
        leftovers: entries.iter().any(Entry::is_leftover),
        guarded: false,
    };
    let mut container = None;
    for (index, entry) in used {
        if entry.start == 0 {
            // Boot code or a file system that lies over the table.
            return Ok(broken("a partition starts at the partition table"));
        }
        if !TYPES_EXTENDED.contains(&entry.kind) {
            partitions.push(partition(index, entry, 0));
        } else if container.replace(entry).is_some() {
            return Ok(broken("two extended partitions"));
        }
    }
    if let Some(container) = container {
        let inside = container.start..container.start + container.sectors;
        let overlap = |other: &Partition| {
            other.start_bytes < inside.end * SECTOR_BYTES
                && other.start_bytes + other.length_bytes > inside.start * SECTOR_BYTES
        };
        if partitions.iter().any(overlap) {
            return Ok(broken("partitions overlap"));
        }
        if let Some(fault) = read_logical(device, container, &mut partitions, &mut claims)? {
            return Ok(fault);
        }
        // With more links than this, one that leads too far passes over a partition and shows in nothing else.
        if claims.tables.len() > LINKS_SURE {
            claims.tables.push(inside.start * SECTOR_BYTES..inside.end * SECTOR_BYTES);
        }
    }
    Ok(Mbr::Partitions(partitions, claims))
}

/// Follows the chain of table sectors inside the extended partition; returns what is wrong with it.
fn read_logical(
    device: &Device<'_>,
    container: Entry,
    partitions: &mut Vec<Partition>,
    claims: &mut Claims,
) -> Result<Option<Mbr>> {
    let mut place = container.start;
    for index in FIRST_LOGICAL.. {
        if partitions.len() > PARTITIONS_MAX {
            return Ok(Some(broken("the chain of logical partitions is too long")));
        }
        let sector = device.read::<512>(place * SECTOR_BYTES)?;
        let Some(entries) = sector.as_ref().and_then(entries) else {
            return Ok(Some(broken("the chain of logical partitions is broken")));
        };
        claims.tables.push(place * SECTOR_BYTES..(place + 1) * SECTOR_BYTES);
        claims.leftovers |= entries.iter().any(Entry::is_leftover);
        let [data, link, rest @ ..] = entries;
        if rest.iter().any(|entry| entry.kind != 0 && entry.sectors != 0) {
            return Ok(Some(broken("a logical partition has more entries than two")));
        }
        if data.kind != 0 && data.sectors != 0 {
            let end = place + data.start + data.sectors;
            if data.start == 0
                || end > container.start + container.sectors
                || TYPES_EXTENDED.contains(&data.kind)
            {
                return Ok(Some(broken("a logical partition lies outside the extended one")));
            }
            partitions.push(partition(index, data, place));
        }
        if link.kind == 0 || link.sectors == 0 {
            return Ok(None);
        }
        // Every tool writes the chain in ascending order; a step back is a loop or two partitions in one place.
        let next = container.start + link.start;
        if !TYPES_EXTENDED.contains(&link.kind)
            || next <= place
            || next >= container.start + container.sectors
        {
            return Ok(Some(broken("the chain of logical partitions leads outside or back")));
        }
        place = next;
    }
    Ok(None)
}
