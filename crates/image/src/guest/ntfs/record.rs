//! Records of the MFT, and the attributes in them. Offsets as in the Linux-NTFS documentation, "File Record" and
//! "Attribute Header".

use super::runs::Runs;
use super::{Stop, geometry};
use crate::guest::Kept;
use crate::guest::device::Fields;
use crate::reason;

/// Every 512 bytes of a protected record end in its update sequence number, whatever the sector size.
const STRIDE: usize = 512;

const MAGIC: &[u8] = b"FILE";
const FLAG_IN_USE: u16 = 1;
const END: u32 = 0xffff_ffff;

/// Types of attributes that the reader looks at.
pub(crate) mod kind {
    pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(crate) const FILE_NAME: u32 = 0x30;
    pub(crate) const VOLUME_NAME: u32 = 0x60;
    pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(crate) const BITMAP: u32 = 0xb0;
}

/// Puts the last two bytes of each 512 back in place; `false` when they are not those of one write.
pub(crate) fn fix_up(bytes: &mut [u8]) -> bool {
    let (offset, count) = (usize::from(bytes.u16_at(4)), usize::from(bytes.u16_at(6)));
    let sane = bytes.len().is_multiple_of(STRIDE)
        && count == bytes.len() / STRIDE + 1
        && offset.is_multiple_of(2)
        && (8..=STRIDE - 2).contains(&(offset + 2 * count));
    if !sane || offset < 8 {
        return false;
    }
    let number = bytes.u16_at(offset);
    for index in 1..count {
        let (saved, place) = (offset + 2 * index, index * STRIDE - 2);
        if bytes.u16_at(place) != number {
            return false;
        }
        bytes.copy_within(saved..saved + 2, place);
    }
    true
}

/// Whether a record is signed, before anything else of it is believed.
pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Whether a signed record says that it belongs to a file.
pub(crate) fn is_in_use(bytes: &[u8]) -> bool {
    bytes.u16_at(22) & FLAG_IN_USE != 0
}

/// A record in use whose header was found sound.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) number: u64,
    /// The record that this one continues; 0 when it stands for itself.
    pub(crate) base: u64,
    bytes: Vec<u8>,
    attributes: usize,
    volume_clusters: u64,
}

impl Record {
    /// Checks the record of `number` as it lies on disk.
    pub(crate) fn parse(mut bytes: Vec<u8>, number: u64, volume_clusters: u64) -> Result<Self, Stop> {
        let broken =
            || Stop::Kept(Kept::whole(reason::KEPT_GEOMETRY, format!("MFT record {number} is damaged")));
        if !is_signed(&bytes) || !fix_up(&mut bytes) {
            let message = format!("MFT record {number} was not written in full");
            return Err(Stop::Kept(Kept::whole(reason::KEPT_CHECKSUM, message)));
        }
        let sequence = usize::from(bytes.u16_at(4));
        let attributes = usize::from(bytes.u16_at(20));
        let used = bytes.u32_at(24) as usize;
        let sequence_end = sequence + 2 * usize::from(bytes.u16_at(6));
        // NTFS 1.2 and 3.0 have the update sequence where 3.1 has the record's number.
        let numbered = sequence < 48 || u64::from(bytes.u32_at(44)) == number & 0xffff_ffff;
        let sane = is_in_use(&bytes)
            && bytes.u32_at(28) as usize == bytes.len()
            && used <= bytes.len()
            && used.is_multiple_of(8)
            && attributes.is_multiple_of(8)
            && sequence_end <= attributes
            && attributes + 4 <= used;
        if !sane || !numbered {
            return Err(broken());
        }
        let base = bytes.u64_at(32) & REFERENCE;
        bytes.truncate(used);
        let record = Self { number, base, bytes, attributes, volume_clusters };
        // Once for all, so that those who look for one attribute need not think of the others.
        match record.attributes().last() {
            Some(Err(Broken)) => Err(broken()),
            _ => Ok(record),
        }
    }

    /// The record without its update sequence, which differs from copy to copy.
    pub(crate) fn content(&self) -> [&[u8]; 2] {
        let sequence = usize::from(self.bytes.u16_at(4));
        let end = sequence + 2 * usize::from(self.bytes.u16_at(6));
        [&self.bytes[..sequence], &self.bytes[end..]]
    }

    /// All attributes in their order; an error is the last.
    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes { rest: Some(&self.bytes[self.attributes..]), volume_clusters: self.volume_clusters }
    }

    /// The attributes of one type and name. The record was checked, so none is broken.
    pub(crate) fn find(&self, kind: u32, name: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
        self.attributes()
            .filter_map(Result::ok)
            .filter(move |found| found.kind() == kind && found.name() == name)
    }

    /// The value of the attribute of one type without a name, when it is in the record.
    pub(crate) fn value(&self, kind: u32) -> Result<Option<&[u8]>, Stop> {
        let mut found = self.find(kind, &[]);
        match (found.next().map(|attribute| attribute.resident()), found.next()) {
            (None, _) => Ok(None),
            (Some(Some(value)), None) => Ok(Some(value)),
            _ => Err(geometry("an attribute that lies in its MFT record does not, or is there twice")),
        }
    }
}

/// The record's number in a reference; the rest counts how often the record was used anew.
pub(crate) const REFERENCE: u64 = (1 << 48) - 1;

/// An attribute does not lie inside its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Goes through the attributes of a record.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    rest: Option<&'a [u8]>,
    volume_clusters: u64,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        if rest.len() < 4 {
            return Some(Err(Broken));
        }
        if rest.u32_at(0) == END {
            return None;
        }
        let parsed = (rest.len() >= 24)
            .then(|| rest.split_at_checked(rest.u32_at(4) as usize))
            .flatten()
            .and_then(|(bytes, rest)| Some((Attribute::parse(bytes, self.volume_clusters)?, rest)));
        let Some((attribute, rest)) = parsed else { return Some(Err(Broken)) };
        self.rest = Some(rest);
        Some(Ok(attribute))
    }
}

/// One attribute, or one extent of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    bytes: &'a [u8],
    volume_clusters: u64,
}

/// What only attributes outside their record have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) lowest: u64,
    pub(crate) highest: u64,
    /// Sizes; only the first extent has them.
    pub(crate) allocated_bytes: u64,
    pub(crate) data_bytes: u64,
    pub(crate) initialized_bytes: u64,
}

impl<'a> Attribute<'a> {
    fn parse(bytes: &'a [u8], volume_clusters: u64) -> Option<Self> {
        let resident = bytes.len() >= 24 && bytes[8] == 0;
        let least = if resident { 24 } else { 64 };
        if bytes.len() < least || !bytes.len().is_multiple_of(8) || bytes[8] > 1 {
            return None;
        }
        let name = usize::from(bytes.u16_at(10))..usize::from(bytes.u16_at(10)) + 2 * usize::from(bytes[9]);
        let inside = |start: usize, end: usize| start >= least && end <= bytes.len();
        let sane = if resident {
            let value = usize::from(bytes.u16_at(20));
            inside(value, value + bytes.u32_at(16) as usize)
        } else {
            inside(usize::from(bytes.u16_at(32)), usize::from(bytes.u16_at(32)) + 1)
        };
        (sane && (name.is_empty() || inside(name.start, name.end))).then_some(Self { bytes, volume_clusters })
    }

    pub(crate) fn kind(&self) -> u32 {
        self.bytes.u32_at(0)
    }

    /// As 16-bit letters.
    pub(crate) fn name(&self) -> &'a [u8] {
        let start = usize::from(self.bytes.u16_at(10));
        self.bytes.get(start..start + 2 * usize::from(self.bytes[9])).unwrap_or_default()
    }

    /// Compressed, sparse or encrypted.
    pub(crate) fn is_plain(&self) -> bool {
        self.bytes.u16_at(12) == 0
    }

    /// Number that tells apart the attributes of a record.
    pub(crate) fn instance(&self) -> u16 {
        self.bytes.u16_at(14)
    }

    /// The value, when it is in the record.
    pub(crate) fn resident(&self) -> Option<&'a [u8]> {
        if self.bytes[8] != 0 {
            return None;
        }
        let start = usize::from(self.bytes.u16_at(20));
        Some(&self.bytes[start..start + self.bytes.u32_at(16) as usize])
    }

    /// Sizes and runs, when the value lies outside the record.
    pub(crate) fn extent(&self) -> Option<(Extent, Runs<'a>)> {
        if self.bytes[8] == 0 {
            return None;
        }
        let extent = Extent {
            lowest: self.bytes.u64_at(16),
            highest: self.bytes.u64_at(24),
            allocated_bytes: self.bytes.u64_at(40),
            data_bytes: self.bytes.u64_at(48),
            initialized_bytes: self.bytes.u64_at(56),
        };
        let pairs = &self.bytes[usize::from(self.bytes.u16_at(32))..];
        Some((extent, Runs::new(pairs, self.volume_clusters)))
    }
}

impl Extent {
    /// Whether `clusters` are as many as the extent says. A single extent may leave the figure out.
    pub(crate) fn has(&self, clusters: u64) -> bool {
        let end = self.lowest.checked_add(clusters);
        end.is_some_and(|end| end == self.highest.wrapping_add(1)) || self.lowest == 0 && self.highest == 0
    }
}
