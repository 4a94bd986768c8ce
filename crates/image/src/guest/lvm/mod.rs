//! LVM2: free extents of a physical volume, and the file systems in its plain volumes.
//!
//! The label leads to the metadata areas, each of which has the description of the volume group as text. All of it is
//! read once, when the volume is opened; what stays in memory is where the volumes lie. A volume is looked into when it
//! is striped (linear is one stripe), seen by its owner, used by no other volume, and wholly on this disk; what lies on
//! several partitions of the disk is put together. What a volume holds goes through the same readers as a partition, but
//! neither partition tables nor physical volumes inside of it are looked into.
//!
//! Source: the formats as the tools' own `pvck --dump` shows them, and the manual pages lvm(8), pvck(8), vgcfgrestore(8).

mod area;
mod checksum;
mod group;
mod label;
mod logical;
mod member;
mod segment;
mod setting;
mod space;
mod text;
mod volume;

use self::setting::Setting;
use self::space::Space;
use super::ExtraGains;
use super::device::Device;
use super::reader::{FileSystem, nothing};
use crate::control::Control;
use crate::error::Result;

const CONTENT: &str = "lvm2";

/// Reads the free space of the physical volume on `device`.
pub(crate) fn open(device: &Device<'_>, extra: ExtraGains, control: &Control) -> Result<FileSystem> {
    let setting = match Setting::read(device, control)? {
        Ok(setting) => setting,
        Err(kept) => return Ok(nothing(CONTENT, vec![kept])),
    };
    let space = Space::open(&setting, device.disk(), extra, control)?;
    Ok(FileSystem {
        content: CONTENT.to_owned(),
        label: Some(setting.group.name),
        free_bytes: space.free_bytes(),
        kept: Vec::new(),
        free: Some(Box::new(space)),
    })
}
