//! An object that is read as a blob.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore as _, ObjectStoreExt as _};
use tokio::sync::Semaphore;

use super::blocks::{BLOCK_BYTES, BlockId};
use super::client::Client;
use super::failure::{failure, into_io};
use crate::{Blob, Error, Result};

/// Blocks that are fetched ahead of a reader that goes through in order.
const AHEAD: u64 = 2;

#[derive(Clone, Debug)]
pub(super) struct S3Blob(Arc<Object>);

#[derive(Debug)]
struct Object {
    client: Arc<Client>,
    path: Path,
    /// Tells this blob's blocks from those of others.
    number: u64,
    size_bytes: u64,
    /// What the server calls the content: a read of anything else fails.
    e_tag: Option<String>,
    ahead: Arc<Semaphore>,
}

impl S3Blob {
    pub(super) fn open(client: &Arc<Client>, path: Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let meta = client.run(client.objects.head(&path))?;
        Ok(Self(Arc::new(Object {
            client: Arc::clone(client),
            path,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            size_bytes: meta.size,
            e_tag: meta.e_tag.filter(|tag| !tag.trim_matches('"').is_empty()),
            ahead: Arc::new(Semaphore::new(AHEAD as usize)),
        })))
    }

    fn block(&self, index: u64) -> Result<Bytes> {
        let object = &self.0;
        let slot = object.client.blocks.slot(object.id(index));
        let block = object.client.wait(slot.get_or_try_init(|| object.fetch(index)))?.clone();
        if index > 0 && object.client.blocks.holds(object.id(index - 1)) {
            self.fetch_ahead(index);
        }
        Ok(block)
    }

    fn fetch_ahead(&self, index: u64) {
        for next in index + 1..=index + AHEAD {
            let object = Arc::clone(&self.0);
            if next * BLOCK_BYTES >= object.size_bytes || object.client.blocks.holds(object.id(next)) {
                continue;
            }
            let Ok(permit) = Arc::clone(&object.ahead).try_acquire_owned() else { return };
            let slot = object.client.blocks.slot(object.id(next));
            let runtime = object.client.runtime.clone();
            runtime.spawn(async move {
                // A failure is met again, and told, by who needs the block.
                let _ = slot.get_or_try_init(|| object.fetch(next)).await;
                drop(permit);
            });
        }
    }
}

impl Object {
    fn id(&self, index: u64) -> BlockId {
        BlockId { blob: self.number, index }
    }

    async fn fetch(&self, index: u64) -> Result<Bytes> {
        let start = index * BLOCK_BYTES;
        let range = start..self.size_bytes.min(start + BLOCK_BYTES);
        let length = range.end - range.start;
        let options =
            GetOptions { range: Some(range.into()), if_match: self.e_tag.clone(), ..GetOptions::default() };
        let (is_same, bytes) = self
            .client
            .limited(async {
                let answer = self.client.objects.get_opts(&self.path, options).await?;
                // Looked at here too: some servers pass over the condition.
                let is_same = self.e_tag.is_none() || answer.meta.e_tag == self.e_tag;
                Ok((is_same, answer.bytes().await?))
            })
            .await?
            .map_err(failure)?;
        if is_same && bytes.len() as u64 == length { Ok(bytes) } else { Err(Error::Corrupt) }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.client.blocks.forget(self.number);
    }
}

impl Blob for S3Blob {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.0.size_bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let block = self.block(at / BLOCK_BYTES).map_err(into_io)?;
            let rest = block.get((at % BLOCK_BYTES) as usize..).unwrap_or_default();
            let count = rest.len().min(buffer.len() - done);
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        Ok(())
    }

    fn allocated_bytes(&self) -> u64 {
        self.0.size_bytes
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < self.0.size_bytes).then_some(offset..self.0.size_bytes))
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn try_clone(&self) -> io::Result<Box<dyn Blob>> {
        Ok(Box::new(self.clone()))
    }
}
