//! The table of internal snapshots.

use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::header::{u16_at, u32_at, u64_at};
use crate::format::qcow2::{Header, SNAPSHOT_TABLE_BYTES_MAX, SNAPSHOTS_MAX};
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Bytes of the fixed part of an entry.
const ENTRY_BYTES: u64 = 40;
/// Most extra bytes of an entry.
const EXTRA_BYTES_MAX: u32 = 1024;

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Unique id, as the program that took it chose it.
    pub id: String,
    /// Name that people gave it.
    pub name: String,
    /// Offset of its L1 table.
    pub l1_offset: u64,
    /// Entries of its L1 table.
    pub l1_entries: u32,
    /// When it was taken, in seconds since 1970.
    pub taken_seconds: u32,
    /// Bytes of the machine's state saved with it.
    pub vm_state_size_bytes: u64,
    /// Size of the disk when it was taken.
    pub disk_size_bytes: u64,
    /// Bytes of extra data in its entry.
    pub extra_bytes: u32,
}

/// How far the table of snapshots reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTable {
    /// Bytes from the start of the table to the end of the last entry.
    pub length_bytes: u64,
}

/// Reads the table entry by entry and hands each to `take`. Memory stays at one entry.
pub(crate) fn read(
    storage: &dyn Storage,
    header: &Header,
    mut take: impl FnMut(Snapshot) -> Result<()>,
) -> Result<SnapshotTable> {
    let start = header.snapshot_table_offset;
    if header.snapshot_count > SNAPSHOTS_MAX {
        return Err(limit("the image has more than 65536 snapshots", 60));
    }
    let least = u64::from(header.snapshot_count) * ENTRY_BYTES;
    if !header.is_cluster_aligned(start) || start > i64::MAX as u64 - least {
        return Err(invalid("the snapshot table does not start at a cluster of the file", 64));
    }
    let mut offset = start;
    for _ in 0..header.snapshot_count {
        offset = offset.next_multiple_of(8);
        let (snapshot, end) = read_entry(storage, header, offset)?;
        offset = end;
        if offset - start > SNAPSHOT_TABLE_BYTES_MAX {
            return Err(limit("the snapshot table is larger than 64 MiB", start));
        }
        take(snapshot)?;
    }
    Ok(SnapshotTable { length_bytes: offset - start })
}

/// One entry and the offset behind it.
fn read_entry(storage: &dyn Storage, header: &Header, offset: u64) -> Result<(Snapshot, u64)> {
    // An offset near 2^63 reads as zeros like all that lies past the end; only the sums must not overflow, and they
    // cannot: the table is limited to 64 MiB beyond an offset below 2^63.
    let mut fixed = [0u8; ENTRY_BYTES as usize];
    read_zero_filled(storage, &mut fixed, offset)?;
    let extra_bytes = u32_at(&fixed, 36);
    if extra_bytes > EXTRA_BYTES_MAX {
        return Err(limit("an entry of the snapshot table has more than 1 KiB of extra data", offset));
    }
    let mut extra = [0u8; 16];
    let extra_known = (extra_bytes as usize).min(extra.len());
    read_zero_filled(storage, &mut extra[..extra_known], offset + ENTRY_BYTES)?;
    let id_at = offset + ENTRY_BYTES + u64::from(extra_bytes);
    let id_bytes = u64::from(u16_at(&fixed, 12));
    let name_bytes = u64::from(u16_at(&fixed, 14));
    let snapshot = Snapshot {
        id: read_text(storage, id_at, id_bytes)?,
        name: read_text(storage, id_at + id_bytes, name_bytes)?,
        l1_offset: u64_at(&fixed, 0),
        l1_entries: u32_at(&fixed, 8),
        taken_seconds: u32_at(&fixed, 16),
        vm_state_size_bytes: if extra_bytes >= 8 { u64_at(&extra, 0) } else { u64::from(u32_at(&fixed, 32)) },
        disk_size_bytes: if extra_bytes >= 16 { u64_at(&extra, 8) } else { header.virtual_size_bytes() },
        extra_bytes,
    };
    Ok((snapshot, id_at + id_bytes + name_bytes))
}

fn read_text(storage: &dyn Storage, offset: u64, length_bytes: u64) -> Result<String> {
    let mut bytes = vec![0u8; length_bytes as usize];
    read_zero_filled(storage, &mut bytes, offset)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn invalid(message: &str, offset: u64) -> Error {
    Error::new(ErrorKind::Invalid, reason::INVALID_SNAPSHOT_TABLE, message).at(offset)
}

fn limit(message: &str, offset: u64) -> Error {
    Error::new(ErrorKind::Unsafe, reason::UNSAFE_LIMIT, message).at(offset)
}
