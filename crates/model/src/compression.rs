//! How an output is to be compressed.

use serde::{Deserialize, Serialize};

/// How an output is to be compressed, as it was asked for. Rows keep it: what came later is absent in older ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressionChoice {
    /// Zstandard instead of deflate.
    pub zstd: bool,
    /// Effort; `None`: the coder's default.
    pub level: Option<Effort>,
    /// Keeps what the guest has freed.
    pub keep_free_space: bool,
    /// Deflate refers back at most 4 KiB instead of 32.
    #[serde(default)]
    pub narrow_window: bool,
    /// Packs anew what is compressed in the source.
    #[serde(default)]
    pub recompress_always: bool,
    /// Stores equal clusters once.
    #[serde(default)]
    pub share_identical: bool,
    /// Drops more than free space.
    #[serde(default)]
    pub extra: ExtraChoice,
}

/// What is dropped beside free space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtraChoice {
    /// Bodies of clean journals.
    pub journals: bool,
    /// Inode tables that no file has ever used.
    pub inode_tables: bool,
    /// Gaps between and behind partitions.
    pub gaps: bool,
}

/// Effort of a coder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Effort {
    /// As the coder counts.
    Number(u8),
    /// By name.
    Named(NamedLevel),
}

/// Names of efforts; what number they stand for is the engine's matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedLevel {
    /// The least effort.
    Fast,
    /// Where more effort starts to win little.
    Default,
    /// Some per cent smaller.
    Small,
    /// As small as the coder can.
    Smallest,
}
