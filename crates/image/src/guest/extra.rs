//! What can be dropped beside free space, when the caller asks for it.
//!
//! Each gain is something that a guest keeps and that nothing reads any more. Free space is what the guest itself calls
//! free; these are conclusions of ours from several structures at once, so none of them is on by default.

use serde::{Deserialize, Serialize};

use super::Kept;

/// The gains that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtraGains {
    /// Bodies of clean journals inside ext3 and ext4.
    pub journals: bool,
    /// Inode tables of ext4 that no file has ever used.
    pub inode_tables: bool,
    /// Gaps of 1 MiB and more between and behind partitions; never before the first one, nor the last 1 MiB of the disk.
    pub gaps: bool,
}

/// What the gains that were asked for come to in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraSummary {
    /// Bytes that can be dropped, whether the image stores them or not; free space is not among them.
    pub bytes: u64,
    /// Why a gain was refused, as a whole or for some block groups.
    pub kept: Vec<Kept>,
}

impl ExtraSummary {
    /// Nothing, for one reason.
    pub(crate) fn refused(kept: Kept) -> Self {
        Self { bytes: 0, kept: vec![kept] }
    }
}
