//! Reads a whole blob, piece by piece, and takes its digest on the way.

use std::io;

use imageops_image::CancelToken;
use imageops_store::Blob;
use sha2::{Digest, Sha256};

use crate::failure::{Result, stopped};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;
/// Zeros to digest a hole by.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What reading a blob came to.
pub(crate) enum Reading {
    /// Read to its end.
    Whole {
        /// SHA-256 of all of it, lower-case hexadecimal.
        sha256: String,
        /// Its length.
        size_bytes: u64,
    },
    /// It could not be read.
    Failed(io::Error),
}

impl Reading {
    /// Whether these are the bytes that a row tells of.
    pub(crate) fn is(&self, wanted_sha256: &str, wanted_bytes: u64) -> bool {
        matches!(self, Self::Whole { sha256, size_bytes }
            if sha256 == wanted_sha256 && *size_bytes == wanted_bytes)
    }
}

/// Reads all of `blob`. Data goes to `take` with its offset; of holes only the length is told, to `pass` as of everything
/// else. What `take` fails with ends it. Blocks.
pub(crate) fn read_whole(
    blob: &dyn Blob,
    cancel: &CancelToken,
    mut take: impl FnMut(u64, &[u8]) -> Result<()>,
    mut pass: impl FnMut(u64),
) -> Result<Reading> {
    let size_bytes = blob.size_bytes();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut at = 0;
    while at < size_bytes {
        let data = match blob.data_at(at) {
            Ok(data) => data.unwrap_or(size_bytes..size_bytes),
            Err(error) => return Ok(Reading::Failed(error)),
        };
        // Ranges are within the blob; were they not, nothing but its bytes would be read.
        let (start, end) = (data.start.clamp(at, size_bytes), data.end.clamp(at, size_bytes));
        while at < start {
            check_cancelled(cancel)?;
            let count = ZEROS.len().min(usize::try_from(start - at).unwrap_or(ZEROS.len()));
            hasher.update(&ZEROS[..count]);
            at += count as u64;
            pass(count as u64);
        }
        while at < end {
            check_cancelled(cancel)?;
            let count = buffer.len().min(usize::try_from(end - at).unwrap_or(buffer.len()));
            if let Err(error) = blob.read_exact_at(&mut buffer[..count], at) {
                return Ok(Reading::Failed(error));
            }
            hasher.update(&buffer[..count]);
            take(at, &buffer[..count])?;
            at += count as u64;
            pass(count as u64);
        }
    }
    Ok(Reading::Whole { sha256: hex::encode(hasher.finalize()), size_bytes })
}

fn check_cancelled(cancel: &CancelToken) -> Result<()> {
    if cancel.is_cancelled() { Err(stopped()) } else { Ok(()) }
}
