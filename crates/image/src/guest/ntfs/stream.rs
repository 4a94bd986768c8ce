//! The bytes of an attribute, wherever they lie.

use super::boot::Boot;
use super::record::{Attribute, REFERENCE, Record, kind};
use super::{Stop, geometry};
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Runs of one attribute that are remembered: 1.5 MiB of them.
const RUNS_MAX: usize = 1 << 16;
/// Windows makes attribute lists of 256 KiB at most.
const LIST_BYTES_MAX: u64 = 256 << 10;

/// A stretch of an attribute on the volume, in clusters.
#[derive(Clone, Copy, Debug)]
struct Piece {
    first: u64,
    start: u64,
}

/// A plain attribute: neither compressed nor encrypted nor sparse.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The value, when it is in the MFT record; there are no pieces then.
    resident: Option<Vec<u8>>,
    pieces: Vec<Piece>,
    clusters: u64,
    cluster_bytes: u64,
    allocated_bytes: u64,
    data_bytes: u64,
    initialized_bytes: u64,
}

/// Where the extents of an attribute are, by the base record's list.
struct Listed {
    lowest: u64,
    record: u64,
    instance: u16,
}

impl Stream {
    /// The attribute of `base` of one type and name; `None` when it has none. Records of further extents are read
    /// through `mft`; for the MFT itself, which is not known yet, through what is known of it by then.
    pub(crate) fn open(
        device: &Device<'_>,
        mft: Option<&Mft<'_>>,
        boot: &Boot,
        base: &Record,
        (kind, name): (u32, &[u8]),
    ) -> Result<Option<Self>, Stop> {
        let mut stream = Self::empty(boot.cluster_bytes);
        let list = Self::list(device, boot, base)?;
        let Some(list) = list else {
            let mut found = base.find(kind, name);
            let Some(attribute) = found.next() else { return Ok(None) };
            if found.next().is_some() {
                return Err(geometry("an attribute is there twice"));
            }
            stream.append(attribute)?;
            return stream.finish().map(Some);
        };
        for listed in listed(&list, kind, name)? {
            let extension;
            let record = if listed.record == base.number {
                base
            } else {
                let through = Mft { stream: mft.map_or(&stream, |mft| mft.stream), boot };
                extension = through.read(device, listed.record)?;
                if extension.base != base.number {
                    return Err(geometry("an MFT record continues another file than the one that names it"));
                }
                &extension
            };
            let mut found = record.find(kind, name).filter(|found| found.instance() == listed.instance);
            let Some(attribute) = found.next() else {
                return Err(geometry("an attribute list names what is not there"));
            };
            if attribute.extent().is_some_and(|(extent, _)| extent.lowest != listed.lowest) {
                return Err(geometry("an attribute list and its extents disagree"));
            }
            stream.append(attribute)?;
        }
        if stream.resident.is_none() && stream.clusters == 0 {
            return Ok(None);
        }
        stream.finish().map(Some)
    }

    fn empty(cluster_bytes: u64) -> Self {
        Self {
            resident: None,
            pieces: Vec::new(),
            clusters: 0,
            cluster_bytes,
            allocated_bytes: 0,
            data_bytes: 0,
            initialized_bytes: 0,
        }
    }

    /// The attribute list of a record, if it has one.
    fn list(device: &Device<'_>, boot: &Boot, base: &Record) -> Result<Option<Vec<u8>>, Stop> {
        let mut found = base.find(kind::ATTRIBUTE_LIST, &[]);
        let Some(attribute) = found.next() else { return Ok(None) };
        let mut stream = Self::empty(boot.cluster_bytes);
        stream.append(attribute)?;
        let stream = stream.finish()?;
        if stream.data_bytes > LIST_BYTES_MAX {
            return Err(geometry("an attribute list is longer than Windows makes it"));
        }
        let mut bytes = vec![0; stream.data_bytes as usize];
        stream.read_at(device, &mut bytes, 0)?;
        Ok(Some(bytes))
    }

    /// Adds the next extent.
    fn append(&mut self, attribute: Attribute<'_>) -> Result<(), Stop> {
        let first = self.resident.is_none() && self.clusters == 0;
        if let Some(value) = attribute.resident() {
            if !first {
                return Err(geometry("an attribute lies in its MFT record and outside"));
            }
            self.data_bytes = value.len() as u64;
            self.initialized_bytes = self.data_bytes;
            self.resident = Some(value.to_vec());
            return Ok(());
        }
        if !attribute.is_plain() {
            let message = "a file of the system is compressed, encrypted or sparse";
            return Err(Stop::Kept(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message)));
        }
        let (extent, runs) = attribute.extent().expect("what is not resident has an extent");
        if self.resident.is_some() || extent.lowest != self.clusters {
            return Err(geometry("the extents of an attribute do not follow one another"));
        }
        if first {
            self.allocated_bytes = extent.allocated_bytes;
            self.data_bytes = extent.data_bytes;
            self.initialized_bytes = extent.initialized_bytes;
        }
        for run in runs {
            let run = run.map_err(|_| geometry("the runs of a file of the system are damaged"))?;
            let Some(start) = run.start else { return Err(geometry("a file of the system has a hole")) };
            if self.pieces.len() == RUNS_MAX {
                let message = "a file of the system is too scattered";
                return Err(Stop::Kept(Kept::whole(reason::KEPT_LIMIT, message)));
            }
            self.pieces.push(Piece { first: self.clusters, start });
            self.clusters += run.clusters;
        }
        if !extent.has(self.clusters - extent.lowest) {
            return Err(geometry("the runs of a file of the system are not as long as they should be"));
        }
        Ok(())
    }

    /// Checks the sizes when all extents are there.
    fn finish(self) -> Result<Self, Stop> {
        let length = self.clusters.checked_mul(self.cluster_bytes);
        let sane = self.resident.is_some()
            || length == Some(self.allocated_bytes)
                && self.data_bytes <= self.allocated_bytes
                && self.initialized_bytes <= self.data_bytes;
        if sane { Ok(self) } else { Err(geometry("the sizes of a file of the system contradict each other")) }
    }

    /// Length in bytes.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Bytes that were ever written; the rest reads as zeros.
    pub(crate) fn initialized_bytes(&self) -> u64 {
        self.initialized_bytes
    }

    /// First cluster on the volume, when it lies outside its record.
    pub(crate) fn first_cluster(&self) -> Option<u64> {
        self.pieces.first().map(|piece| piece.start)
    }

    /// The value, when it is in an MFT record.
    pub(crate) fn resident(&self) -> Option<&[u8]> {
        self.resident.as_deref()
    }

    /// Fills `buffer`, which must lie inside the stream.
    pub(crate) fn read_at(&self, device: &Device<'_>, buffer: &mut [u8], offset: u64) -> Result<(), Stop> {
        let outside = || geometry("a file of the system is shorter than it should be");
        let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.data_bytes);
        let end = end.ok_or_else(outside)?;
        if let Some(value) = &self.resident {
            buffer.copy_from_slice(&value[offset as usize..end as usize]);
            return Ok(());
        }
        let written = (self.initialized_bytes.clamp(offset, end) - offset) as usize;
        let (mut rest, zeros) = buffer.split_at_mut(written);
        zeros.fill(0);
        let mut place = offset;
        while !rest.is_empty() {
            let (start, length) = self.locate(place).ok_or_else(outside)?;
            let count = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            let (head, tail) = rest.split_at_mut(count);
            if !device.read_at(head, start)? {
                return Err(outside());
            }
            place += count as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Where the byte at `offset` lies on the volume, and how many follow it there.
    fn locate(&self, offset: u64) -> Option<(u64, u64)> {
        let cluster = offset / self.cluster_bytes;
        let index = self.pieces.partition_point(|piece| piece.first <= cluster).checked_sub(1)?;
        let piece = self.pieces[index];
        let end = self.pieces.get(index + 1).map_or(self.clusters, |next| next.first);
        let inside = offset - piece.first * self.cluster_bytes;
        let length = (end - piece.first) * self.cluster_bytes;
        // The decoder let through places inside the volume only, and the volume is no larger than its device.
        (inside < length).then(|| (piece.start * self.cluster_bytes + inside, length - inside))
    }
}

/// The MFT, or as much of it as is known.
#[derive(Debug)]
pub(crate) struct Mft<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) boot: &'a Boot,
}

impl Mft<'_> {
    /// Reads a record that must be in use and sound.
    pub(crate) fn read(&self, device: &Device<'_>, number: u64) -> Result<Record, Stop> {
        let mut bytes = vec![0; self.boot.record_bytes];
        let place = number.checked_mul(bytes.len() as u64);
        let place = place.ok_or_else(|| geometry("a record outside the MFT"))?;
        self.stream.read_at(device, &mut bytes, place)?;
        Record::parse(bytes, number, self.boot.clusters)
    }
}

/// The extents of one attribute that an attribute list names.
fn listed(list: &[u8], kind: u32, name: &[u8]) -> Result<Vec<Listed>, Stop> {
    let broken = || geometry("an attribute list is damaged");
    let mut found = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        if rest.len() < 26 {
            return Err(broken());
        }
        let (entry, next) = rest.split_at_checked(usize::from(rest.u16_at(4))).ok_or_else(broken)?;
        if entry.len() < 26 {
            return Err(broken());
        }
        let start = usize::from(entry[7]);
        let letters = entry.get(start..start + 2 * usize::from(entry[6])).ok_or_else(broken)?;
        if entry.u32_at(0) == kind && letters == name {
            let record = entry.u64_at(16) & REFERENCE;
            found.push(Listed { lowest: entry.u64_at(8), record, instance: entry.u16_at(24) });
        }
        rest = next;
    }
    Ok(found)
}
