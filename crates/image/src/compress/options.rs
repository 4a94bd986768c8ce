//! What can be asked of a compression.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::reason;

/// More threads than this only wait for each other.
const THREADS_MAX: usize = 256;

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Deflate: every reader of qcow2 opens it.
    #[default]
    Zlib,
    /// zstd: faster to read and write, needs QEMU 5.1 or newer.
    Zstd,
}

impl Compression {
    /// The levels that can be asked for, lowest and highest.
    pub fn levels(self) -> std::ops::RangeInclusive<u8> {
        match self {
            Self::Zlib => 1..=12,
            Self::Zstd => 1..=22,
        }
    }

    /// The level that is used when none is asked for.
    pub fn default_level(self) -> u8 {
        match self {
            Self::Zlib => 4,
            Self::Zstd => 3,
        }
    }
}

/// What becomes of clusters that are compressed in the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompress {
    /// Those that the guest uses in full are copied as they are, when coder and cluster size are those of the output:
    /// many times faster, and as small as whoever made them left them, whatever the level that is asked for.
    #[default]
    Auto,
    /// All are packed anew.
    Always,
}

/// What to do, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompressOptions {
    /// How clusters are compressed.
    pub compression: Compression,
    /// Effort, within [`Compression::levels`]; `None` takes [`Compression::default_level`].
    pub level: Option<u8>,
    /// What becomes of clusters that are compressed already.
    pub recompress: Recompress,
    /// Threads that compress; 0 takes one for each core. The output does not depend on it.
    pub threads: usize,
    /// Leave out what the guest's file systems have freed.
    pub drop_free: bool,
    /// Read the finished file back and compare it with what went in.
    pub verify: bool,
    /// Stop with [`ErrorKind::OutputLimit`] once the file would grow past this.
    pub output_limit_bytes: Option<u64>,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            level: None,
            recompress: Recompress::default(),
            threads: 0,
            drop_free: true,
            verify: true,
            output_limit_bytes: None,
        }
    }
}

impl CompressOptions {
    /// The level as the coder counts it.
    pub(super) fn level_or_default(&self) -> u8 {
        self.level.unwrap_or_else(|| self.compression.default_level())
    }

    /// How many threads to start.
    pub(super) fn thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if self.threads == 0 { cores() } else { self.threads };
        threads.min(THREADS_MAX)
    }

    /// Refuses what the coder cannot do.
    pub(super) fn check(&self) -> Result<()> {
        let levels = self.compression.levels();
        if levels.contains(&self.level_or_default()) {
            return Ok(());
        }
        let message =
            format!("the compression level must lie between {} and {}", levels.start(), levels.end());
        Err(Error::new(ErrorKind::Unsupported, reason::COMPRESSION_LEVEL, message))
    }
}
