//! DownloadImage.

use std::io;
use std::sync::Arc;
use std::time::Duration;
use std::vec::IntoIter;

use bytes::BytesMut;
use futures::{StreamExt as _, stream};
use imageops::v1;
use imageops::v1::download_image_response::Message;
use imageops_catalogue::{ImageRow, Replica};
use imageops_gateway::{Pace, StoredFile};
use imageops_model::{ImageId, StoreId};
use imageops_store::{Blob, Error};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

use super::{Answers, conversions, parse_name};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::failure::{Failure, Result};
use crate::{reason, replicas, wire};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 512 << 10;
/// Holes of fewer bytes, between data, come as the zeros that they are: a message for each costs more.
const HOLE_BYTES_MIN: u64 = 32 << 10;
/// Chunks that are read ahead of the network.
const READ_AHEAD: usize = 2;

/// How long one may take.
const STALL: Duration = Duration::from_secs(CHUNK_BYTES as u64 / Pace::BYTES_PER_SECOND_MIN);

/// What goes out. A stream that ends without an error is complete to its reader: whoever stops early says so.
struct Outgoing {
    messages: mpsc::Sender<Result<v1::DownloadImageResponse, Status>>,
    /// Comes behind all messages that are on their way.
    cut: oneshot::Sender<Status>,
}

/// Header first, then chunks without a gap; or the file beside the header, when the caller is in this process and wants that.
pub(super) async fn download(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::DownloadImageRequest,
    wants_file: bool,
) -> Result<Response<Answers<v1::DownloadImageResponse>>> {
    let id = parse_name("image", &request.image)?;
    let format = wire::read_output_format("format", request.format)?;
    let mut image = app.active_image(&caller.tenant, id).await?;
    if let Some(format) = format {
        image = conversions::in_format(app, caller, image, format).await?;
    }
    caller.record.digest(&image.sha256);
    let start = request.offset_bytes;
    if start > image.size_bytes {
        let message = format!("the image has {} bytes", image.size_bytes);
        return Err(Failure::new(Code::OutOfRange, reason::RANGE_NOT_SATISFIABLE, message)
            .with("size_bytes", image.size_bytes));
    }
    let rest = image.size_bytes - start;
    let length = request.length_bytes.map_or(rest, |length| length.min(rest));
    let copies = Copies::open(app, &image).await?;
    let header =
        v1::DownloadHeader { image: Some(wire::image(&image)), offset_bytes: start, length_bytes: length };
    let file = if wants_file { copies.blob.file().and_then(|file| file.try_clone().ok()) } else { None };
    let (messages, receiver) = mpsc::channel(READ_AHEAD);
    let (cut, was_cut) = oneshot::channel();
    let has_file = file.is_some();
    tokio::spawn(async move {
        let outgoing = Outgoing { messages, cut };
        let sent = async {
            outgoing.send(Message::Header(header)).await?;
            if has_file {
                return Ok(());
            }
            send_bytes(copies, start, start + length, request.sparse, &outgoing).await
        };
        if let Err(failure) = sent.await {
            // Nobody is there to be told when it fails.
            let _ = outgoing.cut.send(failure.into());
        }
    });
    let end = stream::once(was_cut).filter_map(|cut| std::future::ready(cut.ok().map(Err)));
    let mut response = Response::new(Box::pin(ReceiverStream::new(receiver).chain(end)) as Answers<_>);
    if let Some(file) = file {
        response.extensions_mut().insert(StoredFile(Arc::new(file)));
    }
    Ok(response)
}

/// The copies of an image: the one that is read, and those that can take its place.
struct Copies {
    app: Arc<App>,
    /// The image, and its length.
    image: (ImageId, u64),
    store: StoreId,
    blob: Arc<dyn Blob>,
    others: IntoIter<Replica>,
}

impl Copies {
    async fn open(app: &Arc<App>, image: &ImageRow) -> Result<Self> {
        let mut others = replicas::readable(app, image).into_iter();
        let none = replicas::none_there();
        let image = (image.id, image.size_bytes);
        let (store, blob) = replicas::open_next(app, image, &mut others, none).await?;
        Ok(Self { app: Arc::clone(app), image, store, blob: blob.into(), others })
    }

    /// Goes on with another copy, after the one that was read failed.
    async fn next(&mut self, error: io::Error) -> Result<()> {
        tracing::warn!(image = %self.image.0, store = %self.store, %error, "a copy cannot be read on");
        let failure = Failure::from(Error::from(error));
        let next = replicas::open_next(&self.app, self.image, &mut self.others, failure).await?;
        (self.store, self.blob) = (next.0, next.1.into());
        Ok(())
    }
}

/// Only the reads are on the pool: a slow reader holds none of its threads.
async fn send_bytes(
    mut copies: Copies,
    mut at: u64,
    end: u64,
    sparse: bool,
    outgoing: &Outgoing,
) -> Result<()> {
    while at < end {
        let blob = Arc::clone(&copies.blob);
        match blocking(move || read_piece(&*blob, at, end, sparse)).await? {
            Ok((message, next)) => {
                outgoing.send(message).await?;
                at = next;
            }
            Err(error) => copies.next(error).await?,
        }
    }
    Ok(())
}

/// A message of the bytes from `at` on, and where the next one begins.
fn read_piece(blob: &dyn Blob, at: u64, end: u64, sparse: bool) -> io::Result<(Message, u64)> {
    let mut stop = end;
    if sparse {
        let data = blob.data_at(at)?.unwrap_or(end..end);
        let data_start = data.start.clamp(at, end);
        if data_start - at >= HOLE_BYTES_MIN || data_start == end {
            let hole = v1::Hole { offset_bytes: at, length_bytes: data_start - at };
            return Ok((Message::Hole(hole), data_start));
        }
        if data.end > at {
            stop = end_of_data(blob, data.end.min(end), (at + CHUNK_BYTES as u64).min(end))?;
        }
    }
    let count = CHUNK_BYTES.min(usize::try_from(stop - at).unwrap_or(CHUNK_BYTES));
    let mut data = BytesMut::zeroed(count);
    blob.read_exact_at(&mut data, at)?;
    let chunk = v1::Chunk { offset_bytes: at, crc32c: Some(crc32c::crc32c(&data)), data: data.freeze() };
    Ok((Message::Chunk(chunk), at + count as u64))
}

/// Where the data that end at `stop` go on to, over small holes, up to `limit`.
fn end_of_data(blob: &dyn Blob, mut stop: u64, limit: u64) -> io::Result<u64> {
    while stop < limit {
        match blob.data_at(stop)? {
            Some(next) if next.start - stop < HOLE_BYTES_MIN => stop = next.end,
            _ => break,
        }
    }
    Ok(stop.min(limit))
}

impl Outgoing {
    /// An error when the reader is gone, or takes less than an upload must bring: what was read ahead for it is in memory
    /// (SEC-37).
    async fn send(&self, message: Message) -> Result<()> {
        let message = Ok(v1::DownloadImageResponse { message: Some(message) });
        match timeout(STALL, self.messages.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                let message = format!(
                    "nothing was read for {} seconds; go on with `offset_bytes` behind what came",
                    STALL.as_secs()
                );
                Err(Failure::new(Code::DeadlineExceeded, reason::IDLE, message))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::File;
    use std::ops::Range;

    use super::*;

    /// A length, and the ranges of it that are no zeros.
    #[derive(Clone, Debug)]
    struct Sparse(u64, Vec<Range<u64>>);

    impl Blob for Sparse {
        fn size_bytes(&self) -> u64 {
            self.0
        }

        fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = u8::from(self.1.iter().any(|data| data.contains(&(offset + index as u64))));
            }
            Ok(())
        }

        fn allocated_bytes(&self) -> u64 {
            self.0
        }

        fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
            let next = self.1.iter().find(|data| offset < data.end);
            Ok(next.map(|data| offset.max(data.start)..data.end))
        }

        fn file(&self) -> Option<&File> {
            None
        }

        fn try_clone(&self) -> io::Result<Box<dyn Blob>> {
            Ok(Box::new(self.clone()))
        }
    }

    /// The pieces of a range: offset, length, whether it is a hole.
    fn pieces(blob: &Sparse, range: Range<u64>, sparse: bool) -> Vec<(u64, u64, bool)> {
        let (mut at, mut seen) = (range.start, Vec::new());
        while at < range.end {
            let (message, next) = read_piece(blob, at, range.end, sparse).unwrap();
            let piece = match message {
                Message::Chunk(chunk) => (chunk.offset_bytes, chunk.data.len() as u64, false),
                Message::Hole(hole) => (hole.offset_bytes, hole.length_bytes, true),
                Message::Header(header) => panic!("{header:?}"),
            };
            assert_eq!((piece.0, piece.0 + piece.1), (at, next), "without a gap");
            seen.push(piece);
            at = next;
        }
        seen
    }

    #[test]
    fn holes_are_told_where_they_are_wanted() {
        const K: u64 = 1 << 10;
        let blob = Sparse(1_000 * K, vec![100 * K..200 * K, 200 * K..300 * K]);
        assert_eq!(pieces(&blob, 0..400 * K, false), [(0, 400 * K, false)]);
        let all = [(0, 100 * K, true), (100 * K, 200 * K, false), (300 * K, 700 * K, true)];
        assert_eq!(pieces(&blob, 0..1_000 * K, true), all);
        assert_eq!(pieces(&blob, 50 * K..60 * K, true), [(50 * K, 10 * K, true)]);
        assert_eq!(pieces(&blob, 299 * K..301 * K, true), [(299 * K, K, false), (300 * K, K, true)]);
        assert_eq!(pieces(&blob, 1_000 * K..1_000 * K, true), []);
    }

    #[test]
    fn small_holes_come_with_the_data_around_them() {
        const K: u64 = 1 << 10;
        let blob = Sparse(2_000 * K, (0..100).map(|index| index * 20 * K..(index * 20 + 4) * K).collect());
        let all = [
            (0, 512 * K, false),
            (512 * K, 512 * K, false),
            (1_024 * K, 512 * K, false),
            (1_536 * K, (1_984 - 1_536) * K, false),
            (1_984 * K, 16 * K, true),
        ];
        assert_eq!(pieces(&blob, 0..2_000 * K, true), all);
        assert_eq!(pieces(&blob, 10 * K..30 * K, true), [(10 * K, 20 * K, false)]);
    }
}
