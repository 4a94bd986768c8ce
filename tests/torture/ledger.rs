//! What the clients have sent, and what they were told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use imageops::v1::Digests;

use crate::content::Content;

/// Everything that was ever sent to one server.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<Entry>>);

/// One upload as its client knows it.
#[derive(Clone)]
pub struct Entry {
    /// The upload's id, where the road has such a thing.
    pub id: uuid::Uuid,
    pub content: Content,
    pub digests: Digests,
    /// How many bytes left the client, from the start on.
    pub sent_bytes: Arc<AtomicU64>,
    /// How many of them the server has confirmed, on roads that send an upload in parts.
    pub confirmed_bytes: Arc<AtomicU64>,
    /// Attempts that may each have made an image: more than one only on roads that cannot tell a repetition.
    pub images_max: u64,
    /// The image that the client was told of.
    pub acknowledged: Option<String>,
    /// The image was downloaded and compared once.
    pub compared: bool,
    /// The image is being removed, or is gone.
    pub removed: bool,
}

impl Entry {
    /// An upload that has not begun.
    pub fn new(id: uuid::Uuid, content: Content) -> Self {
        let digests = content.digests();
        Self {
            id,
            content,
            digests,
            sent_bytes: Arc::default(),
            confirmed_bytes: Arc::default(),
            images_max: 1,
            acknowledged: None,
            compared: false,
            removed: false,
        }
    }

    /// How many bytes have left the client.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Acquire)
    }

    /// Fails when the server claims to hold more than the client has sent.
    pub fn check_offset(&self, offset_bytes: u64) {
        let sent_bytes = self.sent_bytes();
        assert!(
            offset_bytes <= sent_bytes,
            "upload {}: expected an offset of at most the {sent_bytes} bytes that were sent, the server tells {offset_bytes}",
            self.id
        );
    }
}

impl Ledger {
    /// Notes an upload before its first byte is sent.
    pub fn begin(&self, entry: Entry) -> usize {
        self.change(|entries| {
            entries.push(entry);
            entries.len() - 1
        })
    }

    /// Reads or changes one entry.
    pub fn entry<T>(&self, index: usize, with: impl FnOnce(&mut Entry) -> T) -> T {
        self.change(|entries| with(&mut entries[index]))
    }

    /// All entries as they are now.
    pub fn all(&self) -> Vec<Entry> {
        self.change(|entries| entries.clone())
    }

    fn change<T>(&self, with: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
