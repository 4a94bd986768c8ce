//! What uploads and downloads share: progress, and the digests of a chunk.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// How far an upload or a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferProgress {
    /// Bytes from the start of the file that are through. Falls when a broken upload goes on at its durable offset.
    pub done_bytes: u64,
    /// Length of the whole.
    pub total_bytes: u64,
}

/// Zeros of holes, a piece at a time.
pub(crate) static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// `hasher` fed with as many zeros; runs beside the reactor.
pub(crate) async fn digest_zeros(mut length_bytes: u64, hasher: Option<Sha256>) -> Result<Option<Sha256>> {
    let Some(mut hasher) = hasher else { return Ok(None) };
    let work = move || {
        while length_bytes > 0 {
            let count = ZEROS.len().min(usize::try_from(length_bytes).unwrap_or(ZEROS.len()));
            hasher.update(&ZEROS[..count]);
            length_bytes -= count as u64;
        }
        Some(hasher)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)
}

/// CRC-32C of `data`, and `whole` fed with it.
///
/// Runs beside the reactor: a chunk of 1 MiB takes milliseconds on a processor without instructions for SHA.
pub(crate) async fn digest_chunk<W: Whole>(data: Bytes, mut whole: W) -> Result<(u32, W)> {
    let work = move || {
        whole.update(&data);
        (crc32c::crc32c(&data), whole)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)
}

/// A digest of more than a chunk.
pub(crate) trait Whole: Send + 'static {
    /// Takes the next bytes.
    fn update(&mut self, data: &[u8]);
}

impl Whole for Option<Sha256> {
    fn update(&mut self, data: &[u8]) {
        if let Some(hasher) = self {
            sha2::Digest::update(hasher, data);
        }
    }
}
