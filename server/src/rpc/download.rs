//! DownloadImage.

use std::sync::Arc;

use bytes::BytesMut;
use imageops::v1;
use imageops_store::Blob;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Answers, parse_name};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::failure::{Failure, Result};
use crate::{reason, wire};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks that are read ahead of the network.
const READ_AHEAD: usize = 2;

/// Header first, then chunks without a gap.
pub(super) async fn download(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::DownloadImageRequest,
) -> Result<Answers<v1::DownloadImageResponse>> {
    let id = parse_name("image", &request.image)?;
    let image = app.active_image(&caller.tenant, id).await?;
    let start = request.offset_bytes;
    if start > image.size_bytes {
        let message = format!("the image has {} bytes", image.size_bytes);
        return Err(Failure::new(Code::OutOfRange, reason::RANGE_NOT_SATISFIABLE, message)
            .with("size_bytes", image.size_bytes));
    }
    let rest = image.size_bytes - start;
    let length = request.length_bytes.map_or(rest, |length| length.min(rest));
    let blob = app.stores.open_image(&image).await?;
    let header =
        v1::DownloadHeader { image: Some(wire::image(&image)), offset_bytes: start, length_bytes: length };
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        let header = v1::download_image_response::Message::Header(header);
        if sender.send(Ok(v1::DownloadImageResponse { message: Some(header) })).await.is_ok() {
            send_chunks(blob, start, length, &sender).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Ends early when the reader is gone. Only the reads are on the pool: a slow reader holds none of its threads.
async fn send_chunks(
    blob: Box<dyn Blob>,
    start: u64,
    length: u64,
    sender: &mpsc::Sender<Result<v1::DownloadImageResponse, Status>>,
) {
    let blob: Arc<dyn Blob> = blob.into();
    let mut done = 0;
    while done < length {
        let count = CHUNK_BYTES.min(usize::try_from(length - done).unwrap_or(CHUNK_BYTES));
        let (source, offset) = (Arc::clone(&blob), start + done);
        let message = match blocking(move || read_chunk(&*source, offset, count)).await {
            Ok(Ok(chunk)) => {
                let message = v1::download_image_response::Message::Chunk(chunk);
                Ok(v1::DownloadImageResponse { message: Some(message) })
            }
            Ok(Err(error)) => Err(Failure::internal(error).into()),
            Err(failure) => Err(failure.into()),
        };
        let failed = message.is_err();
        if sender.send(message).await.is_err() || failed {
            return;
        }
        done += count as u64;
    }
}

fn read_chunk(blob: &dyn Blob, offset_bytes: u64, count: usize) -> std::io::Result<v1::Chunk> {
    let mut data = BytesMut::zeroed(count);
    blob.read_exact_at(&mut data, offset_bytes)?;
    Ok(v1::Chunk { offset_bytes, crc32c: Some(crc32c::crc32c(&data)), data: data.freeze() })
}
