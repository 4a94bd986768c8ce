//! Digests of the stored bytes.

mod md5;

use std::fmt;
use std::sync::Arc;
use std::thread;

use aws_lc_rs::digest::{Context, SHA256};
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
}

impl Selection {
    /// Whether nothing is selected.
    pub fn is_empty(self) -> bool {
        !self.md5 && !self.sha256
    }
}

/// Digests in lower-case hexadecimal; those that were not asked for are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digests {
    /// MD5.
    pub md5: Option<String>,
    /// SHA-256.
    pub sha256: Option<String>,
}

/// Takes digests of bytes as they come, on the caller's thread.
#[derive(Clone)]
pub struct Digester {
    md5: Option<Md5>,
    /// Of the crypto library, whose assembly is twice as fast as portable code on processors without instructions for
    /// SHA-256.
    sha256: Option<Context>,
}

impl fmt::Debug for Digester {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (md5, sha256) = (self.md5.is_some(), self.sha256.is_some());
        formatter.debug_struct("Digester").field("md5", &md5).field("sha256", &sha256).finish()
    }
}

impl Digester {
    /// Starts the selected digests.
    pub fn new(md5: bool, sha256: bool) -> Self {
        Self { md5: md5.then(Md5::new), sha256: sha256.then(|| Context::new(&SHA256)) }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// The digests of all bytes taken.
    pub fn finish(self) -> Digests {
        Digests {
            md5: self.md5.map(|md5| hex::encode(md5.finish())),
            sha256: self.sha256.map(|sha256| hex::encode(sha256.finish())),
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
        let mut spawn = |digester: Digester| {
            let (sender, receiver) = bounded(QUEUE_BUFFERS);
            senders.push(sender);
            scope.spawn(move || digest_buffers(digester, &receiver))
        };
        let md5 = selection.md5.then(|| spawn(Digester::new(true, false)));
        let sha256 = selection.sha256.then(|| spawn(Digester::new(false, true)));
        let read = read_buffers(storage, &senders, control);
        drop(senders);
        let digests = [md5, sha256].into_iter().flatten().map(|thread| thread.join());
        let mut all = Digests::default();
        for one in digests {
            let one = one.map_err(|_| Error::new(ErrorKind::Io, reason::IO, "a digest thread failed"))?;
            all.md5 = all.md5.or(one.md5);
            all.sha256 = all.sha256.or(one.sha256);
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

    const BOTH: Selection = Selection { md5: true, sha256: true };

    #[test]
    fn known_answers() {
        let digests = digest_storage(&b"abc".to_vec(), BOTH, &Control::default()).unwrap();
        assert_eq!(digests.md5.unwrap(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            digests.sha256.unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn whole_file_equals_pieces() {
        let bytes: Vec<u8> = (0..(3 << 20) + 17u32).map(|index| ((index * 7) >> 3) as u8).collect();
        let mut digester = Digester::new(true, true);
        for piece in bytes.chunks(100_003) {
            digester.update(piece);
        }
        assert_eq!(digest_storage(&bytes, BOTH, &Control::default()).unwrap(), digester.finish());
    }

    #[test]
    fn cancelled() {
        let cancel = CancelToken::default();
        cancel.cancel();
        let control = Control::new(|_| {}, cancel);
        let error = digest_storage(&vec![0u8; 10], BOTH, &control).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
    }
}
