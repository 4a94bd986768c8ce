//! GUID partition table: both copies, all checksums.

use std::ops::Range;

use super::Kept;
use super::device::{Device, Fields};
use super::table::{Claims, Partition};
use crate::error::Result;
use crate::reason;

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_BYTES_MIN: usize = 92;
/// Entries beyond these limits are no table that a tool has written.
const ENTRIES_MAX: u32 = 1024;
const ENTRY_BYTES_MAX: u32 = 4096;
/// Sector sizes that disks are shipped with.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// Types of dynamic disks: their content is laid out by the volume manager's own database.
const TYPES_LDM: [&str; 2] = ["5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad"];

/// What the headers say.
#[derive(Debug)]
pub(crate) enum Gpt {
    /// No header.
    None,
    /// Partitions that both copies agree on.
    Partitions(Vec<Partition>, Claims),
    /// A table that cannot be believed.
    Broken(Kept),
}

/// The fields of one header that was checked.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    own: u64,
    other: u64,
    first_usable: u64,
    last_usable: u64,
    disk_id: [u8; 16],
    entries_place: u64,
    entries: u32,
    entry_bytes: u32,
    entries_crc: u32,
}

fn broken(message: &str) -> Gpt {
    Gpt::Broken(Kept::whole(reason::KEPT_TABLE_INVALID, message))
}

/// Reads both headers and the entries.
pub(crate) fn read(device: &Device<'_>) -> Result<Gpt> {
    for sector_bytes in SECTOR_SIZES {
        let signed = device.read::<8>(sector_bytes)?.is_some_and(|start| start == *SIGNATURE);
        if signed {
            return read_copies(device, sector_bytes);
        }
    }
    // A backup header alone: the first one was wiped or overwritten, perhaps on purpose.
    let backup = device.read_from_end::<8>(SECTOR_SIZES[0])?.is_some_and(|start| start == *SIGNATURE);
    Ok(if backup { broken("the GPT has lost its first header") } else { Gpt::None })
}

fn read_copies(device: &Device<'_>, sector_bytes: u64) -> Result<Gpt> {
    let Some(primary) = read_header(device, sector_bytes, 1)? else {
        return Ok(broken("the first GPT header is damaged"));
    };
    let Some(backup) = read_header(device, sector_bytes, primary.other)? else {
        return Ok(broken("the backup GPT header is damaged or missing"));
    };
    let same = backup.other == primary.own
        && (backup.first_usable, backup.last_usable) == (primary.first_usable, primary.last_usable)
        && (backup.entries, backup.entry_bytes) == (primary.entries, primary.entry_bytes)
        && backup.disk_id == primary.disk_id
        && backup.entries_crc == primary.entries_crc;
    if !same {
        return Ok(Gpt::Broken(Kept::whole(reason::KEPT_TABLE_CONFLICT, "the two GPT copies disagree")));
    }
    let Some(entries) = read_entries(device, sector_bytes, &primary)? else {
        return Ok(broken("the entries of the GPT are damaged"));
    };
    // The same checksum over the same length: the backup's entries are the same when they pass it too.
    if read_entries(device, sector_bytes, &backup)?.is_none() {
        return Ok(broken("the backup entries of the GPT are damaged"));
    }
    let tables = [&primary, &backup].map(|header| header.places(sector_bytes)).concat();
    Ok(partitions(&primary, &entries, sector_bytes, tables))
}

impl Header {
    /// Where the header and its entries lie; both were read there.
    fn places(&self, sector_bytes: u64) -> [Range<u64>; 2] {
        let [header, entries] =
            [self.own, self.entries_place].map(|place| place.saturating_mul(sector_bytes));
        let entries_bytes = u64::from(self.entries) * u64::from(self.entry_bytes);
        [header..header.saturating_add(sector_bytes), entries..entries.saturating_add(entries_bytes)]
    }
}

fn read_header(device: &Device<'_>, sector_bytes: u64, place: u64) -> Result<Option<Header>> {
    let Some(offset) = place.checked_mul(sector_bytes) else { return Ok(None) };
    let Some(sector) = device.read::<512>(offset)? else { return Ok(None) };
    let length = sector.u32_at(12) as usize;
    if sector[..8] != *SIGNATURE || !(HEADER_BYTES_MIN..=sector.len()).contains(&length) {
        return Ok(None);
    }
    let mut bare = sector;
    bare[16..20].fill(0);
    if libdeflater::crc32(&bare[..length]) != sector.u32_at(16) {
        return Ok(None);
    }
    let mut disk_id = [0; 16];
    disk_id.copy_from_slice(&sector[56..72]);
    let header = Header {
        own: sector.u64_at(24),
        other: sector.u64_at(32),
        first_usable: sector.u64_at(40),
        last_usable: sector.u64_at(48),
        disk_id,
        entries_place: sector.u64_at(72),
        entries: sector.u32_at(80),
        entry_bytes: sector.u32_at(84),
        entries_crc: sector.u32_at(88),
    };
    let sane = header.own == place
        && (1..=ENTRIES_MAX).contains(&header.entries)
        && (128..=ENTRY_BYTES_MAX).contains(&header.entry_bytes)
        && header.entry_bytes.is_multiple_of(8);
    Ok(sane.then_some(header))
}

fn read_entries(device: &Device<'_>, sector_bytes: u64, header: &Header) -> Result<Option<Vec<u8>>> {
    let Some(offset) = header.entries_place.checked_mul(sector_bytes) else { return Ok(None) };
    // At most 4 MiB by the limits above.
    let mut entries = vec![0; header.entries as usize * header.entry_bytes as usize];
    if !device.read_at(&mut entries, offset)? || libdeflater::crc32(&entries) != header.entries_crc {
        return Ok(None);
    }
    Ok(Some(entries))
}

fn partitions(header: &Header, entries: &[u8], sector_bytes: u64, tables: Vec<Range<u64>>) -> Gpt {
    let mut partitions = Vec::new();
    let mut leftovers = false;
    for (index, entry) in (1..).zip(entries.chunks_exact(header.entry_bytes as usize)) {
        if entry[..16].iter().all(|byte| *byte == 0) {
            leftovers |= entry.iter().any(|byte| *byte != 0);
            continue;
        }
        let (first, last) = (entry.u64_at(32), entry.u64_at(40));
        let place = last
            .checked_sub(first)
            .and_then(|distance| distance.checked_add(1)?.checked_mul(sector_bytes))
            .zip(first.checked_mul(sector_bytes));
        let Some((length_bytes, start_bytes)) = place else {
            return broken("a partition ends before it starts");
        };
        if first < header.first_usable || last > header.last_usable {
            return broken("a partition lies outside the usable part of the disk");
        }
        let type_id = guid(&entry[..16]);
        let closed = TYPES_LDM
            .contains(&type_id.as_str())
            .then(|| Kept::whole(reason::KEPT_VOLUME_MANAGER, "the partition belongs to a dynamic disk"));
        let name = name(&entry[56..128]);
        partitions.push(Partition { index, name, type_id: Some(type_id), start_bytes, length_bytes, closed });
    }
    let end = header.last_usable.saturating_add(1).saturating_mul(sector_bytes);
    let usable = header.first_usable.saturating_mul(sector_bytes)..end;
    Gpt::Partitions(partitions, Claims { usable, tables, leftovers, guarded: true })
}

/// The usual text form: the first three groups are little-endian numbers.
fn guid(bytes: &[u8]) -> String {
    let tail = hex::encode(&bytes[8..16]);
    format!(
        "{:08x}-{:04x}-{:04x}-{}-{}",
        bytes.u32_at(0),
        bytes.u16_at(4),
        bytes.u16_at(6),
        &tail[..4],
        &tail[4..]
    )
}

fn name(bytes: &[u8]) -> Option<String> {
    let units = bytes.chunks_exact(2).map(|unit| unit.u16_at(0)).take_while(|unit| *unit != 0);
    let name: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .filter(|unit| !unit.is_control())
        .collect();
    (!name.is_empty()).then_some(name)
}
