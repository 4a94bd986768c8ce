//! Bytes that must be there whole before they can go on: in a file without a name, which is gone with its handle.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most spools at a time; whoever wants one more is refused.
const SPOOLS_MAX: usize = 256;
/// Bytes of all spools together.
const ALL_BYTES_MAX: u64 = 16 << 30;
/// Longest content of one, in bytes: far more than clients send with one checksum.
const CONTENT_BYTES_MAX: u64 = 4 << 30;
/// Length of the pieces that are read back, in bytes.
const PIECE_BYTES: usize = 512 << 10;

/// Where spools are made.
pub(crate) struct Spools {
    /// Absent: where the system keeps such files.
    directory: Option<PathBuf>,
    permits: Arc<Semaphore>,
    held_bytes: Arc<AtomicU64>,
}

impl Spools {
    /// None yet.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, permits: Arc::new(Semaphore::new(SPOOLS_MAX)), held_bytes: Arc::default() }
    }

    /// An empty spool.
    pub(crate) async fn open(&self) -> io::Result<Spool> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| full("too many at a time"))?;
        let directory = self.directory.clone();
        let file = match tokio::task::spawn_blocking(move || unnamed_file(directory)).await {
            Ok(file) => File::from_std(file?),
            Err(_) => return Err(io::Error::other("the program is ending")),
        };
        Ok(Spool { file, length_bytes: 0, held: Held(Arc::clone(&self.held_bytes), 0), permit })
    }
}

/// A spool that is being filled.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    length_bytes: u64,
    held: Held,
    permit: OwnedSemaphorePermit,
}

/// The bytes of a spool among those of all; given back with it.
#[derive(Debug)]
struct Held(Arc<AtomicU64>, u64);

impl Held {
    fn add(&mut self, bytes: u64) -> io::Result<()> {
        let all = self.0.fetch_add(bytes, Ordering::AcqRel) + bytes;
        self.1 += bytes;
        if all > ALL_BYTES_MAX { Err(full("more than 16 GiB in all")) } else { Ok(()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl Spool {
    /// Bytes in it.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Adds bytes.
    pub(crate) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.length_bytes + data.len() as u64 > CONTENT_BYTES_MAX {
            return Err(full("more than 4 GiB in one piece"));
        }
        self.held.add(data.len() as u64)?;
        self.file.write_all(data).await?;
        self.length_bytes += data.len() as u64;
        Ok(())
    }

    /// Lets `look` read it from its start, beside the reactor, and answers what it found.
    pub(crate) async fn examined<T: Send + 'static>(
        mut self,
        look: impl FnOnce(&mut std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> io::Result<(T, Self)> {
        self.file.flush().await?;
        self.file.rewind().await?;
        let mut file = self.file.into_std().await;
        let looked = tokio::task::spawn_blocking(move || look(&mut file).map(|found| (found, file))).await;
        let (found, file) = looked.map_err(|_| io::Error::other("the program is ending"))??;
        Ok((found, Self { file: File::from_std(file), ..self }))
    }

    /// Reads it from its start.
    pub(crate) async fn into_reader(mut self) -> io::Result<Reader> {
        self.file.flush().await?;
        self.file.rewind().await?;
        Ok(Reader { file: self.file, left_bytes: self.length_bytes, _held: self.held, _permit: self.permit })
    }
}

/// A spool that is being emptied.
pub(crate) struct Reader {
    file: File,
    left_bytes: u64,
    _held: Held,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// The next bytes. `None`: there are no more.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left_bytes == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if self.file.read_buf(&mut piece).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left_bytes = self.left_bytes.saturating_sub(piece.len() as u64);
        Ok(Some(piece.freeze()))
    }
}

/// The directory of the system's choice where none is set.
fn unnamed_file(directory: Option<PathBuf>) -> io::Result<std::fs::File> {
    match directory {
        Some(directory) => tempfile::tempfile_in(directory),
        None => tempfile::tempfile(),
    }
}

fn full(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, what)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_back_and_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let spools = Spools::new(Some(directory.path().to_owned()));
        let mut spool = spools.open().await.unwrap();
        let data: Vec<u8> = (0..3 * PIECE_BYTES + 5).map(|index| (index % 251) as u8).collect();
        for piece in data.chunks(70_000) {
            spool.write(piece).await.unwrap();
        }
        assert_eq!(spool.length_bytes(), data.len() as u64);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let (length, spool) = spool.examined(|file| io::copy(file, &mut io::sink())).await.unwrap();
        assert_eq!(length, data.len() as u64);
        let mut reader = spool.into_reader().await.unwrap();
        let mut read = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            read.extend_from_slice(&piece);
        }
        assert_eq!(read, data);
    }

    #[tokio::test]
    async fn number_and_size_are_bounded() {
        let spools = Spools::new(None);
        let mut held = Vec::new();
        for _ in 0..SPOOLS_MAX {
            held.push(spools.open().await.unwrap());
        }
        assert_eq!(spools.open().await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let mut spool = held.pop().unwrap();
        drop(held.pop());
        spools.open().await.unwrap();
        spool.length_bytes = CONTENT_BYTES_MAX;
        assert_eq!(spool.write(b"x").await.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let nowhere = Spools::new(Some("/nowhere/at/all".into()));
        assert_eq!(nowhere.open().await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
