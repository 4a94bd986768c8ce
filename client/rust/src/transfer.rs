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

/// CRC-32C of `data`, and `hasher` fed with it.
///
/// Runs beside the reactor: a chunk of 1 MiB takes milliseconds on a processor without instructions for SHA.
pub(crate) async fn digest_chunk(data: Bytes, mut hasher: Option<Sha256>) -> Result<(u32, Option<Sha256>)> {
    let work = move || {
        if let Some(hasher) = &mut hasher {
            hasher.update(&data);
        }
        (crc32c::crc32c(&data), hasher)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)
}
