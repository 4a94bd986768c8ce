//! Tells a bomb from an empty disk.

use crate::Limits;
use crate::error::{Error, ErrorKind, Result, reason};

/// The unit in which zeros of a raw image count as a hole.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Output that takes room, against the input that it came from.
#[derive(Debug)]
pub(crate) struct Budget {
    ratio_max: u64,
    free_bytes: u64,
    /// Whether pages of zeros become holes.
    is_raw: bool,
    used_bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: &Limits, is_raw: bool) -> Self {
        Self { ratio_max: limits.ratio_max, free_bytes: limits.ratio_free_bytes, is_raw, used_bytes: 0 }
    }

    /// The content turned out to be of a format in which zeros are no holes.
    pub(crate) fn count_zeros(&mut self) {
        self.is_raw = false;
    }

    /// Adds output that begins at a page; `is_zero` tells that all of it is known to be zero.
    pub(crate) fn add(&mut self, output: &[u8], is_zero: bool) {
        let used = match (self.is_raw, is_zero) {
            (false, _) => output.len(),
            (true, true) => 0,
            (true, false) => {
                output.chunks(PAGE_BYTES).filter(|page| !self::is_zero(page)).map(<[u8]>::len).sum()
            }
        };
        self.used_bytes = self.used_bytes.saturating_add(used as u64);
    }

    /// Compares what came out with the `input_bytes` that went in.
    pub(crate) fn check(&self, input_bytes: u64) -> Result<()> {
        let allowed = self.free_bytes.saturating_add(input_bytes.saturating_mul(self.ratio_max));
        if self.used_bytes <= allowed {
            return Ok(());
        }
        let message = "the archive unpacks to far more than it holds";
        Err(Error::new(ErrorKind::Unsafe, reason::ARCHIVE_BOMB, message))
    }
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}
