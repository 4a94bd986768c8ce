//! The headers of tus 1.0 (resumable uploads over HTTP).

use std::io::{self, Read};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imageops::v1::{ImageFormat, Upload, UploadMetadata, UploadState};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::images::describe;
use super::{content_type, header_text, unsupported};
use crate::problem::Problem;

/// The one version of the protocol.
const VERSION: &str = "1.0.0";
const EXTENSIONS: &str =
    "checksum,creation,creation-defer-length,creation-with-upload,expiration,termination";
/// What `Upload-Checksum` may be made with; the protocol insists on the first.
const CHECKSUM_ALGORITHMS: &str = "sha1,md5,sha256,crc32c";
/// The status that the protocol has for bytes that are not what their checksum says.
const CHECKSUM_MISMATCH: u16 = 460;
/// Content type of bytes that continue an upload.
pub(super) const OFFSET_BYTES: &str = "application/offset+octet-stream";
/// Longest `Upload-Metadata`, in bytes.
const METADATA_BYTES_MAX: usize = 8 << 10;

const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const LENGTH: &str = "Upload-Length";
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// Answer to OPTIONS: what is spoken here.
pub(super) fn capabilities() -> Response {
    let headers = [
        (RESUMABLE, VERSION),
        (HeaderName::from_static("tus-version"), VERSION),
        (HeaderName::from_static("tus-extension"), EXTENSIONS),
        (HeaderName::from_static("tus-checksum-algorithm"), CHECKSUM_ALGORITHMS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Marks an answer, errors included, as one of the protocol.
pub(super) fn marked(answer: Result<Response, Problem>) -> Response {
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    headers.insert(RESUMABLE, HeaderValue::from_static(VERSION));
    if response.status() == StatusCode::PRECONDITION_FAILED {
        response.headers_mut().insert("tus-version", HeaderValue::from_static(VERSION));
    }
    response
}

/// Refuses other versions. Requests that can be meant for the native API too may leave the header out.
pub(super) fn check_version(headers: &HeaderMap, required: bool) -> Result<(), Problem> {
    match header_text(headers, "Tus-Resumable")? {
        Some(VERSION) => Ok(()),
        None if !required => Ok(()),
        _ => {
            let detail = "Tus-Resumable must be 1.0.0";
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, "TUS_VERSION", detail))
        }
    }
}

/// A length or offset in a header.
pub(super) fn number(headers: &HeaderMap, name: &'static str) -> Result<u64, Problem> {
    let text = header_text(headers, name)?.ok_or_else(|| Problem::invalid(name, "is missing"))?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| Problem::invalid(name, "is no number of bytes"))
}

/// Refuses bodies that are not announced as the protocol asks.
pub(super) fn check_bytes(headers: &HeaderMap) -> Result<(), Problem> {
    let essence = content_type(headers).split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(OFFSET_BYTES) { Ok(()) } else { Err(unsupported(OFFSET_BYTES)) }
}

/// Refuses parts and joins of an extension that is not spoken: each part would become an image.
pub(super) fn refuse_concatenation(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key("upload-concat") {
        let detail = "is of the concatenation extension, which is not spoken here; send the whole as one upload, or \
                      parts to /v1/sessions";
        return Err(Problem::invalid("Upload-Concat", detail));
    }
    Ok(())
}

/// The length of the whole, as the creation tells it. `None`: a later request does.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    const DEFER: &str = "Upload-Defer-Length";
    match (header_text(headers, DEFER)?, told_length(headers)?) {
        (None, None) => Err(Problem::invalid(LENGTH, "is missing, and Upload-Defer-Length too")),
        (None, told) => Ok(told),
        (Some("1"), None) => Ok(None),
        (Some("1"), Some(_)) => Err(Problem::invalid(DEFER, "contradicts Upload-Length; send one of them")),
        (Some(_), _) => Err(Problem::invalid(DEFER, "has no value but 1")),
    }
}

/// The length of the whole, as a request that brings bytes tells it: once, and never less than there are.
pub(super) fn late_length(headers: &HeaderMap, upload: &Upload) -> Result<Option<u64>, Problem> {
    let told = told_length(headers)?;
    match (told, upload.size_bytes) {
        (Some(told), Some(known)) if told != known => {
            Err(Problem::invalid(LENGTH, format!("was told before: {known}; it stays that")))
        }
        (Some(told), None) if told < upload.durable_bytes => Err(Problem::invalid(
            LENGTH,
            format!("is less than the {} bytes that came", upload.durable_bytes),
        )),
        (told, known) => Ok(told.or(known)),
    }
}

fn told_length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    if !headers.contains_key("upload-length") {
        return Ok(None);
    }
    match number(headers, LENGTH)? {
        // It could never end: clients send nothing after such a creation, and nothing is no image.
        0 => Err(Problem::invalid(LENGTH, "is 0; an image has at least one byte")),
        size_bytes => Ok(Some(size_bytes)),
    }
}

/// What the bytes of one request must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checksum {
    hasher: Algorithm,
    expected: Vec<u8>,
}

/// One of [`CHECKSUM_ALGORITHMS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha1,
    Md5,
    Sha256,
    Crc32c,
}

impl Checksum {
    /// What `Upload-Checksum` says.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        const NAME: &str = "Upload-Checksum";
        let Some(text) = header_text(headers, NAME)? else { return Ok(None) };
        let (algorithm, digest) = text.split_once(' ').unwrap_or((text, ""));
        let (hasher, length) = match algorithm {
            "sha1" => (Algorithm::Sha1, 20),
            "md5" => (Algorithm::Md5, 16),
            "sha256" => (Algorithm::Sha256, 32),
            "crc32c" => (Algorithm::Crc32c, 4),
            _ => return Err(Problem::invalid(NAME, format!("is made with one of {CHECKSUM_ALGORITHMS}"))),
        };
        let expected = STANDARD.decode(digest.trim()).ok().filter(|bytes| bytes.len() == length);
        let expected = expected.ok_or_else(|| Problem::invalid(NAME, "holds no such digest in base64"))?;
        Ok(Some(Self { hasher, expected }))
    }

    /// Reads what was kept of a request; the bytes go on only when they are what was announced. To be run beside the
    /// reactor.
    pub(super) fn is_of(&self, kept: impl Read) -> io::Result<bool> {
        let found = match self.hasher {
            Algorithm::Sha1 => digest::<Sha1>(kept)?,
            Algorithm::Md5 => digest::<Md5>(kept)?,
            Algorithm::Sha256 => digest::<Sha256>(kept)?,
            Algorithm::Crc32c => {
                let mut crc = 0;
                read_all(kept, |piece| crc = crc32c::crc32c_append(crc, piece))?;
                crc.to_be_bytes().to_vec()
            }
        };
        Ok(found == self.expected)
    }

    /// The refusal of bytes that are not what was announced; none of them was kept.
    pub(super) fn mismatch() -> Problem {
        let status = StatusCode::from_u16(CHECKSUM_MISMATCH).expect("a number between 100 and 999");
        Problem::new(status, "UPLOAD_CHECKSUM", "the bytes of this request are not those of Upload-Checksum")
    }
}

fn digest<D: Digest>(kept: impl Read) -> io::Result<Vec<u8>> {
    let mut hasher = D::new();
    read_all(kept, |piece| hasher.update(piece))?;
    Ok(hasher.finalize().to_vec())
}

fn read_all(mut kept: impl Read, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut piece = vec![0; 256 << 10];
    loop {
        match kept.read(&mut piece)? {
            0 => return Ok(()),
            length => take(&piece[..length]),
        }
    }
}

/// What `Upload-Metadata` says of the image. Keys of others are passed over: clients send what they like.
pub(super) fn metadata(headers: &HeaderMap) -> Result<UploadMetadata, Problem> {
    const NAME: &str = "Upload-Metadata";
    let mut metadata = UploadMetadata::default();
    let text = header_text(headers, NAME)?.unwrap_or_default();
    if text.len() > METADATA_BYTES_MAX {
        return Err(Problem::invalid(NAME, "is too long"));
    }
    let mut seen = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if seen.contains(&key) {
            return Err(Problem::invalid(NAME, "has a key twice"));
        }
        seen.push(key);
        let value = STANDARD.decode(value.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let value = value.ok_or_else(|| Problem::invalid(NAME, "has a value that is no base64 of a text"))?;
        match key {
            "filename" | "display_name" => describe(&mut metadata, "display_name", &value)?,
            "format" | "sha512" | "sha256" | "md5" => describe(&mut metadata, key, &value)?,
            _ => {}
        }
    }
    Ok(metadata)
}

/// Where an upload goes on. One that became an image is whole, whatever was durable when the commit came.
pub(super) fn offset_bytes(upload: &Upload) -> u64 {
    match (upload.state(), upload.size_bytes) {
        (UploadState::Committed, Some(size_bytes)) => size_bytes,
        _ => upload.durable_bytes,
    }
}

/// The headers that tell how far an upload is. One that is an image counts as whole.
pub(super) fn progress(response: &mut Response, upload: &Upload) {
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, offset_bytes(upload).into());
    match upload.size_bytes {
        Some(size_bytes) => headers.insert("upload-length", size_bytes.into()),
        None => headers.insert("upload-defer-length", 1.into()),
    };
    let expire_time = upload.expire_time.and_then(|time| {
        let time = Timestamp::new(time.seconds, 0).ok()?;
        DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
    });
    if let Some(value) = expire_time.and_then(|time| HeaderValue::try_from(time).ok()) {
        headers.insert("upload-expires", value);
    }
    let metadata = known_metadata(upload);
    if let (false, Ok(metadata)) = (metadata.is_empty(), HeaderValue::try_from(metadata)) {
        headers.insert("upload-metadata", metadata);
    }
    if let (false, Ok(image)) = (upload.image.is_empty(), HeaderValue::from_str(&upload.image)) {
        headers.insert("imageops-image", image);
    }
}

/// `Upload-Metadata` as far as it was kept: what the image will be called, and its format.
fn known_metadata(upload: &Upload) -> String {
    let format = match upload.declared_format() {
        ImageFormat::Unspecified => String::new(),
        format => format.as_str_name().trim_start_matches("IMAGE_FORMAT_").to_ascii_lowercase(),
    };
    let pairs = [("filename", upload.display_name.as_str()), ("format", &format)];
    let encoded = pairs.iter().filter(|(_, value)| !value.is_empty());
    encoded.map(|(key, value)| format!("{key} {}", STANDARD.encode(value))).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn metadata_is_decoded_and_foreign_keys_are_passed_over() {
        // filename = world.img, format = qcow2
        let sent =
            headers(&[("upload-metadata", "filename d29ybGQuaW1n,is_secret, format cWNvdzI=,md5 QUI=")]);
        let metadata = metadata(&sent).unwrap();
        assert_eq!(metadata.display_name, "world.img");
        assert_eq!(metadata.declared_format(), ImageFormat::Qcow2);
        assert_eq!(metadata.expected_digests.unwrap().md5, "ab");
    }

    #[test]
    fn broken_metadata_is_refused() {
        for bad in ["filename !!", "filename /w==", "filename YQ==,filename Yg==", "format ZmxvcHB5"] {
            assert!(metadata(&headers(&[("upload-metadata", bad)])).is_err(), "{bad}");
        }
        let long = format!("x {}", "YWFh".repeat(4000));
        assert!(metadata(&headers(&[("upload-metadata", &long)])).is_err());
    }

    #[test]
    fn only_the_one_version_is_spoken() {
        check_version(&headers(&[("tus-resumable", "1.0.0")]), true).unwrap();
        check_version(&HeaderMap::new(), false).unwrap();
        for (sent, required) in [(headers(&[("tus-resumable", "0.2.2")]), false), (HeaderMap::new(), true)] {
            let response = marked(check_version(&sent, required).map(|()| StatusCode::OK.into_response()));
            assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
            assert_eq!(
                (&response.headers()["tus-version"], &response.headers()[RESUMABLE]),
                (&HeaderValue::from_static("1.0.0"), &HeaderValue::from_static("1.0.0"))
            );
        }
    }

    #[test]
    fn checksums_are_compared_with_the_bytes() {
        for (sent, right) in [
            ("sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", true),
            ("md5 kAFQmDzST7DWlj99KOF/cg==", true),
            ("sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", true),
            ("crc32c Nks/tw==", true),
            ("sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", false),
        ] {
            let checksum = Checksum::of(&headers(&[("upload-checksum", sent)])).unwrap().unwrap();
            assert_eq!(checksum.is_of(b"abc".as_slice()).unwrap(), right, "{sent}");
        }
        assert_eq!(Checksum::of(&HeaderMap::new()).unwrap(), None);
        for bad in ["", "sha1", "sha1 !", "sha1 AAAA", "SHA1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", "sha512 AAAA"] {
            assert!(Checksum::of(&headers(&[("upload-checksum", bad)])).is_err(), "{bad}");
        }
        assert_eq!(Checksum::mismatch().status().as_u16(), 460);
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        for (text, want) in
            [("0", Some(0)), ("536870912000", Some(536_870_912_000)), ("+1", None), ("-1", None)]
        {
            assert_eq!(number(&headers(&[("upload-offset", text)]), "upload-offset").ok(), want, "{text}");
        }
        for text in ["", "1e3", "99999999999999999999", "0x10"] {
            assert!(number(&headers(&[("upload-offset", text)]), "upload-offset").is_err(), "{text}");
        }
    }

    #[test]
    fn progress_stands_in_the_headers() {
        let upload = Upload {
            durable_bytes: 3,
            size_bytes: Some(5),
            image: "images/x".to_owned(),
            display_name: "world.img".to_owned(),
            declared_format: ImageFormat::Qcow2.into(),
            ..Upload::default()
        };
        let mut response = StatusCode::OK.into_response();
        progress(&mut response, &upload);
        assert_eq!(response.headers()[UPLOAD_OFFSET], "3");
        assert_eq!(response.headers()["upload-length"], "5");
        assert_eq!(response.headers()["imageops-image"], "images/x");
        assert_eq!(response.headers()["upload-metadata"], "filename d29ybGQuaW1n,format cWNvdzI=");
        let mut response = StatusCode::OK.into_response();
        progress(&mut response, &Upload::default());
        assert_eq!(response.headers()["upload-defer-length"], "1");
    }
}
