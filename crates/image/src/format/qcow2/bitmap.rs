//! The directory of persistent bitmaps.

use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::header::{u16_at, u32_at, u64_at};
use crate::format::qcow2::{Header, Region};
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Bytes of the fixed part of an entry.
const ENTRY_BYTES: u64 = 24;
/// Most entries of a bitmap's table.
const TABLE_ENTRIES_MAX: u32 = 0x800_0000;
/// Largest bitmap.
const BITMAP_BYTES_MAX: u64 = 512 << 20;
/// Longest name.
const NAME_BYTES_MAX: u64 = 1023;
/// Flags that have a meaning: in use, enabled.
const KNOWN_FLAGS: u32 = 3;
const FLAG_IN_USE: u32 = 1;

/// Where the table of a bitmap lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitmapTable {
    /// Offset of the table.
    pub(crate) offset: u64,
    /// Entries of 8 bytes.
    pub(crate) entries: u32,
    /// The bitmap was in use when the image was left: its content does not count.
    pub(crate) in_use: bool,
    /// log2 of the guest bytes that one bit stands for.
    pub(crate) granularity_bits: u8,
}

/// Hands the table of each bitmap to `take`, in the order of the directory.
pub(crate) fn read_directory(
    storage: &dyn Storage,
    header: &Header,
    count: u32,
    directory: Region,
    mut take: impl FnMut(BitmapTable) -> Result<()>,
) -> Result<()> {
    let end = directory.offset + directory.length_bytes;
    let mut offset = directory.offset;
    let mut seen = 0u32;
    while offset < end {
        if end - offset < ENTRY_BYTES || seen == count {
            return Err(invalid("the directory of the bitmaps does not end where it should", offset));
        }
        let mut fixed = [0u8; ENTRY_BYTES as usize];
        read_zero_filled(storage, &mut fixed, offset)?;
        let name_bytes = u64::from(u16_at(&fixed, 18));
        let extra_bytes = u64::from(u32_at(&fixed, 20));
        let entry_bytes = (ENTRY_BYTES + name_bytes + extra_bytes).next_multiple_of(8);
        let table = BitmapTable {
            offset: u64_at(&fixed, 0),
            entries: u32_at(&fixed, 8),
            in_use: u32_at(&fixed, 12) & FLAG_IN_USE != 0,
            granularity_bits: fixed[17],
        };
        let sound = entry_bytes <= end - offset
            && table.entries != 0
            && table.entries <= TABLE_ENTRIES_MAX
            && table.offset != 0
            && u64::from(table.entries) * header.cluster_bytes() <= BITMAP_BYTES_MAX
            && header.is_cluster_aligned(table.offset)
            && (1..=NAME_BYTES_MAX).contains(&name_bytes)
            && u32_at(&fixed, 12) & !KNOWN_FLAGS == 0
            && fixed[16] == 1
            && (9..=31).contains(&table.granularity_bits)
            && extra_bytes == 0
            && table.covers_the_disk(header);
        if !sound {
            return Err(invalid("an entry of the directory of the bitmaps is malformed", offset));
        }
        take(table)?;
        seen += 1;
        offset += entry_bytes;
    }
    if seen != count {
        return Err(invalid("the directory of the bitmaps has fewer entries than the header says", offset));
    }
    Ok(())
}

impl BitmapTable {
    /// A bitmap that is not in use must have exactly one bit for each piece of the disk.
    fn covers_the_disk(&self, header: &Header) -> bool {
        let bits = header.virtual_size_bytes().div_ceil(1u64 << self.granularity_bits);
        let bytes = bits.div_ceil(8);
        self.in_use || u64::from(self.entries) == bytes.div_ceil(header.cluster_bytes())
    }
}

fn invalid(message: &str, offset: u64) -> Error {
    Error::new(ErrorKind::Invalid, reason::INVALID_BITMAPS, message).at(offset)
}
