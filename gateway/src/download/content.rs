//! What is sent of an image: its bytes, or a zip around them, and the headers that tell of it.

use std::io;
use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use imageops::v1::{Image, ImageFormat};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tonic::Status;

use super::{Asked, Opened, Source, disposition};
use crate::v1;
use crate::zip::ZipLayout;

/// Extensions that a name loses when its image is sent in another format.
const IMAGE_EXTENSIONS: [&str; 4] = ["img", "iso", "qcow2", "raw"];

/// What is sent.
pub(super) struct Content {
    /// Length of the whole.
    pub(super) size_bytes: u64,
    /// Length of the image in it.
    pub(super) image_bytes: u64,
    /// Strong entity tag, with its quotes.
    pub(super) etag: String,
    /// When the image came.
    pub(super) last_modified: Option<String>,
    /// RFC 9530 digest of the whole.
    digest: Option<String>,
    file_name: String,
    zip: Option<ZipLayout>,
    /// Whether the zip tells the image's CRC-32 only behind it.
    crc_follows: bool,
}

impl Content {
    /// What of `image` is asked for.
    pub(super) fn new(image: &Image, asked: &Asked<'_>) -> Result<Self, Status> {
        let digests = image.digests.clone().unwrap_or_default();
        let digest = hex::decode(&digests.sha256).ok().filter(|bytes| !bytes.is_empty());
        let mark = if digest.is_some() { &digests.sha256 } else { v1::id_of(&image.name) };
        let time = image.create_time.and_then(|time| Timestamp::new(time.seconds, 0).ok());
        let file_name = named(asked.file_name.unwrap_or(&image.display_name), asked.format);
        let mut content = Self {
            size_bytes: image.size_bytes,
            image_bytes: image.size_bytes,
            etag: format!("\"{mark}\""),
            last_modified: time
                .and_then(|time| DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()),
            digest: digest.map(|bytes| format!("sha-256=:{}:", STANDARD.encode(bytes))),
            file_name,
            zip: None,
            crc_follows: false,
        };
        if asked.zipped {
            let (stem, name) = entry_names(&content.file_name);
            let entry = format!("{stem}/{name}");
            let layout = ZipLayout::new(entry, image.size_bytes, digests.crc32, time.unwrap_or_default());
            let layout = layout.map_err(|error| Status::internal(error.to_string()))?;
            content.file_name = format!("{stem}.zip");
            content.size_bytes = layout.total_bytes();
            // A zip is other bytes when the image has another name.
            content.etag = format!("\"{mark}.{:08x}.zip\"", crc32fast::hash(&layout.header()));
            content.digest = None;
            content.crc_follows = digests.crc32.is_none();
            content.zip = Some(layout);
        }
        Ok(content)
    }

    /// Whether parts can be sent: each byte must have its place before the bytes in front of it are read.
    pub(super) fn has_ranges(&self) -> bool {
        !self.crc_follows
    }

    /// Whether the bytes of the image are looked at on their way.
    pub(super) fn reads_bytes(&self) -> bool {
        self.crc_follows
    }

    /// All of it, around the bytes of the image.
    pub(super) fn whole(&self, image: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
        let Some(zip) = self.zip.clone() else { return Body::from_stream(image) };
        let header = zip.header();
        let hasher = self.crc_follows.then(crc32fast::Hasher::new);
        let sections = stream::try_unfold((Box::pin(image), hasher, Some(zip)), |state| async move {
            let (mut image, mut hasher, zip) = state;
            match image.next().await.transpose()? {
                Some(data) => {
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&data);
                    }
                    Ok(Some((data, (image, hasher, zip))))
                }
                None => Ok(zip.map(|zip| {
                    let crc32 = hasher.map_or(0, crc32fast::Hasher::finalize);
                    (zip.trailer(crc32), (image, None, None))
                })),
            }
        });
        Body::from_stream(stream::iter([Ok::<_, io::Error>(header)]).chain(sections))
    }

    /// A part of it.
    pub(super) async fn part(
        &self,
        source: &Source,
        opened: Opened,
        range: Range<u64>,
    ) -> Result<Body, Status> {
        let Some(zip) = &self.zip else {
            return Ok(Body::from_stream(source.go_on(opened, range).await?));
        };
        let parts = zip.parts(&range);
        // Its CRC-32 is known, else there would be no ranges.
        let (header, trailer) = (zip.header().slice(parts.header), zip.trailer(0).slice(parts.trailer));
        let before = stream::iter([Ok::<_, io::Error>(header)]);
        let behind = stream::iter([Ok(trailer)]);
        if parts.content.is_empty() {
            return Ok(Body::from_stream(before.chain(behind)));
        }
        Ok(Body::from_stream(before.chain(source.go_on(opened, parts.content).await?).chain(behind)))
    }

    /// An answer with this much of it.
    pub(super) fn answer(&self, status: StatusCode, length_bytes: Option<u64>, body: Body) -> Response {
        let mut response = (status, body).into_response();
        set(&mut response, header::ETAG, &self.etag);
        set(&mut response, header::ACCEPT_RANGES, if self.has_ranges() { "bytes" } else { "none" });
        set(&mut response, header::CACHE_CONTROL, "private, no-cache");
        if let Some(time) = &self.last_modified {
            set(&mut response, header::LAST_MODIFIED, time);
        }
        if let Some(digest) = &self.digest {
            // RFC 9530: `Repr-Digest` is of the whole, also beside a part of it.
            set(&mut response, HeaderName::from_static("repr-digest"), digest);
            if status == StatusCode::OK {
                set(&mut response, HeaderName::from_static("content-digest"), digest);
            }
        }
        if let Some(length_bytes) = length_bytes {
            response.headers_mut().insert(header::CONTENT_LENGTH, length_bytes.into());
            let media_type = if self.zip.is_some() { "application/zip" } else { "application/octet-stream" };
            set(&mut response, header::CONTENT_TYPE, media_type);
            response
                .headers_mut()
                .insert(header::CONTENT_DISPOSITION, disposition::attachment(&self.file_name));
        }
        response
    }
}

/// The name of an image that is sent in this format.
fn named(name: &str, format: ImageFormat) -> String {
    let extension = match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
        _ => return name.to_owned(),
    };
    let stem = match name.rsplit_once('.') {
        Some((stem, known)) if !stem.is_empty() && IMAGE_EXTENSIONS.contains(&known) => stem,
        _ if name.is_empty() => "image",
        _ => name,
    };
    format!("{stem}.{extension}")
}

/// Folder and name of the entry of a zip: neither is a path, whatever the label holds.
fn entry_names(label: &str) -> (String, String) {
    let name = disposition::file_name(label);
    let stem = match name.rsplit_once('.') {
        // Dots alone would be a way out of the folder that the zip is unpacked in.
        Some((stem, _)) if !stem.chars().all(|character| character == '.') => stem.to_owned(),
        _ => name.clone(),
    };
    (stem, name)
}

/// Sets a header whose value is made of visible characters; another value is left out.
pub(super) fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::Digests;

    use super::*;

    fn image() -> Image {
        Image {
            name: "images/00000000-0000-4000-8000-000000000000".to_owned(),
            display_name: "a.b.img".to_owned(),
            size_bytes: 7,
            digests: Some(Digests { sha256: "00ff".to_owned(), ..Digests::default() }),
            create_time: Some(pbjson_types::Timestamp { seconds: 1_795_226_400, nanos: 5 }),
            ..Image::default()
        }
    }

    #[test]
    fn headers_tell_of_the_whole_image() {
        let content = Content::new(&image(), &Asked::default()).unwrap();
        let response = content.answer(StatusCode::PARTIAL_CONTENT, Some(3), Body::empty());
        let headers = response.headers();
        assert_eq!(headers[header::ETAG], "\"00ff\"");
        assert_eq!(headers[header::LAST_MODIFIED], "Sat, 21 Nov 2026 02:00:00 GMT");
        assert_eq!(headers["repr-digest"], "sha-256=:AP8=:");
        assert!(!headers.contains_key("content-digest"));
        assert_eq!(headers[header::CONTENT_LENGTH], "3");
        assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=\"a.b.img\"");
    }

    #[tokio::test]
    async fn a_zip_holds_the_image_in_a_folder_and_has_the_length_that_was_told() {
        for crc32 in [None, Some(crc32fast::hash(b"content"))] {
            let mut image = image();
            image.digests.as_mut().unwrap().crc32 = crc32;
            let content = Content::new(&image, &Asked { zipped: true, ..Asked::default() }).unwrap();
            let body = content.whole(stream::iter([Ok("con".into()), Ok("tent".into())]));
            let bytes = axum::body::to_bytes(body, 1000).await.unwrap();
            assert_eq!(bytes.len() as u64, content.size_bytes);
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains("a.b/a.b.imgcontent"), "{text}");
            // Known beforehand or not, the directory at the end has it.
            assert!(bytes.windows(4).any(|window| window == crc32fast::hash(b"content").to_le_bytes()));
            let response = content.answer(StatusCode::OK, Some(content.size_bytes), Body::empty());
            let headers = response.headers();
            assert_eq!(headers[header::CONTENT_DISPOSITION], "attachment; filename=\"a.b.zip\"");
            assert_eq!(headers[header::ACCEPT_RANGES], if crc32.is_some() { "bytes" } else { "none" });
            let etag = headers[header::ETAG].to_str().unwrap();
            assert!(etag.starts_with("\"00ff.") && etag.ends_with(".zip\""), "{etag}");
            image.display_name.push('x');
            let renamed = Content::new(&image, &Asked { zipped: true, ..Asked::default() }).unwrap();
            assert_ne!(renamed.etag, etag);
            assert!(!headers.contains_key("repr-digest"));
        }
    }

    #[tokio::test]
    async fn a_broken_image_breaks_its_zip() {
        let content = Content::new(&image(), &Asked { zipped: true, ..Asked::default() }).unwrap();
        let body = content.whole(stream::iter([Ok("con".into()), Err(io::Error::other("broken"))]));
        assert!(axum::body::to_bytes(body, 1000).await.is_err());
    }

    #[test]
    fn names_follow_the_format() {
        for (name, format, want) in [
            ("a.qcow2", ImageFormat::Unspecified, "a.qcow2"),
            ("a.qcow2", ImageFormat::Raw, "a.raw"),
            ("debian 12.5", ImageFormat::Qcow2, "debian 12.5.qcow2"),
            (".img", ImageFormat::Raw, ".img.raw"),
            ("", ImageFormat::Raw, "image.raw"),
        ] {
            assert_eq!(named(name, format), want);
        }
    }

    #[test]
    fn sec_25_entries_of_a_zip_are_no_paths() {
        for (label, folder, name) in [
            ("ubuntu-20.04.qcow2", "ubuntu-20.04", "ubuntu-20.04.qcow2"),
            ("../../etc/passwd.img", ".._.._etc_passwd", ".._.._etc_passwd.img"),
            ("...img", "...img", "...img"),
            ("a\\b.img", "a_b", "a_b.img"),
            ("..", "image", "image"),
            ("", "image", "image"),
            (".img", ".img", ".img"),
        ] {
            assert_eq!(entry_names(label), (folder.to_owned(), name.to_owned()), "{label}");
        }
    }
}
