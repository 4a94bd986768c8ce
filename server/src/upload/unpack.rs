//! The image in an uploaded archive: read out of the staged file into another one, on the way hashed and judged like
//! any upload (security.md 4).

use std::fs::File;
use std::io::{BufReader, Error, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use imageops_archive::{ErrorKind, Limits, Packing, reason as archive_reason};
use imageops_catalogue::UploadRow;
use imageops_model::{Archive, Label};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Code;
use uuid::Uuid;

use super::commit::{CommitError, Step, Watch, store_of};
use super::grant::Grant;
use super::ingest::Ingest;
use super::verdict::judge_prefix;
use crate::app::{App, blocking};
use crate::failure::{Failure, Result};
use crate::reason;

/// Bytes that go from the archive's reader to the writer at a time.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces that wait for the writer.
const PIECES_WAITING: usize = 2;
/// How often whoever watches is asked while nothing comes: an archive can be long and hold little.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// An image that was read out of an archive.
pub(super) struct Unpacked {
    /// Its bytes.
    pub(super) ingest: Ingest,
    /// Key of its staged file; whoever is done with it discards it.
    pub(super) staged: String,
    /// The name that it has in the archive, or has anyway where that holds none.
    pub(super) label: Label,
}

/// Reads the image out of the archive that came, as long as `watch` agrees.
pub(super) async fn unpack(
    app: &App,
    upload: &UploadRow,
    archive: File,
    watch: &Watch<'_>,
) -> Result<Unpacked, CommitError> {
    let store = store_of(app, upload);
    // No upload's id: what a crash leaves of it is removed at the next start.
    let staged = format!("unpacked-{}", Uuid::new_v4());
    let (opened, key) = (app.stores.writable(store)?, staged.clone());
    let file = blocking(move || opened.stage(&key)).await?.map_err(Failure::from)?;
    let ingest = Ingest::open(file, 0, upload.wishes.sha512).await?;
    match fill(app, upload, archive, ingest, watch).await {
        Ok((ingest, label)) => Ok(Unpacked { ingest, staged, label }),
        Err(error) => {
            crate::stored::discard(app, store, staged).await;
            Err(error)
        }
    }
}

async fn fill(
    app: &App,
    upload: &UploadRow,
    archive: File,
    mut ingest: Ingest,
    watch: &Watch<'_>,
) -> Result<(Ingest, Label), CommitError> {
    let limits = Limits { max_bytes: app.config.upload_max_bytes, take_first: true, ..Limits::default() };
    let (pieces, mut waiting) = mpsc::channel(PIECES_WAITING);
    let (kind, read_bytes) = (upload.archive, Arc::<AtomicU64>::default());
    let source =
        Source { file: archive, offset: 0, read_bytes: Arc::clone(&read_bytes), pieces: pieces.clone() };
    let reading = tokio::task::spawn_blocking(move || read(source, kind, &limits, &pieces));
    let mut grant = Grant::of(upload);
    let mut written = Ok(());
    while written.is_ok() {
        written = match timeout(ASK_INTERVAL, waiting.recv()).await {
            Ok(Some(piece)) => write(app, upload, &mut ingest, &mut grant, piece).await,
            Ok(None) => break,
            Err(_) => Ok(()),
        };
        let (done_bytes, read_bytes) = (ingest.received_bytes(), read_bytes.load(Ordering::Relaxed));
        written = written.and_then(|()| Ok(watch(Step::Unpacking { done_bytes, read_bytes })?));
    }
    // A reader that is not done sees that nobody takes its pieces, and ends.
    drop(waiting);
    let name = reading.await.map_err(Failure::internal)?;
    written?;
    let label = match name? {
        None => upload.label.clone(),
        Some(name) => {
            Label::new(name).map_err(|error| refused(archive_reason::ARCHIVE_UNSAFE, error.to_string()))?
        }
    };
    Ok((ingest, label))
}

async fn write(
    app: &App,
    upload: &UploadRow,
    ingest: &mut Ingest,
    grant: &mut Grant,
    piece: Bytes,
) -> Result<(), CommitError> {
    let length = ingest.received_bytes() + piece.len() as u64;
    grant.cover(app, upload, length).await.map_err(|failure| {
        // A catalogue that does not answer says nothing of these bytes.
        let is_final = failure.reason == reason::QUOTA_EXCEEDED;
        if is_final { CommitError::Refused(failure) } else { CommitError::Other(failure) }
    })?;
    if let Some(prefix) = ingest.push(piece).await? {
        judge_prefix(upload, &prefix).map_err(CommitError::Refused)?;
    }
    // The pages that wait to be written stay few; nothing is told to be durable yet.
    ingest.flush_some().await?;
    Ok(())
}

/// Reads the image, piece by piece; the name that it has in the archive, where that holds one. Blocks.
fn read(
    source: Source,
    kind: Option<Archive>,
    limits: &Limits,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<Option<String>, CommitError> {
    let packing = match kind {
        Some(Archive::Gzip) => Packing::Gzip,
        Some(Archive::Xz) => Packing::Xz,
        Some(Archive::Zstd) => Packing::Zstd,
        Some(Archive::Zip) | None => {
            let mut member = imageops_archive::open(BufReader::new(source), limits).map_err(of_archive)?;
            send(&mut member, pieces)?;
            return Ok(Some(member.base_name().to_owned()));
        }
    };
    send(&mut imageops_archive::unpack(source, packing, limits).map_err(of_archive)?, pieces)?;
    Ok(None)
}

/// The archive from its first byte on, whatever other handles of its file do. It fails once nobody takes the pieces.
struct Source {
    file: File,
    offset: u64,
    /// Bytes that were read in all; whoever writes the image looks at it.
    read_bytes: Arc<AtomicU64>,
    pieces: mpsc::Sender<Bytes>,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.pieces.is_closed() {
            return Err(Error::other("nobody takes what is unpacked"));
        }
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        self.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.offset = offset.ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

fn send(image: &mut impl Read, pieces: &mpsc::Sender<Bytes>) -> Result<(), CommitError> {
    while let Some(piece) = next_piece(image)? {
        if pieces.blocking_send(piece).is_err() {
            break;
        }
    }
    Ok(())
}

fn next_piece(image: &mut impl Read) -> Result<Option<Bytes>, CommitError> {
    let mut piece = BytesMut::zeroed(PIECE_BYTES);
    let mut filled = 0;
    while filled < PIECE_BYTES {
        match image.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(of_archive(imageops_archive::Error::from_read(error))),
        }
    }
    piece.truncate(filled);
    Ok((filled > 0).then(|| piece.freeze()))
}

/// Whatever is wrong with an archive stays wrong, but for the medium that it lies on.
fn of_archive(error: imageops_archive::Error) -> CommitError {
    if error.kind == ErrorKind::Io {
        return CommitError::Other(Failure::internal(error));
    }
    refused(error.reason, error.message.clone())
}

fn refused(reason: &'static str, message: impl Into<String>) -> CommitError {
    CommitError::Refused(Failure::new(Code::InvalidArgument, reason, message))
}
