//! Digests of the stored bytes.

mod md5;

use std::fmt;
use std::sync::Arc;
use std::thread;

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use self::md5::Md5;
use crate::control::{Control, Phase};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Meter;
use crate::reason;
use crate::storage::Storage;

/// Bytes read at once: small enough that all buffers are still in the processor's last cache when the digests get to
/// them, large enough that waking the reader for each costs nothing.
const BUFFER_BYTES: usize = 1 << 20;
/// Buffers that wait for one digest.
const QUEUE_BUFFERS: usize = 2;
/// Buffers in all: those in the queue, the one being digested and the one being filled.
const RING_BUFFERS: usize = QUEUE_BUFFERS + 2;

/// Bytes of which the medium is told before they are read: what the system reads ahead by itself is too little for a
/// medium that answers late.
const READ_AHEAD_BYTES: u64 = 8 << 20;

/// Which digests to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// MD5.
    pub md5: bool,
    /// SHA-256.
    pub sha256: bool,
    /// SHA-512.
    pub sha512: bool,
    /// CRC-32 as zip has it. So fast that it shares a thread with another digest.
    pub crc32: bool,
}

impl Selection {
    /// Whether nothing is selected.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// The selected digests in groups, each for a thread of its own.
    pub fn lanes(self) -> impl Iterator<Item = Self> {
        // Of the two that are nearly always taken, SHA-256 is the faster one where the processor has instructions for it.
        let beside_sha256 = Self { sha256: self.sha256, crc32: self.crc32, ..Self::default() };
        [
            Self { md5: self.md5, ..Self::default() },
            beside_sha256,
            Self { sha512: self.sha512, ..Self::default() },
        ]
        .into_iter()
        .filter(|lane| !lane.is_empty())
    }
}

/// Digests in lower-case hexadecimal; those that were not asked for are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digests {
    /// MD5.
    pub md5: Option<String>,
    /// SHA-256.
    pub sha256: Option<String>,
    /// SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
    /// CRC-32, as a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
}

impl Digests {
    /// Adds those that the other one has.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            md5: self.md5.or(other.md5),
            sha256: self.sha256.or(other.sha256),
            sha512: self.sha512.or(other.sha512),
            crc32: self.crc32.or(other.crc32),
        }
    }
}

/// Takes digests of bytes as they come, on the caller's thread.
#[derive(Clone)]
pub struct Digester {
    md5: Option<Md5>,
    /// Of the crypto library, whose assembly is twice as fast as portable code on processors without instructions for
    /// SHA-256.
    sha256: Option<Context>,
    sha512: Option<Context>,
    crc32: Option<crc32fast::Hasher>,
}

impl fmt::Debug for Digester {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Digester")
            .field("md5", &self.md5.is_some())
            .field("sha256", &self.sha256.is_some())
            .field("sha512", &self.sha512.is_some())
            .field("crc32", &self.crc32.is_some())
            .finish()
    }
}

impl Digester {
    /// Starts the selected digests.
    pub fn new(selection: Selection) -> Self {
        Self {
            md5: selection.md5.then(Md5::new),
            sha256: selection.sha256.then(|| Context::new(&SHA256)),
            sha512: selection.sha512.then(|| Context::new(&SHA512)),
            crc32: selection.crc32.then(crc32fast::Hasher::new),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        for sha in [&mut self.sha256, &mut self.sha512].into_iter().flatten() {
            sha.update(bytes);
        }
        if let Some(crc32) = &mut self.crc32 {
            crc32.update(bytes);
        }
    }

    /// The digests of all bytes taken.
    pub fn finish(self) -> Digests {
        Digests {
            md5: self.md5.map(|md5| hex::encode(md5.finish())),
            sha256: self.sha256.map(|sha256| hex::encode(sha256.finish())),
            sha512: self.sha512.map(|sha512| hex::encode(sha512.finish())),
            crc32: self.crc32.map(crc32fast::Hasher::finalize),
        }
    }
}

/// Takes the digests of a whole file. It is read once, by the calling thread; each digest has a thread of its own.
pub fn digest_storage(storage: &dyn Storage, selection: Selection, control: &Control) -> Result<Digests> {
    if selection.is_empty() {
        return Ok(Digests::default());
    }
    thread::scope(|scope| {
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for lane in selection.lanes() {
            let (sender, receiver) = bounded(QUEUE_BUFFERS);
            senders.push(sender);
            threads.push(scope.spawn(move || digest_buffers(Digester::new(lane), &receiver)));
        }
        let read = read_buffers(storage, &senders, control);
        drop(senders);
        let mut all = Digests::default();
        for thread in threads {
            let one = thread.join();
            let failed = |_| Error::new(ErrorKind::Io, reason::IO, "a digest thread failed");
            all = all.or(one.map_err(failed)?);
        }
        read.map(|()| all)
    })
}

fn digest_buffers(mut digester: Digester, buffers: &Receiver<Arc<Vec<u8>>>) -> Digests {
    for buffer in buffers {
        digester.update(&buffer);
    }
    digester.finish()
}

fn read_buffers(storage: &dyn Storage, senders: &[Sender<Arc<Vec<u8>>>], control: &Control) -> Result<()> {
    let size = storage.size_bytes();
    let meter = Meter::new(control, Phase::Checking, size, 0.0, 1.0);
    let mut ring: [Arc<Vec<u8>>; RING_BUFFERS] = std::array::from_fn(|_| Arc::default());
    let mut offset = 0u64;
    for turn in (0..RING_BUFFERS).cycle() {
        if offset >= size {
            break;
        }
        control.check_cancelled()?;
        // A piece at a time, except at the start.
        let ahead = if offset == 0 { 0 } else { offset + READ_AHEAD_BYTES - BUFFER_BYTES as u64 };
        storage.will_need(ahead.min(size)..(offset + READ_AHEAD_BYTES).min(size));
        let wanted = (size - offset).min(BUFFER_BYTES as u64) as usize;
        // Free again by now: a queue took the buffers since, so its digest is past this one. A copy costs nothing
        // but time, should that ever be wrong.
        let buffer = Arc::make_mut(&mut ring[turn]);
        buffer.resize(wanted, 0);
        if storage.read_at(buffer, offset)? < wanted {
            let message = "the file became shorter while it was read";
            return Err(Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message).at(offset));
        }
        for sender in senders {
            if sender.send(Arc::clone(&ring[turn])).is_err() {
                return Err(Error::new(ErrorKind::Io, reason::IO, "a digest thread failed"));
            }
        }
        offset += wanted as u64;
        meter.add(wanted as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::control::CancelToken;

    const ALL: Selection = Selection { md5: true, sha256: true, sha512: true, crc32: true };

    #[test]
    fn known_answers() {
        let digests = digest_storage(&b"abc".to_vec(), ALL, &Control::default()).unwrap();
        assert_eq!(digests.md5.unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            digests.sha256.unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            digests.sha512.unwrap(),
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
        assert_eq!(digests.crc32, Some(0x3524_41c2));
    }

    #[test]
    fn whole_file_equals_pieces() {
        let bytes: Vec<u8> = (0..(3 << 20) + 17u32).map(|index| ((index * 7) >> 3) as u8).collect();
        let mut digester = Digester::new(ALL);
        for piece in bytes.chunks(100_003) {
            digester.update(piece);
        }
        assert_eq!(digest_storage(&bytes, ALL, &Control::default()).unwrap(), digester.finish());
    }

    #[test]
    fn cancelled() {
        let cancel = CancelToken::default();
        cancel.cancel();
        let control = Control::new(|_| {}, cancel);
        let error = digest_storage(&vec![0u8; 10], ALL, &control).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
    }
}
