//! The label of a physical volume: who it is, and where its metadata areas lie.

use super::checksum::checksum;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// The label is in one of the first sectors, the second as a rule.
const LABEL_SECTORS: u64 = 4;
const SECTOR_BYTES: usize = 512;
const MAGIC: &[u8] = b"LABELONE";
const KIND: &[u8] = b"LVM2 001";
/// The checksum covers the sector from here.
const COVERED: usize = 20;
const LABEL_BYTES: usize = 32;
/// Versions 1 and 2 of what follows the lists of places: boot loader areas, and the mark that a group uses the volume.
const EXTENSION_VERSION_MAX: u32 = 2;
const EXTENSION_USED: u32 = 1;

/// Bytes of an identifier, without its dashes.
pub(crate) const ID_BYTES: usize = 32;

/// A place on the device: offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What the label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: [u8; ID_BYTES],
    pub(crate) device_bytes: u64,
    /// Where the extents start.
    pub(crate) data_start: u64,
    pub(crate) metadata_areas: Vec<Place>,
    pub(crate) boot_loader_areas: Vec<Place>,
}

impl Label {
    /// Reads and checks the label; the inner error is the reason to keep all.
    pub(crate) fn read(device: &Device<'_>) -> Result<Result<Self, Kept>> {
        let mut found = None;
        for sector in 0..LABEL_SECTORS {
            let Some(bytes) = device.read::<SECTOR_BYTES>(sector * SECTOR_BYTES as u64)? else { break };
            if !bytes.starts_with(MAGIC) {
                continue;
            }
            if found.is_some() {
                let message = "there are two labels of a physical volume";
                return Ok(Err(Kept::whole(reason::KEPT_METADATA_CONFLICT, message)));
            }
            let whole = bytes.u64_at(8) == sector
                && checksum(&bytes[COVERED..]) == bytes.u32_at(16)
                && bytes[24..LABEL_BYTES] == *KIND;
            if !whole {
                let message = "the label of the physical volume is damaged";
                return Ok(Err(Kept::whole(reason::KEPT_CHECKSUM, message)));
            }
            found = Some(bytes);
        }
        let missing = || Kept::whole(reason::KEPT_CHECKSUM, "the label of the physical volume is missing");
        Ok(found.ok_or_else(missing).and_then(|sector| Self::parse(&sector, device.length_bytes())))
    }

    fn parse(sector: &[u8; SECTOR_BYTES], device_bytes: u64) -> Result<Self, Kept> {
        let malformed =
            || Kept::whole(reason::KEPT_METADATA_INVALID, "the label of the physical volume is malformed");
        let mut cursor = Cursor { sector, place: sector.u32_at(20) as usize };
        if cursor.place < LABEL_BYTES {
            return Err(malformed());
        }
        let id = cursor.take::<ID_BYTES>().ok_or_else(malformed)?;
        let size = cursor.take::<8>().ok_or_else(malformed)?.u64_at(0);
        let data = cursor.places().ok_or_else(malformed)?;
        let metadata_areas = cursor.places().ok_or_else(malformed)?;
        // Older tools leave zeros behind the lists.
        let mut boot_loader_areas = Vec::new();
        if let Some(extension) = cursor.take::<8>().filter(|extension| extension.u32_at(0) != 0) {
            if extension.u32_at(0) > EXTENSION_VERSION_MAX || extension.u32_at(4) & !EXTENSION_USED != 0 {
                let message = "the label of the physical volume has an extension that is not known";
                return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
            }
            boot_loader_areas = cursor.places().ok_or_else(malformed)?;
        }
        let [data] = data.as_slice() else { return Err(malformed()) };
        if size > device_bytes {
            let message = "the physical volume is larger than its device";
            return Err(Kept::whole(reason::KEPT_GEOMETRY, message));
        }
        Ok(Self { id, device_bytes: size, data_start: data.offset, metadata_areas, boot_loader_areas })
    }
}

/// Reads one thing after the other, and nothing past the end of the sector.
struct Cursor<'a> {
    sector: &'a [u8; SECTOR_BYTES],
    place: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let end = self.place.checked_add(N)?;
        let bytes = self.sector.get(self.place..end)?.try_into().ok()?;
        self.place = end;
        Some(bytes)
    }

    /// A list that ends with an offset of zero.
    fn places(&mut self) -> Option<Vec<Place>> {
        let mut places = Vec::new();
        loop {
            let entry = self.take::<16>()?;
            match entry.u64_at(0) {
                0 => return Some(places),
                offset => places.push(Place { offset, length: entry.u64_at(8) }),
            }
        }
    }
}
