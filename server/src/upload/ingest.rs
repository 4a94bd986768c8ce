//! Takes the bytes of one upload: writes them sparsely, hashes them, makes them durable, looks at the header.
//!
//! Each chunk is written and hashed on three lanes at once, while the next ones are received: one more chunk may wait in
//! front of each lane, as long as few uploads want that (`AHEAD_CHUNKS`). So an upload holds three chunks at most, and one
//! of very many holds two. Durability lags behind by design and is only ever told after a flush.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use imageops_image::digest::{Digester, Digests, Selection};
use imageops_image::storage::{FileStorage, Storage};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use tonic::Code;

use super::copy::copy_sparse;
use super::lane::{Lane, Place};
use crate::app::blocking;
use crate::failure::{Failure, Result};
use crate::reason;

/// The header is judged once so many bytes are there.
const PREFIX_BYTES: usize = 64 << 10;
/// So many bytes are written between two flushes.
const FLUSH_BYTES: u64 = 64 << 20;
/// Slow uploads are flushed this often, so that what came counts and the upload does not expire.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Zeros are looked for in blocks of this size and alignment: those of file systems.
const BLOCK_BYTES: usize = 4 << 10;
/// So many of them become a hole. Fewer are written with what stands around them: a call costs more.
const HOLE_BYTES_MIN: usize = 16 << 10;
/// Bytes that are hashed again at a time when an upload goes on after a restart.
const REHASH_BYTES: usize = 1 << 20;

/// Digests that every upload gets (design decision 18), and a CRC for the zips that it may be handed out in.
const DIGESTS: Selection = Selection { md5: true, sha256: true, sha512: false, crc32: true };

/// Chunks that may be on lanes in the whole process while more of their uploads come in.
const AHEAD_CHUNKS: usize = 32;
static AHEAD: Semaphore = Semaphore::const_new(AHEAD_CHUNKS);

/// What the lanes work on.
struct Chunk {
    data: Bytes,
    /// Given back with the last lane.
    _ahead: Option<SemaphorePermit<'static>>,
}

/// The bytes of one upload so far.
pub struct Ingest {
    file: Arc<File>,
    received_bytes: u64,
    flush_started_bytes: u64,
    flush_started: Instant,
    durable_bytes: u64,
    /// First bytes, until the header was judged.
    prefix: Option<BytesMut>,
    writing: Lane<()>,
    /// Groups of digests, each on a lane of its own.
    digesting: Vec<Lane<Digester>>,
    flushing: Option<JoinHandle<Result<u64>>>,
    /// Why a write or a flush failed. From then on nothing more becomes durable here: what the file holds behind
    /// `durable_bytes` is not what was received.
    broken: Arc<OnceLock<Failure>>,
}

impl Ingest {
    /// Goes on with a staged file whose first `durable_bytes` are durable: what lies behind them is cut off, what lies
    /// before is hashed again.
    pub async fn open(file: File, durable_bytes: u64, sha512: bool) -> Result<Self> {
        let (file, prefix, digesters) = blocking(move || -> std::io::Result<_> {
            if file.metadata()?.len() < durable_bytes {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            // A crash may have left more than was durable.
            file.set_len(durable_bytes)?;
            let mut prefix = BytesMut::zeroed(durable_bytes.min(PREFIX_BYTES as u64) as usize);
            file.read_exact_at(&mut prefix, 0)?;
            let digesters = std::thread::scope(|scope| {
                let lanes = Selection { sha512, ..DIGESTS }.lanes();
                let threads: Vec<_> = lanes
                    .map(|lane| {
                        scope.spawn({
                            let file = &file;
                            move || rehash(file, durable_bytes, lane)
                        })
                    })
                    .collect();
                let failed = |_| Err(std::io::Error::other("hashing again panicked"));
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(failed))
                    .collect::<std::io::Result<Vec<_>>>()
            })?;
            Ok((file, prefix, digesters))
        })
        .await?
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let message = "bytes that were durable are gone from the store; begin another upload";
                Failure::new(Code::DataLoss, reason::UPLOAD_BYTES_LOST, message)
            }
            _ => failed(error),
        })?;
        Ok(Self {
            file: Arc::new(file),
            received_bytes: durable_bytes,
            flush_started_bytes: durable_bytes,
            flush_started: Instant::now(),
            durable_bytes,
            prefix: (prefix.len() < PREFIX_BYTES || durable_bytes == PREFIX_BYTES as u64).then_some(prefix),
            writing: Lane::new(()),
            digesting: digesters.into_iter().map(Lane::new).collect(),
            flushing: None,
            broken: Arc::default(),
        })
    }

    /// Bytes received so far, durable or not.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Bytes that are durable.
    pub fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// Whether a write or a flush failed.
    pub fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Takes the next bytes. Returns the first bytes of the file once, when there are enough of them to be judged.
    pub async fn push(&mut self, data: Bytes) -> Result<Option<Bytes>> {
        self.unless_broken(Ok(()))?;
        let ahead = self.run_ahead().await?;
        let place = self.writing.place().await?;
        let mut places = Vec::with_capacity(self.digesting.len());
        for lane in &self.digesting {
            places.push(lane.place().await?);
        }
        // Nothing is awaited from here on: all lanes take the chunk, or none does.
        let chunk = Arc::new(Chunk { data: data.clone(), _ahead: ahead });
        let offset = self.received_bytes;
        self.received_bytes += data.len() as u64;
        for (lane, place) in self.digesting.iter().zip(places) {
            let chunk = Arc::clone(&chunk);
            lane.push(place, move |digester| digester.update(&chunk.data));
        }
        self.write(place, move |file| write_sparse(file, &chunk.data, offset));
        Ok(self.extend_prefix(&data))
    }

    /// The right to have a chunk worked on while the next ones come; without one, what came before is done.
    async fn run_ahead(&self) -> Result<Option<SemaphorePermit<'static>>> {
        if let Ok(permit) = AHEAD.try_acquire() {
            return Ok(Some(permit));
        }
        self.writing.rest(|()| ()).await?;
        for lane in &self.digesting {
            lane.rest(|_| ()).await?;
        }
        Ok(None)
    }

    /// Takes the first `length` bytes of a file next: copied by the kernel, hashed beside, and there when the call returns.
    pub async fn append(&mut self, part: File, length: u64) -> Result<()> {
        self.finish_write().await?;
        let offset = self.received_bytes;
        let mut digesters = Vec::new();
        for lane in &self.digesting {
            digesters.push(lane.rest(Clone::clone).await?);
        }
        let file = Arc::clone(&self.file);
        let appended = blocking(move || {
            std::thread::scope(|scope| {
                let part = &part;
                let threads: Vec<_> = digesters
                    .into_iter()
                    .map(|digester| scope.spawn(move || digest(part, length, digester)))
                    .collect();
                let copied = copy_sparse(part, &file, offset, length);
                let failed = |_| Err(std::io::Error::other("hashing a part panicked"));
                let digesters =
                    threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed)).collect();
                copied.and(digesters)
            })
        });
        let appended: std::io::Result<Vec<Digester>> = appended.await?;
        let digesters = self.unless_broken(appended.map_err(failed))?;
        self.digesting = digesters.into_iter().map(Lane::new).collect();
        self.received_bytes += length;
        // Whoever joins whole files has the whole judged.
        self.prefix = None;
        Ok(())
    }

    fn extend_prefix(&mut self, data: &[u8]) -> Option<Bytes> {
        let prefix = self.prefix.as_mut()?;
        let wanted = PREFIX_BYTES - prefix.len();
        prefix.extend_from_slice(&data[..wanted.min(data.len())]);
        if prefix.len() < PREFIX_BYTES {
            return None;
        }
        self.prefix.take().map(BytesMut::freeze)
    }

    /// Starts a flush when enough was written, and collects the last one: the new durable offset, when there is one.
    pub async fn flush_some(&mut self) -> Result<Option<u64>> {
        if self.flushing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.finish_flush().await?;
            return Ok(Some(self.durable_bytes));
        }
        let new_bytes = self.received_bytes - self.flush_started_bytes;
        let is_due =
            new_bytes >= FLUSH_BYTES || (new_bytes > 0 && self.flush_started.elapsed() >= FLUSH_INTERVAL);
        if self.flushing.is_none() && is_due {
            self.start_flush().await?;
        }
        Ok(None)
    }

    /// Makes all that was received durable: the new durable offset.
    pub async fn flush_all(&mut self) -> Result<u64> {
        self.finish_flush().await?;
        if self.durable_bytes != self.received_bytes {
            self.start_flush().await?;
            self.finish_flush().await?;
        }
        Ok(self.durable_bytes)
    }

    /// Cuts off what did not become durable: the room is worth more than bytes that nobody may count on.
    pub async fn give_room_back(&mut self) {
        // Both may have failed; only that they are over matters here.
        let _ = self.finish_write().await;
        let _ = self.finish_flush().await;
        let (file, durable_bytes) = (Arc::clone(&self.file), self.durable_bytes);
        if let Ok(Err(error)) = blocking(move || file.set_len(durable_bytes)).await {
            tracing::warn!(%error, "a staged file was not cut back; the next stream cuts it");
        }
    }

    async fn finish_write(&mut self) -> Result<()> {
        let written = self.writing.rest(|()| ()).await;
        self.unless_broken(written)
    }

    async fn finish_flush(&mut self) -> Result<()> {
        if let Some(flushing) = self.flushing.take() {
            let flushed = flushing.await.map_err(Failure::internal).and_then(|flushed| flushed);
            self.durable_bytes = self.unless_broken(flushed)?;
        }
        self.unless_broken(Ok(()))
    }

    /// The first failure stays the answer to everything that follows it.
    fn unless_broken<T>(&self, result: Result<T>) -> Result<T> {
        let value = result.map_err(|failure| self.broken.get_or_init(|| failure).clone())?;
        self.broken.get().map_or(Ok(value), |failure| Err(failure.clone()))
    }

    async fn start_flush(&mut self) -> Result<()> {
        let upto = self.received_bytes;
        // The last bytes may be a hole: the length is what makes them part of the file. It is set in turn with the writes:
        // beside one, it would cut off what that has just written.
        let place = self.writing.place().await?;
        self.write(
            place,
            move |file| if file.metadata()?.len() < upto { file.set_len(upto) } else { Ok(()) },
        );
        self.finish_write().await?;
        self.flush_started_bytes = upto;
        self.flush_started = Instant::now();
        let (file, broken) = (Arc::clone(&self.file), Arc::clone(&self.broken));
        self.flushing = Some(tokio::task::spawn_blocking(move || {
            // Told whoever waits, and whoever comes when nobody has: the next flush would say that all is well.
            file.sync_data().map(|()| upto).map_err(|error| broken.get_or_init(|| failed(error)).clone())
        }));
        Ok(())
    }

    /// Has the file written on the lane for that.
    fn write(&self, place: Place, write: impl FnOnce(&File) -> std::io::Result<()> + Send + 'static) {
        let (file, broken) = (Arc::clone(&self.file), Arc::clone(&self.broken));
        self.writing.push(place, move |()| {
            if let Err(error) = write(&file) {
                broken.get_or_init(|| failed(error));
            }
        });
    }

    /// The digests of all that was received.
    pub async fn digests(&mut self) -> Result<Digests> {
        let mut digests = Digests::default();
        for lane in &self.digesting {
            let digested = lane.rest(|digester| digester.clone().finish()).await;
            digests = digests.or(self.unless_broken(digested)?);
        }
        Ok(digests)
    }

    /// The staged bytes, for the inspector.
    pub fn storage(&self) -> Result<Arc<dyn Storage>> {
        let storage = self.file.try_clone().and_then(FileStorage::new).map_err(failed)?;
        Ok(Arc::new(storage))
    }

    /// Another handle of the staged file.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(failed)
    }
}

fn failed(error: std::io::Error) -> Failure {
    imageops_store::Error::from(error).into()
}

fn rehash(file: &File, length: u64, selection: Selection) -> std::io::Result<Digester> {
    digest(file, length, Digester::new(selection))
}

/// Goes on with the first bytes of a file.
fn digest(file: &File, length: u64, mut digester: Digester) -> std::io::Result<Digester> {
    let mut buffer = vec![0; REHASH_BYTES];
    let mut offset = 0;
    while offset < length {
        let count = buffer.len().min(usize::try_from(length - offset).unwrap_or(usize::MAX));
        file.read_exact_at(&mut buffer[..count], offset)?;
        digester.update(&buffer[..count]);
        offset += count as u64;
    }
    Ok(digester)
}

/// Writes `data` at `offset`, leaving out zeros: in a fresh file they are holes.
fn write_sparse(file: &File, data: &[u8], offset: u64) -> std::io::Result<()> {
    let (mut run_start, mut zeros_start, mut at) = (0, None, 0);
    while at < data.len() {
        let to_boundary = BLOCK_BYTES - ((offset + at as u64) % BLOCK_BYTES as u64) as usize;
        let end = data.len().min(at + to_boundary);
        if end - at == BLOCK_BYTES && is_zero(&data[at..end]) {
            zeros_start.get_or_insert(at);
        } else if let Some(zeros) = zeros_start.take().filter(|zeros| at - zeros >= HOLE_BYTES_MIN) {
            file.write_all_at(&data[run_start..zeros], offset + run_start as u64)?;
            run_start = at;
        }
        at = end;
    }
    let zeros = zeros_start.filter(|zeros| at - zeros >= HOLE_BYTES_MIN);
    file.write_all_at(&data[run_start..zeros.unwrap_or(at)], offset + run_start as u64)
}

fn is_zero(block: &[u8]) -> bool {
    // Wide chunks let the compiler use vector instructions.
    block.chunks_exact(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_become_holes_and_read_back() {
        let file = tempfile::tempfile().unwrap();
        let mut data = vec![0; 1 << 20];
        data[0] = 1;
        data[(1 << 20) - 1] = 2;
        write_sparse(&file, &data[..100_000], 0).unwrap();
        write_sparse(&file, &data[100_000..], 100_000).unwrap();
        let mut back = vec![9; data.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == data);
        // The cut lies in a hole, and its block is written.
        assert!(allocated(&file) <= 4 * BLOCK_BYTES as u64, "{}", allocated(&file));
    }

    #[test]
    fn a_block_here_and_there_takes_little_more_than_itself() {
        let file = tempfile::tempfile().unwrap();
        let mut data = vec![0; 1 << 20];
        data.chunks_exact_mut(64 << 10).for_each(|cluster| cluster[5000] = 1);
        // Too little to be worth a hole.
        data[(12 << 10)..(20 << 10)].fill(2);
        write_sparse(&file, &data, 0).unwrap();
        file.set_len(1 << 20).unwrap();
        let mut back = vec![9; data.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == data);
        assert!(allocated(&file) <= (16 + 4) * BLOCK_BYTES as u64, "{}", allocated(&file));
    }

    fn allocated(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * 512
    }

    #[tokio::test]
    async fn after_a_failed_write_nothing_becomes_durable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("staged");
        std::fs::write(&path, b"").unwrap();
        let writable = || File::options().read(true).write(true).open(&path).unwrap();
        let mut ingest = Ingest::open(writable(), 0, false).await.unwrap();
        // Opened for reading alone: writes to it fail.
        ingest.file = Arc::new(File::open(&path).unwrap());
        ingest.push(Bytes::from_static(b"lost")).await.unwrap();
        let first = ingest.flush_all().await.unwrap_err();
        assert_eq!(ingest.push(Bytes::from_static(b"never written")).await.unwrap_err(), first);
        ingest.file = Arc::new(writable());
        assert_eq!(ingest.flush_all().await.unwrap_err(), first);
        assert_eq!(ingest.flush_all().await.unwrap_err(), first, "not the second time either");
        assert_eq!(ingest.durable_bytes(), 0);
        ingest.give_room_back().await;
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[tokio::test]
    async fn a_chunk_whose_taking_was_given_up_has_reached_no_lane() {
        let mut ingest = Ingest::open(tempfile::tempfile().unwrap(), 0, false).await.unwrap();
        let last = ingest.digesting.last().unwrap();
        let taken = (last.place().await.unwrap(), last.place().await.unwrap());
        tokio::select! {
            biased;
            _ = ingest.push(Bytes::from_static(b"given up")) => panic!("the last lane has no place"),
            () = std::future::ready(()) => {}
        }
        drop(taken);
        ingest.push(Bytes::from_static(b"hello there")).await.unwrap();
        assert_eq!(ingest.flush_all().await.unwrap(), 11);
        assert_eq!(ingest.digests().await.unwrap().md5.as_deref(), Some("161bc25962da8fed6d2f59922fb642aa"));
    }

    #[tokio::test]
    async fn the_length_is_there_before_the_next_chunk() {
        let mut ingest = Ingest::open(tempfile::tempfile().unwrap(), 0, false).await.unwrap();
        for _ in 0..100 {
            ingest.push(Bytes::from_static(&[0; 2 * HOLE_BYTES_MIN])).await.unwrap();
            ingest.start_flush().await.unwrap();
            assert_eq!(ingest.file.metadata().unwrap().len(), ingest.received_bytes());
            ingest.push(Bytes::from_static(b"kept")).await.unwrap();
            ingest.flush_all().await.unwrap();
            let mut back = [0; 4];
            ingest.file.read_exact_at(&mut back, ingest.received_bytes() - 4).unwrap();
            assert_eq!(&back, b"kept");
        }
    }

    #[tokio::test]
    async fn a_session_that_goes_on_hashes_what_was_durable() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"hello world, and what was not durable", 0).unwrap();
        let mut ingest = Ingest::open(file, 6, true).await.unwrap();
        ingest.push(Bytes::from_static(b"there")).await.unwrap();
        assert_eq!(ingest.flush_all().await.unwrap(), 11);
        // Digest of "hello there".
        assert_eq!(ingest.digests().await.unwrap().md5.as_deref(), Some("161bc25962da8fed6d2f59922fb642aa"));
        assert_eq!(
            ingest.digests().await.unwrap().md5.as_deref(),
            Some("161bc25962da8fed6d2f59922fb642aa"),
            "twice"
        );
    }
}
