//! Who reads bytes that vanish with their name: an object of a bucket is gone for those too who have begun to read it, unlike a
//! file. Who began finishes with the old bytes (reliability rel_28): they stay until the last reader has ended.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imageops_model::StoreId;
use imageops_store::Blob;
use tokio::sync::Notify;

/// Bytes of a store: it and their key.
type Place = (StoreId, String);

/// The bytes that are being read, or removed.
#[derive(Debug, Default)]
pub struct Readers {
    uses: Mutex<HashMap<Place, Use>>,
    freed: Notify,
}

#[derive(Debug)]
enum Use {
    Read {
        readers: usize,
        is_removal_due: bool,
    },
    /// By so many: what a call that was given up began goes on beside the next.
    Removed {
        by: usize,
    },
}

impl Readers {
    /// Keeps bytes for a reader; `None` when they are going.
    pub fn read(self: &Arc<Self>, store: StoreId, blob: &str) -> Option<Reader> {
        let place = (store, blob.to_owned());
        let mut uses = self.uses();
        let read = Use::Read { readers: 0, is_removal_due: false };
        match uses.entry(place.clone()).or_insert(read) {
            Use::Read { readers, .. } => *readers += 1,
            Use::Removed { .. } => return None,
        }
        Some(Reader { readers: Arc::clone(self), place })
    }

    /// Keeps new readers away from bytes that are to be removed. `None` when some are there: [`Readers::freed`] tells of their end.
    pub fn remove(self: &Arc<Self>, store: StoreId, blob: &str) -> Option<Removal> {
        let place = (store, blob.to_owned());
        let mut uses = self.uses();
        match uses.entry(place.clone()).or_insert(Use::Removed { by: 0 }) {
            Use::Read { is_removal_due, .. } => {
                *is_removal_due = true;
                return None;
            }
            Use::Removed { by } => *by += 1,
        }
        Some(Removal { readers: Arc::clone(self), place })
    }

    /// Waits until bytes that were to be removed are read no more.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<Place, Use>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads; dropped when done.
#[derive(Debug)]
pub struct Reader {
    readers: Arc<Readers>,
    place: Place,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut uses = self.readers.uses();
        let Some(Use::Read { readers, is_removal_due }) = uses.get_mut(&self.place) else { return };
        *readers -= 1;
        if *readers > 0 {
            return;
        }
        if *is_removal_due {
            self.readers.freed.notify_one();
        }
        uses.remove(&self.place);
    }
}

/// A removal under way.
#[derive(Debug)]
pub struct Removal {
    readers: Arc<Readers>,
    place: Place,
}

impl Drop for Removal {
    fn drop(&mut self) {
        let mut uses = self.readers.uses();
        let Some(Use::Removed { by }) = uses.get_mut(&self.place) else { return };
        *by -= 1;
        if *by == 0 {
            uses.remove(&self.place);
        }
    }
}

/// A blob whose bytes stay while it is open.
#[derive(Debug)]
pub struct Kept {
    blob: Box<dyn Blob>,
    reader: Arc<Reader>,
}

impl Kept {
    /// Ties a blob to its reader.
    pub fn new(blob: Box<dyn Blob>, reader: Reader) -> Self {
        Self { blob, reader: Arc::new(reader) }
    }
}

impl Blob for Kept {
    fn size_bytes(&self) -> u64 {
        self.blob.size_bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.blob.read_exact_at(buffer, offset)
    }

    fn allocated_bytes(&self) -> u64 {
        self.blob.allocated_bytes()
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.blob.data_at(offset)
    }

    fn file(&self) -> Option<&File> {
        self.blob.file()
    }

    fn try_clone(&self) -> io::Result<Box<dyn Blob>> {
        Ok(Box::new(Self { blob: self.blob.try_clone()?, reader: Arc::clone(&self.reader) }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt as _;
    use uuid::Uuid;

    use super::*;

    const STORE: StoreId = StoreId(Uuid::nil());

    #[test]
    fn bytes_stay_until_the_last_reader_has_ended() {
        let readers = Arc::new(Readers::default());
        let (one, other) = (readers.read(STORE, "a").unwrap(), readers.read(STORE, "a").unwrap());
        assert!(readers.remove(STORE, "a").is_none());
        drop(readers.remove(STORE, "b").unwrap());
        drop(one);
        assert!(readers.freed().now_or_never().is_none());
        assert!(readers.remove(STORE, "a").is_none());
        drop(other);
        assert!(readers.freed().now_or_never().is_some());
        let (removal, another) = (readers.remove(STORE, "a").unwrap(), readers.remove(STORE, "a").unwrap());
        drop(removal);
        assert!(readers.read(STORE, "a").is_none());
        drop(another);
        assert!(readers.uses().is_empty());
    }

    #[test]
    fn nobody_is_told_of_bytes_that_were_not_to_go() {
        let readers = Arc::new(Readers::default());
        drop(readers.read(STORE, "a").unwrap());
        assert!(readers.freed().now_or_never().is_none());
        assert!(readers.uses().is_empty());
    }
}
