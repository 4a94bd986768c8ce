//! Which partition table a disk has, and whether it can be believed.

use std::ops::Range;

use super::device::Device;
use super::gpt::{self, Gpt};
use super::mbr::{self, Mbr};
use super::{Kept, TableKind, signature};
use crate::error::Result;
use crate::reason;

/// Partitions that are looked at; a table with more is left alone.
pub(crate) const PARTITIONS_MAX: usize = 128;

/// A partition as its table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) index: u32,
    pub(crate) name: Option<String>,
    pub(crate) type_id: Option<String>,
    pub(crate) start_bytes: u64,
    pub(crate) length_bytes: u64,
    /// The content must be left alone whatever it looks like.
    pub(crate) closed: Option<Kept>,
}

impl Partition {
    /// The disk itself, as a part.
    pub(crate) fn whole_disk(device: &Device<'_>) -> Self {
        let length_bytes = device.length_bytes();
        Self { index: 0, name: None, type_id: None, start_bytes: 0, length_bytes, closed: None }
    }
}

/// What a table takes of the disk beside its partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    /// Where partitions may lie, as the table says.
    pub(crate) usable: Range<u64>,
    /// Places of the table itself, in any order.
    pub(crate) tables: Vec<Range<u64>>,
    /// An unused entry is not empty: a partition may have been taken out by half.
    pub(crate) leftovers: bool,
    /// Checksums vouch for the places of the partitions.
    pub(crate) guarded: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) table: Option<TableKind>,
    /// Why the whole disk is left alone; the partitions are for the eye only then.
    pub(crate) kept: Option<Kept>,
    /// Sorted by place, without overlap unless `kept`.
    pub(crate) partitions: Vec<Partition>,
    pub(crate) claims: Claims,
}

/// Reads the partition table of `device`, if it has one.
pub(crate) fn read(device: &Device<'_>) -> Result<Table> {
    let mbr = mbr::read(device)?;
    let gpt = gpt::read(device)?;
    let none = Claims::default();
    let (kind, mut partitions, claims, mut kept) = match (mbr, gpt) {
        (Mbr::None, Gpt::None) => return Ok(Table::default()),
        (Mbr::Partitions(partitions, claims), Gpt::None) => (TableKind::Mbr, partitions, claims, None),
        (Mbr::Broken(kept), Gpt::None) => (TableKind::Mbr, Vec::new(), none, Some(kept)),
        (Mbr::Protective, Gpt::None) => {
            let kept = Kept::whole(reason::KEPT_TABLE_INVALID, "a protective MBR without a valid GPT");
            (TableKind::Gpt, Vec::new(), none, Some(kept))
        }
        (Mbr::Protective, Gpt::Partitions(partitions, claims)) => (TableKind::Gpt, partitions, claims, None),
        (Mbr::Protective, Gpt::Broken(kept)) => (TableKind::Gpt, Vec::new(), none, Some(kept)),
        // Two tables at once, of which neither guards the other: whoever wrote last is unknown.
        (_, Gpt::Partitions(partitions, claims)) => {
            let kept =
                Kept::whole(reason::KEPT_TABLE_CONFLICT, "the MBR beside the GPT is not the protective one");
            (TableKind::Gpt, partitions, claims, Some(kept))
        }
        (_, Gpt::Broken(kept)) => (TableKind::Gpt, Vec::new(), none, Some(kept)),
    };
    partitions.sort_by_key(|partition| (partition.start_bytes, partition.index));
    if kept.is_none() {
        kept = conflict(device, &partitions)?;
    }
    Ok(Table { table: Some(kind), kept, partitions, claims })
}

/// Why partitions that were read without fault still cannot be believed.
fn conflict(device: &Device<'_>, partitions: &[Partition]) -> Result<Option<Kept>> {
    if partitions.len() > PARTITIONS_MAX {
        return Ok(Some(Kept::whole(reason::KEPT_TABLE_INVALID, "more partitions than are looked at")));
    }
    let mut end = 0;
    for partition in partitions {
        let Some(next) = partition.start_bytes.checked_add(partition.length_bytes) else {
            return Ok(Some(Kept::whole(reason::KEPT_TABLE_INVALID, "a partition reaches outside the disk")));
        };
        if next > device.length_bytes() {
            return Ok(Some(Kept::whole(reason::KEPT_TABLE_INVALID, "a partition reaches outside the disk")));
        }
        if partition.start_bytes < end {
            return Ok(Some(Kept::whole(reason::KEPT_TABLE_INVALID, "partitions overlap")));
        }
        end = next;
    }
    let found = signature::find(device)?;
    if let Some(first) = found.first() {
        let message = format!("a partition table and the signature of {} on one disk", first.name);
        return Ok(Some(Kept::whole(reason::KEPT_TWO_SIGNATURES, message)));
    }
    Ok(None)
}
