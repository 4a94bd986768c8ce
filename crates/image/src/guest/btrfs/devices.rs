//! The device that the file system is on, and which of its bytes belong to chunks.
//!
//! Field places: "On-disk format" of the Btrfs documentation, `struct btrfs_dev_item`, `btrfs_dev_extent`.

use super::chunk::Chunks;
use super::walk::Walk;
use super::{Checked, keep};
use crate::guest::device::Fields;
use crate::reason;

const DEVICE_STATE_OBJECT: u64 = 0;
const DEV_EXTENT: u8 = 204;
const PERSISTENT_ITEM: u8 = 249;
const DEV_REPLACE: u8 = 250;

/// What the file system says of the device that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceItem {
    pub(crate) id: u64,
    pub(crate) total_bytes: u64,
    /// Bytes of all device extents.
    used_bytes: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) uuid_of_system: [u8; 16],
}

impl DeviceItem {
    /// Length of the item.
    pub(crate) const LENGTH: usize = 98;

    /// Parses an item of 98 bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self {
            id: bytes.u64_at(0),
            total_bytes: bytes.u64_at(8),
            used_bytes: bytes.u64_at(16),
            uuid: bytes[66..82].try_into().expect("sixteen bytes"),
            uuid_of_system: bytes[82..98].try_into().expect("sixteen bytes"),
        }
    }
}

/// Compares the chunks with the device tree, which says the same in the order of the device.
pub(crate) fn check(chunks: &Chunks, mut walk: Walk<'_>, device: &DeviceItem) -> Checked<()> {
    let mut expected = chunks.stripes().iter();
    while let Some((key, item)) = walk.item() {
        match (key.objectid, key.kind) {
            (id, DEV_EXTENT) if id == device.id && item.len() == 48 => {
                let same = expected.next().is_some_and(|stripe| {
                    let length = stripe.place.end - stripe.place.start;
                    stripe.place.start == key.offset
                        && length == item.u64_at(24)
                        && chunks.list()[stripe.chunk].logical.start == item.u64_at(16)
                });
                if !same {
                    return Err(keep(reason::KEPT_GEOMETRY, "device extents and chunks disagree"));
                }
            }
            // Counts of read errors.
            (DEVICE_STATE_OBJECT, PERSISTENT_ITEM) => {}
            (DEVICE_STATE_OBJECT, DEV_REPLACE) => {
                return Err(keep(reason::KEPT_CHANGE_UNDER_WAY, "the device was or is being replaced"));
            }
            _ => return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "the device tree holds unknown items")),
        }
        walk.advance()?;
    }
    let used_bytes: u64 = chunks.stripes().iter().map(|stripe| stripe.place.end - stripe.place.start).sum();
    if expected.next().is_some() || used_bytes != device.used_bytes {
        return Err(keep(reason::KEPT_GEOMETRY, "device extents and chunks disagree"));
    }
    Ok(())
}
