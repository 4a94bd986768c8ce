//! The headers of tus 1.0 (resumable uploads over HTTP).

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imageops::v1::{Upload, UploadMetadata, UploadState};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::images::describe;
use super::{content_type, header_text, unsupported};
use crate::problem::Problem;

/// The one version of the protocol.
const VERSION: &str = "1.0.0";
const EXTENSIONS: &str = "creation,creation-with-upload,expiration,termination";
/// Content type of bytes that continue an upload.
pub(super) const OFFSET_BYTES: &str = "application/offset+octet-stream";
/// Longest `Upload-Metadata`, in bytes.
const METADATA_BYTES_MAX: usize = 8 << 10;

const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// Answer to OPTIONS: what is spoken here.
pub(super) fn capabilities() -> Response {
    let headers = [
        (RESUMABLE, VERSION),
        (HeaderName::from_static("tus-version"), VERSION),
        (HeaderName::from_static("tus-extension"), EXTENSIONS),
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
            "format" | "sha256" | "md5" => describe(&mut metadata, key, &value)?,
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
    if let (false, Ok(image)) = (upload.image.is_empty(), HeaderValue::from_str(&upload.image)) {
        headers.insert("imageops-image", image);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::ImageFormat;

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
            ..Upload::default()
        };
        let mut response = StatusCode::OK.into_response();
        progress(&mut response, &upload);
        assert_eq!(response.headers()[UPLOAD_OFFSET], "3");
        assert_eq!(response.headers()["upload-length"], "5");
        assert_eq!(response.headers()["imageops-image"], "images/x");
        let mut response = StatusCode::OK.into_response();
        progress(&mut response, &Upload::default());
        assert_eq!(response.headers()["upload-defer-length"], "1");
    }
}
