//! What the head of a request says of its body and its host, where not heeding it would store other bytes than were meant.

use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, StatusCode, Version, header};

use crate::problem::Problem;

/// Why a request cannot be taken as it was meant.
///
/// A range would become a whole image (RFC 9110, 14.5), coded bytes would be stored as they are (8.4), and of two hosts
/// a proxy before us may have gone by the other one (RFC 9112, 3.2).
pub(crate) fn refusal(request: &Request) -> Option<Problem> {
    let headers = request.headers();
    if request.version() == Version::HTTP_11 && headers.get_all(header::HOST).iter().count() != 1 {
        return Some(Problem::invalid("Host", "must be there once"));
    }
    if request.body().is_end_stream() {
        return None;
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        let description =
            "is not taken: send the whole, a part of a session, or a tus PATCH with Upload-Offset";
        return Some(Problem::invalid("Content-Range", description));
    }
    if has_other(headers, header::CONTENT_ENCODING, "identity") {
        let detail = "Content-Encoding: bodies are taken as they are; unpack them before, or say archive=… if the \
                      image lies in one";
        return Some(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", detail));
    }
    if has_other(headers, header::TRANSFER_ENCODING, "chunked") {
        let detail = "Transfer-Encoding: only chunked is known here";
        return Some(Problem::new(StatusCode::NOT_IMPLEMENTED, "UNIMPLEMENTED", detail));
    }
    None
}

/// Whether the list in a header has anything else than `known`.
fn has_other(headers: &HeaderMap, name: HeaderName, known: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let list = value.to_str().unwrap_or("?");
        list.split(',').map(str::trim).any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(known))
    })
}
