//! What can be asked of a compression.

use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::guest::ExtraGains;
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
    pub fn levels(self) -> RangeInclusive<u8> {
        match self {
            Self::Zlib => 1..=12,
            Self::Zstd => 1..=22,
        }
    }

    /// The number of a level, which may lie outside of [`Self::levels`] when it was given as a number.
    pub fn level_number(self, level: Level) -> u8 {
        let [fast, default, small, smallest] = match self {
            Self::Zlib => [1, 4, 6, 12],
            Self::Zstd => [1, 3, 9, 19],
        };
        level.choose(fast, default, small, smallest)
    }
}

/// Effort of the coder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The least effort.
    Fast,
    /// Where more effort starts to win little.
    #[default]
    Default,
    /// Some per cent smaller, at half the speed.
    Small,
    /// As small as the coder can, many times slower.
    Smallest,
    /// A level of the coder, as the coder counts.
    Number(u8),
}

impl Level {
    fn choose(self, fast: u8, default: u8, small: u8, smallest: u8) -> u8 {
        match self {
            Self::Fast => fast,
            Self::Default => default,
            Self::Small => small,
            Self::Smallest => smallest,
            Self::Number(number) => number,
        }
    }
}

impl FromStr for Level {
    type Err = Error;

    /// Takes the names in lower case, and numbers.
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "fast" => Self::Fast,
            "default" => Self::Default,
            "small" => Self::Small,
            "smallest" => Self::Smallest,
            _ => Self::Number(text.parse().map_err(|_| {
                let message = "a compression level is fast, default, small, smallest or a number";
                Error::new(ErrorKind::Unsupported, reason::COMPRESSION_LEVEL, message)
            })?),
        })
    }
}

/// How far back a deflate stream may refer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Window {
    /// 32 KiB, all that deflate has. qemu reads it, and whoever inflates a cluster in one step.
    #[default]
    #[serde(rename = "32k")]
    Full,
    /// 4 KiB, as qemu writes: for readers that inflate in steps with a window of that size. Another coder makes it,
    /// slower and with levels of its own, and nothing is copied.
    #[serde(rename = "4k")]
    Narrow,
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
    /// Effort; a number within [`Self::levels`].
    pub level: Level,
    /// How far back deflate may refer.
    pub window: Window,
    /// What becomes of clusters that are compressed already.
    pub recompress: Recompress,
    /// Store equal clusters once. Wins where guests hold copies on cluster boundaries; others see a little more work.
    pub share_identical: bool,
    /// Threads that compress; 0 takes one for each core. The output does not depend on it.
    pub threads: usize,
    /// Leave out what the guest's file systems have freed.
    pub drop_free: bool,
    /// Leave out what no guest reads any more, too; counts with `drop_free` only.
    pub extra: ExtraGains,
    /// Read the finished file back and compare it with what went in.
    pub verify: bool,
    /// Stop with [`ErrorKind::OutputLimit`] once the file would grow past this.
    pub output_limit_bytes: Option<u64>,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            level: Level::default(),
            window: Window::default(),
            recompress: Recompress::default(),
            share_identical: false,
            threads: 0,
            drop_free: true,
            extra: ExtraGains::default(),
            verify: true,
            output_limit_bytes: None,
        }
    }
}

/// How many threads to start when `asked` were asked for; 0 is one for each core.
pub(crate) fn thread_count(asked: usize) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = if asked == 0 { cores() } else { asked };
    threads.min(THREADS_MAX)
}

impl CompressOptions {
    /// The levels of the coder that the other options choose, lowest and highest.
    pub fn levels(&self) -> RangeInclusive<u8> {
        match (self.compression, self.window) {
            (Compression::Zlib, Window::Narrow) => 1..=9,
            (compression, _) => compression.levels(),
        }
    }

    /// The level as that coder counts, which may lie outside of [`Self::levels`] when it was given as a number.
    pub fn level_number(&self) -> u8 {
        match (self.compression, self.window) {
            (Compression::Zlib, Window::Narrow) => self.level.choose(2, 6, 9, 9),
            (compression, _) => compression.level_number(self.level),
        }
    }

    /// How many threads to start.
    pub(super) fn thread_count(&self) -> usize {
        thread_count(self.threads)
    }

    /// Refuses what the coder cannot do; [`super::compress`] asks here first.
    ///
    /// # Errors
    ///
    /// [`reason::COMPRESSION_LEVEL`] and [`reason::COMPRESSION_WINDOW`].
    pub fn check(&self) -> Result<()> {
        if self.compression == Compression::Zstd && self.window == Window::Narrow {
            let message = "only zlib has a window that can be narrowed";
            return Err(Error::new(ErrorKind::Unsupported, reason::COMPRESSION_WINDOW, message));
        }
        let levels = self.levels();
        if levels.contains(&self.level_number()) {
            return Ok(());
        }
        let message =
            format!("the compression level must lie between {} and {}", levels.start(), levels.end());
        Err(Error::new(ErrorKind::Unsupported, reason::COMPRESSION_LEVEL, message))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn levels_have_names_and_numbers() {
        for (name, zlib, narrow, zstd) in [
            ("fast", 1, 2, 1),
            ("default", 4, 6, 3),
            ("small", 6, 9, 9),
            ("smallest", 12, 9, 19),
            ("7", 7, 7, 7),
        ] {
            let level: Level = name.parse().unwrap();
            let number = |compression, window| {
                let options = CompressOptions { compression, window, level, ..Default::default() };
                options.check().unwrap();
                options.level_number()
            };
            assert_eq!(number(Compression::Zlib, Window::Full), zlib);
            assert_eq!(number(Compression::Zlib, Window::Narrow), narrow);
            assert_eq!(number(Compression::Zstd, Window::Full), zstd);
        }
        for name in ["", "Fast", "-1", "256", "best"] {
            assert_eq!(name.parse::<Level>().unwrap_err().reason, reason::COMPRESSION_LEVEL);
        }
    }

    #[test]
    fn what_the_coder_cannot_do_is_refused() {
        let refused = |compression, window, level| {
            let options =
                CompressOptions { compression, window, level: Level::Number(level), ..Default::default() };
            options.check().unwrap_err().reason
        };
        assert_eq!(refused(Compression::Zlib, Window::Full, 13), reason::COMPRESSION_LEVEL);
        assert_eq!(refused(Compression::Zlib, Window::Narrow, 10), reason::COMPRESSION_LEVEL);
        assert_eq!(refused(Compression::Zstd, Window::Full, 0), reason::COMPRESSION_LEVEL);
        assert_eq!(refused(Compression::Zstd, Window::Narrow, 3), reason::COMPRESSION_WINDOW);
    }
}
