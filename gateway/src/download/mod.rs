//! The bytes of stored images as answers: the whole, a range of it, or only what the headers tell; as they are, in another
//! format, or as the one entry of a zip.

mod content;
mod disposition;
mod range;

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use imageops::v1::download_image_response::Message;
use imageops::v1::{Chunk, DownloadHeader, DownloadImageRequest, DownloadImageResponse, ImageFormat};
use imageops_client::Connection;
use tonic::{Status, Streaming};

use self::content::{Content, set};
pub(crate) use self::disposition::is_hidden;
use self::range::{Validators, Wanted};
use crate::call;
use crate::problem::Problem;
use crate::router::Gateway;
use crate::sendfile::{self, FileWanted, Passage, StoredFile};

/// How long a download in another format may take to begin: the first one converts the image.
const CONVERSION_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why there are no bytes.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The server does not hand them out.
    Call(Status),
    /// `If-Match` or `If-Unmodified-Since` names other bytes.
    OtherBytes,
    /// The image has no such range.
    NoSuchRange {
        /// What it has.
        size_bytes: u64,
    },
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl Refused {
    /// The header that goes with a range that is not there.
    pub(crate) fn content_range(&self) -> Option<(HeaderName, HeaderValue)> {
        let Self::NoSuchRange { size_bytes } = self else { return None };
        let value = HeaderValue::try_from(format!("bytes */{size_bytes}")).ok()?;
        Some((header::CONTENT_RANGE, value))
    }
}

impl IntoResponse for Refused {
    /// As the native API tells it.
    fn into_response(self) -> Response {
        let range = self.content_range();
        let problem = match self {
            Self::Call(status) => Problem::from(status),
            Self::OtherBytes => {
                let detail = "the image has another entity tag, or came later than the date";
                Problem::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", detail)
            }
            Self::NoSuchRange { size_bytes } => {
                let detail = format!("the image has {size_bytes} bytes");
                Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_NOT_SATISFIABLE", detail)
            }
        };
        let mut response = problem.into_response();
        response.headers_mut().extend(range);
        response
    }
}

/// What is asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// `images/{uuid}`.
    pub(crate) image: &'a str,
    /// Unspecified: the stored bytes.
    pub(crate) format: ImageFormat,
    /// What the file is called. Absent: as the image.
    pub(crate) file_name: Option<&'a str>,
    /// Whether it is wrapped in a zip.
    pub(crate) zipped: bool,
    /// By what files can be sent, where they can.
    pub(crate) passage: Option<&'a Passage>,
}

/// Answers GET and HEAD.
pub(crate) async fn answer(
    gateway: &Gateway,
    method: &Method,
    headers: &HeaderMap,
    asked: &Asked<'_>,
) -> Result<Response, Refused> {
    let source = Source::new(gateway, headers, asked);
    let whole = method == Method::GET && !headers.contains_key(header::RANGE);
    // A range may count from the end, which only the server knows: its header is asked for first.
    let opened = source.open(0, (!whole).then_some(0), source.passage.is_some()).await?;
    let image =
        opened.header.image.as_ref().ok_or_else(|| Status::internal("a download tells of no image"))?;
    let content = Content::new(image, asked)?;
    let validators = Validators { etag: &content.etag, last_modified: content.last_modified.as_deref() };

    if range::precondition_failed(headers, &validators) {
        return Err(Refused::OtherBytes);
    }
    if range::not_modified(headers, &validators) {
        return Ok(content.answer(StatusCode::NOT_MODIFIED, None, Body::empty()));
    }
    let size_bytes = content.size_bytes;
    if method == Method::HEAD {
        return Ok(content.answer(StatusCode::OK, Some(size_bytes), Body::empty()));
    }
    let wanted =
        if content.has_ranges() { range::wanted(headers, size_bytes, &validators) } else { Wanted::Whole };
    match wanted {
        Wanted::Whole => {
            let all = 0..content.image_bytes;
            let bytes = if content.reads_bytes() {
                // What is hashed on the way has to come this way, and was opened for the other one.
                source.bytes(all, false).await?
            } else if whole {
                source.bytes_of(opened, all)
            } else {
                source.go_on(opened, all).await?
            };
            Ok(content.answer(StatusCode::OK, Some(size_bytes), content.whole(bytes)))
        }
        Wanted::Part { offset_bytes, length_bytes } => {
            let end = offset_bytes + length_bytes;
            let body = content.part(&source, opened, offset_bytes..end).await?;
            let mut response = content.answer(StatusCode::PARTIAL_CONTENT, Some(length_bytes), body);
            let last = end - 1;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {offset_bytes}-{last}/{size_bytes}"));
            Ok(response)
        }
        Wanted::Unsatisfiable => Err(Refused::NoSuchRange { size_bytes }),
    }
}

/// The bytes of an image in order, or what stands for them.
type ImageBytes = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Where the bytes come from.
#[derive(Clone)]
struct Source {
    connection: Connection,
    headers: HeaderMap,
    image: String,
    format: ImageFormat,
    /// For the download to begin.
    limit: Duration,
    passage: Option<Passage>,
}

/// A download that has begun.
struct Opened {
    header: DownloadHeader,
    chunks: Streaming<DownloadImageResponse>,
    /// Where the bytes lie, instead of chunks.
    file: Option<StoredFile>,
}

impl Source {
    fn new(gateway: &Gateway, headers: &HeaderMap, asked: &Asked<'_>) -> Self {
        let limit = match asked.format {
            ImageFormat::Unspecified => gateway.config.limits.call_timeout,
            _ => CONVERSION_TIMEOUT,
        };
        Self {
            connection: gateway.connection.clone(),
            headers: headers.clone(),
            image: asked.image.to_owned(),
            format: asked.format,
            limit,
            passage: asked.passage.cloned(),
        }
    }

    /// Begins a download; with `wants_file` it may tell of a file instead of chunks.
    async fn open(
        &self,
        offset_bytes: u64,
        length_bytes: Option<u64>,
        wants_file: bool,
    ) -> Result<Opened, Status> {
        let message = DownloadImageRequest {
            image: self.image.clone(),
            offset_bytes,
            length_bytes,
            format: self.format.into(),
            sparse: false,
        };
        let mut request = call::request(&self.headers, message);
        if wants_file {
            request.extensions_mut().insert(FileWanted);
        }
        let mut stub = self.connection.stub();
        let answer = call::response_within(self.limit, stub.download_image(request)).await?;
        let file = answer.extensions().get::<StoredFile>().cloned();
        let mut chunks = answer.into_inner();
        let first = tokio::time::timeout(self.limit, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the server did not answer in time"))??;
        match first.and_then(|first| first.message) {
            Some(Message::Header(header)) => Ok(Opened { header, chunks, file }),
            _ => Err(Status::internal("a download did not begin with its header")),
        }
    }

    /// The bytes of a range of the image; `may_stand_in` when nobody reads them on the way.
    async fn bytes(&self, range: Range<u64>, may_stand_in: bool) -> Result<ImageBytes, Status> {
        let wants_file = may_stand_in && self.passage.is_some();
        let opened = self.open(range.start, Some(range.end - range.start), wants_file).await?;
        Ok(self.bytes_of(opened, range))
    }

    /// The bytes of a range, behind a download that was opened for the header alone. Where that has a file, it has them all.
    async fn go_on(&self, opened: Opened, range: Range<u64>) -> Result<ImageBytes, Status> {
        if opened.file.is_some() {
            return Ok(self.bytes_of(opened, range));
        }
        self.bytes(range, true).await
    }

    /// Those of a download that was opened for this range.
    fn bytes_of(&self, opened: Opened, range: Range<u64>) -> ImageBytes {
        let Opened { chunks, file, .. } = opened;
        let (Some(StoredFile(file)), Some(passage)) = (file, self.passage.clone()) else {
            return Box::pin(checked(chunks, range.start, range.end - range.start));
        };
        let (source, call) = (self.clone(), Arc::new(Mutex::new(chunks)));
        let instead = move |range: Range<u64>| -> ImageBytes {
            // For the server the call lasts as long as this closure does: until the last byte was sent.
            let (source, _call) = (source.clone(), Arc::clone(&call));
            let opened = async move { source.bytes(range, false).await.map_err(|status| broken(&status)) };
            Box::pin(stream::once(opened).map(flatten).flatten())
        };
        Box::pin(sendfile::stream(passage, file, range, Arc::new(instead)))
    }
}

/// What was opened, or why nothing was, as one stream.
fn flatten(opened: io::Result<ImageBytes>) -> ImageBytes {
    opened.unwrap_or_else(|error| Box::pin(stream::iter([Err(error)])))
}

fn broken(status: &Status) -> io::Error {
    tracing::warn!(code = ?status.code(), "a download broke");
    io::Error::other("the download broke")
}

/// The chunks' bytes. What is not the very next bytes, or not whole, is an error that cuts the connection: the client sees
/// that the length is wrong, where it would not see wrong bytes.
fn checked(
    chunks: Streaming<DownloadImageResponse>,
    offset_bytes: u64,
    length_bytes: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let place = (chunks, offset_bytes, length_bytes);
    stream::try_unfold(place, |(mut chunks, next, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let message = chunks.message().await.map_err(|status| broken(&status))?;
        let data = match message.and_then(|message| message.message) {
            Some(Message::Chunk(chunk)) => verified(chunk, next, left)?,
            _ => return Err(io::Error::other("the download ended early")),
        };
        let length = data.len() as u64;
        Ok(Some((data, (chunks, next + length, left - length))))
    })
}

fn verified(chunk: Chunk, next: u64, left: u64) -> Result<Bytes, io::Error> {
    let in_order = chunk.offset_bytes == next && !chunk.data.is_empty() && chunk.data.len() as u64 <= left;
    let intact = chunk.crc32c.is_none_or(|crc| crc == crc32c::crc32c(&chunk.data));
    if in_order && intact {
        return Ok(chunk.data);
    }
    tracing::error!(next, offset = chunk.offset_bytes, in_order, intact, "a chunk is not what was announced");
    Err(io::Error::other("a chunk is wrong"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn chunks_must_follow_each_other_whole() {
        let chunk = |offset_bytes, crc32c| Chunk { offset_bytes, data: Bytes::from_static(b"data"), crc32c };
        assert_eq!(verified(chunk(8, None), 8, 4).unwrap(), "data");
        assert_eq!(verified(chunk(8, Some(crc32c::crc32c(b"data"))), 8, 9).unwrap(), "data");
        assert!(verified(chunk(8, Some(1)), 8, 9).is_err());
        assert!(verified(chunk(7, None), 8, 9).is_err());
        assert!(verified(chunk(8, None), 8, 3).is_err());
        assert!(verified(Chunk { offset_bytes: 8, ..Chunk::default() }, 8, 3).is_err());
    }
}
