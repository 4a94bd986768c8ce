//! The bytes of stored images as answers: the whole, a range of it, or only what the headers tell.

mod disposition;
mod range;

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream;
use imageops::v1::download_image_response::Message;
use imageops::v1::{Chunk, DownloadHeader, DownloadImageRequest, DownloadImageResponse, Image};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tonic::{Status, Streaming};

use self::range::{Validators, Wanted};
use crate::call;
use crate::problem::Problem;
use crate::router::Gateway;
use crate::v1;

/// Why there are no bytes.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The server does not hand them out.
    Call(Status),
    /// `If-Match` names other bytes.
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

impl IntoResponse for Refused {
    /// As the native API tells it.
    fn into_response(self) -> Response {
        match self {
            Self::Call(status) => Problem::from(status).into_response(),
            Self::OtherBytes => {
                let detail = "the image has another entity tag";
                Problem::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", detail).into_response()
            }
            Self::NoSuchRange { size_bytes } => {
                let detail = format!("the image has {size_bytes} bytes");
                let reason = "RANGE_NOT_SATISFIABLE";
                let mut response =
                    Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, reason, detail).into_response();
                set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size_bytes}"));
                response
            }
        }
    }
}

/// Answers GET and HEAD of the bytes of the image `name`.
pub(crate) async fn answer(
    gateway: &Gateway,
    method: &Method,
    headers: &HeaderMap,
    name: &str,
) -> Result<Response, Refused> {
    let whole = method == Method::GET && !headers.contains_key(header::RANGE);
    // A range may count from the end, which only the server knows: its header is asked for first.
    let length_bytes = (!whole).then_some(0);
    let (opened, chunks) = open(gateway, headers, name, 0, length_bytes).await?;
    let image = opened.image.ok_or_else(|| Status::internal("a download tells of no image"))?;
    let facts = Facts::of(&image);
    let validators = Validators { etag: &facts.etag, last_modified: facts.last_modified.as_deref() };

    if range::precondition_failed(headers, &validators) {
        return Err(Refused::OtherBytes);
    }
    if range::not_modified(headers, &validators) {
        return Ok(facts.answer(StatusCode::NOT_MODIFIED, &image, None, Body::empty()));
    }
    let size_bytes = image.size_bytes;
    if method == Method::HEAD {
        return Ok(facts.answer(StatusCode::OK, &image, Some(size_bytes), Body::empty()));
    }
    match range::wanted(headers, size_bytes, &validators) {
        Wanted::Whole => {
            let chunks = if whole { chunks } else { open(gateway, headers, name, 0, None).await?.1 };
            Ok(facts.answer(StatusCode::OK, &image, Some(size_bytes), checked(chunks, 0, size_bytes)))
        }
        Wanted::Part { offset_bytes, length_bytes } => {
            let (_, chunks) = open(gateway, headers, name, offset_bytes, Some(length_bytes)).await?;
            let body = checked(chunks, offset_bytes, length_bytes);
            let mut response = facts.answer(StatusCode::PARTIAL_CONTENT, &image, Some(length_bytes), body);
            let last = offset_bytes + length_bytes - 1;
            set(&mut response, header::CONTENT_RANGE, &format!("bytes {offset_bytes}-{last}/{size_bytes}"));
            Ok(response)
        }
        Wanted::Unsatisfiable => Err(Refused::NoSuchRange { size_bytes }),
    }
}

/// Begins a download; the answer is its header and what follows.
async fn open(
    gateway: &Gateway,
    headers: &HeaderMap,
    name: &str,
    offset_bytes: u64,
    length_bytes: Option<u64>,
) -> Result<(DownloadHeader, Streaming<DownloadImageResponse>), Status> {
    let message = DownloadImageRequest {
        image: name.to_owned(),
        offset_bytes,
        length_bytes,
        ..DownloadImageRequest::default()
    };
    let mut stub = gateway.connection.stub();
    let limit = gateway.config.limits.call_timeout;
    let mut answers = call::within(limit, stub.download_image(call::request(headers, message))).await?;
    let first = tokio::time::timeout(limit, answers.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the server did not answer in time"))??;
    match first.and_then(|first| first.message) {
        Some(Message::Header(header)) => Ok((header, answers)),
        _ => Err(Status::internal("a download did not begin with its header")),
    }
}

/// The chunks as a body. What is not the very next bytes, or not whole, cuts the connection: the client sees that the
/// length is wrong, where it would not see wrong bytes.
fn checked(chunks: Streaming<DownloadImageResponse>, offset_bytes: u64, length_bytes: u64) -> Body {
    let place = (chunks, offset_bytes, length_bytes);
    Body::from_stream(stream::try_unfold(place, |(mut chunks, next, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let message = chunks.message().await.map_err(|status| {
            tracing::warn!(code = ?status.code(), "a download broke");
            io::Error::other("the download broke")
        })?;
        let data = match message.and_then(|message| message.message) {
            Some(Message::Chunk(chunk)) => verified(chunk, next, left)?,
            _ => return Err(io::Error::other("the download ended early")),
        };
        let length = data.len() as u64;
        Ok(Some((data, (chunks, next + length, left - length))))
    }))
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

/// What the headers say of an image.
struct Facts {
    etag: String,
    last_modified: Option<String>,
    digest: Option<String>,
}

impl Facts {
    fn of(image: &Image) -> Self {
        let sha256 = image.digests.as_ref().map(|digests| digests.sha256.as_str()).unwrap_or_default();
        let digest = hex::decode(sha256).ok().filter(|bytes| !bytes.is_empty());
        let mark = if digest.is_some() { sha256 } else { v1::id_of(&image.name) };
        Self {
            etag: format!("\"{mark}\""),
            last_modified: image.create_time.and_then(|time| {
                let time = Timestamp::new(time.seconds, 0).ok()?;
                DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
            }),
            digest: digest.map(|bytes| format!("sha-256=:{}:", STANDARD.encode(bytes))),
        }
    }

    fn answer(&self, status: StatusCode, image: &Image, length_bytes: Option<u64>, body: Body) -> Response {
        let mut response = (status, body).into_response();
        set(&mut response, header::ETAG, &self.etag);
        set(&mut response, header::ACCEPT_RANGES, "bytes");
        set(&mut response, header::CACHE_CONTROL, "private, no-cache");
        if let Some(time) = &self.last_modified {
            set(&mut response, header::LAST_MODIFIED, time);
        }
        if let Some(digest) = &self.digest {
            // RFC 9530: `Repr-Digest` is of the whole image, also beside a part of it.
            set(&mut response, HeaderName::from_static("repr-digest"), digest);
            if status == StatusCode::OK {
                set(&mut response, HeaderName::from_static("content-digest"), digest);
            }
        }
        if let Some(length_bytes) = length_bytes {
            response.headers_mut().insert(header::CONTENT_LENGTH, length_bytes.into());
            set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
            let disposition = disposition::attachment(&image.display_name);
            response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
        }
        response
    }
}

/// Sets a header whose value is made of visible characters; another value is left out.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::Digests;

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

    #[test]
    fn headers_tell_of_the_whole_image() {
        let image = Image {
            name: "images/00000000-0000-4000-8000-000000000000".to_owned(),
            display_name: "a.img".to_owned(),
            digests: Some(Digests { sha256: "00ff".to_owned(), ..Digests::default() }),
            create_time: Some(pbjson_types::Timestamp { seconds: 1_795_226_400, nanos: 5 }),
            ..Image::default()
        };
        let response = Facts::of(&image).answer(StatusCode::PARTIAL_CONTENT, &image, Some(3), Body::empty());
        let headers = response.headers();
        assert_eq!(headers[header::ETAG], "\"00ff\"");
        assert_eq!(headers[header::LAST_MODIFIED], "Sat, 21 Nov 2026 02:00:00 GMT");
        assert_eq!(headers["repr-digest"], "sha-256=:AP8=:");
        assert!(!headers.contains_key("content-digest"));
        assert_eq!(headers[header::CONTENT_LENGTH], "3");
    }
}
