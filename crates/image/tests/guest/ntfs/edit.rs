//! Changes to the structures of a volume, with the update sequences put right again.

use std::path::Path;
use std::sync::Arc;

use imageops_image::disk::Disk;

use crate::peers::open;
use crate::proofs::Patched;

/// A list of changed bytes.
pub(crate) type Bytes = Vec<(u64, u8)>;

/// A volume whose MFT begins with one run that holds the records that the tests touch.
pub(crate) struct Volume {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) cluster_bytes: u64,
    pub(crate) clusters: u64,
    pub(crate) record_bytes: u64,
    pub(crate) mft: u64,
    pub(crate) mirror: u64,
}

/// A little-endian number of up to eight bytes.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Overwrites what is at `place`.
pub(crate) fn put(bytes: &mut [u8], place: usize, new: &[u8]) {
    bytes[place..place + new.len()].copy_from_slice(new);
}

fn short(bytes: &[u8], place: usize) -> usize {
    number(&bytes[place..place + 2]) as usize
}

/// Puts the ends of the sectors back.
fn fix_up(bytes: &mut [u8]) {
    let sequence = short(bytes, 4);
    for index in 1..short(bytes, 6) {
        bytes.copy_within(sequence + 2 * index..sequence + 2 * index + 2, index * 512 - 2);
    }
}

/// Moves the ends of the sectors to the update sequence.
pub(crate) fn protect(bytes: &mut [u8]) {
    let sequence = short(bytes, 4);
    for index in 1..short(bytes, 6) {
        bytes.copy_within(index * 512 - 2..index * 512, sequence + 2 * index);
        bytes.copy_within(sequence..sequence + 2, index * 512 - 2);
    }
}

/// Where the attribute of a type begins in a record.
pub(crate) fn attribute(record: &[u8], kind: u32) -> usize {
    let mut place = short(record, 20);
    while number(&record[place..place + 4]) != u64::from(kind) {
        assert_ne!(number(&record[place..place + 4]), 0xffff_ffff, "no attribute {kind:#x}");
        place += number(&record[place + 4..place + 8]) as usize;
    }
    place
}

impl Volume {
    pub(crate) fn open(path: &Path) -> Self {
        Self::new(open(path).disk)
    }

    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        let mut boot = [0; 512];
        disk.read_at(&mut boot, 0).unwrap();
        let sectors = if boot[13] > 128 { 1 << (256 - u64::from(boot[13])) } else { u64::from(boot[13]) };
        let cluster_bytes = number(&boot[11..13]) * sectors;
        let place = |at: usize| number(&boot[at..at + 8]) * cluster_bytes;
        let record_bytes = if boot[64] > 127 {
            1 << (256 - u64::from(boot[64]))
        } else {
            u64::from(boot[64]) * cluster_bytes
        };
        let clusters = number(&boot[40..48]) / sectors;
        Self { cluster_bytes, clusters, record_bytes, mft: place(48), mirror: place(56), disk }
    }

    pub(crate) fn read(&self, place: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.disk.read_at(&mut bytes, place).unwrap();
        bytes
    }

    /// The bytes at `place` that become others.
    pub(crate) fn replace(&self, place: u64, new: &[u8]) -> Bytes {
        let old = self.read(place, new.len() as u64);
        let changed = old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new);
        changed.map(|(index, (_, new))| (place + index as u64, *new)).collect()
    }

    /// A protected record as its writer sees it.
    pub(crate) fn unprotected(&self, place: u64, length: u64) -> Vec<u8> {
        let mut bytes = self.read(place, length);
        fix_up(&mut bytes);
        bytes
    }

    pub(crate) fn record_place(&self, record: u64) -> u64 {
        self.mft + record * self.record_bytes
    }

    pub(crate) fn record(&self, record: u64) -> Vec<u8> {
        self.unprotected(self.record_place(record), self.record_bytes)
    }

    /// Edits a protected structure that is no MFT record.
    pub(crate) fn edit(&self, place: u64, length: u64, edit: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut bytes = self.unprotected(place, length);
        edit(&mut bytes);
        protect(&mut bytes);
        self.replace(place, &bytes)
    }

    /// Edits a record of the MFT, and its copy in the mirror.
    pub(crate) fn edit_record(&self, record: u64, edit: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut bytes = self.record(record);
        edit(&mut bytes);
        protect(&mut bytes);
        let mut changed = self.replace(self.record_place(record), &bytes);
        if record < 4 {
            changed.extend(self.replace(self.mirror + record * self.record_bytes, &bytes));
        }
        changed
    }

    /// Overwrites bytes of an attribute in a record, counted from the attribute.
    pub(crate) fn edit_attribute(&self, record: u64, kind: u32, offset: usize, new: &[u8]) -> Bytes {
        self.edit_record(record, |bytes| {
            let place = attribute(bytes, kind) + offset;
            put(bytes, place, new);
        })
    }

    /// Place and length of the first run of an attribute outside its record.
    pub(crate) fn first_run(&self, record: u64, kind: u32) -> (u64, u64) {
        let record = self.record(record);
        let place = attribute(&record, kind);
        let pairs = place + short(&record, place + 32);
        let (lengths, places) = (usize::from(record[pairs] & 15), usize::from(record[pairs] >> 4));
        let length = number(&record[pairs + 1..pairs + 1 + lengths]);
        let start = number(&record[pairs + 1 + lengths..pairs + 1 + lengths + places]);
        (start * self.cluster_bytes, length * self.cluster_bytes)
    }

    pub(crate) fn patched(&self, bytes: &Bytes) -> Patched {
        Patched { base: Arc::clone(&self.disk), bytes: bytes.clone(), size: None }
    }
}
