//! One request, through its redirects, to an answer that brings bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HOST,
    IF_RANGE, LOCATION, RANGE, TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use rustls::ClientConfig;
use tokio::time::timeout;
use url::Url;

use crate::body::Body;
use crate::connection::{Connection, connect};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::limits::Limits;

const AGENT: &str = concat!("imageops/", env!("CARGO_PKG_VERSION"));

/// All that requests are made with.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) gate: Gate,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) limits: Limits,
}

/// The bytes of a file that are asked for: those of the version with this tag.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) bytes: Range<u64>,
    pub(crate) total_bytes: u64,
    pub(crate) etag: String,
}

/// An answer with bytes.
pub(crate) struct Answer {
    /// Length of the whole file, when the source told.
    pub(crate) total_bytes: Option<u64>,
    /// Strong validator of the file.
    pub(crate) etag: Option<String>,
    /// Whether the source says that it serves ranges.
    pub(crate) has_ranges: bool,
    pub(crate) body: Body,
}

impl Client {
    /// Asks for a file, or a part of it. Each redirect goes through the gate.
    pub(crate) async fn get(&self, url: &Url, wanted: Option<&Wanted>) -> Result<Answer> {
        let mut url = url.clone();
        for _ in 0..=self.limits.redirects_max {
            let target = self.gate.admit(&url, self.limits.connect).await?;
            let Connection { mut sender, driver } = connect(&target, &self.tls, self.limits.connect).await?;
            let request = request(&target.url, wanted)?;
            let response = match timeout(self.limits.first_byte, sender.send_request(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(_)) | Err(_) => return Err(Error::Unreachable),
            };
            if !is_redirect(response.status()) {
                return Self::read(response, wanted, |body| Body::new(body, driver));
            }
            let location = text(response.headers(), &LOCATION)
                .ok_or(Error::Invalid("the source redirects to nowhere"))?;
            url = self.gate.read_redirect(&target.url, location)?;
        }
        Err(Error::Invalid("the source redirects too often"))
    }

    /// Judges the head of an answer.
    fn read(
        response: Response<Incoming>,
        wanted: Option<&Wanted>,
        body: impl FnOnce(Incoming) -> Body,
    ) -> Result<Answer> {
        let (head, incoming) = response.into_parts();
        match (head.status, wanted) {
            (StatusCode::OK, None) | (StatusCode::PARTIAL_CONTENT, Some(_)) => {}
            // The whole instead of a part: of another file, or from a source that cannot do better.
            (StatusCode::OK, Some(wanted)) => {
                let is_same = strong_tag(&head.headers).is_some_and(|etag| etag == wanted.etag);
                return Err(if is_same { Error::Cut } else { Error::Changed });
            }
            (StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PRECONDITION_FAILED, Some(_)) => {
                return Err(Error::Changed);
            }
            (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => {
                return Err(Error::Unreachable);
            }
            (status, _) if status.is_server_error() => return Err(Error::Unreachable),
            _ => return Err(Error::Refused),
        }
        let is_identity = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
        if !head.headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
            return Err(Error::Invalid("the source packs its answer, which was not asked for"));
        }
        // Of the two the body has that of its pieces (RFC 9112, 6.3): the other one would cut it short.
        if head.headers.contains_key(TRANSFER_ENCODING) && head.headers.contains_key(CONTENT_LENGTH) {
            return Err(Error::Invalid("the source tells the length of its answer in two ways"));
        }
        let length = match head.headers.get(CONTENT_LENGTH) {
            Some(_) => Some(
                text(&head.headers, &CONTENT_LENGTH)
                    .and_then(|text| text.parse::<u64>().ok())
                    .ok_or(Error::Invalid("the length of the answer is no number"))?,
            ),
            None => None,
        };
        let etag = strong_tag(&head.headers).map(str::to_owned);
        let total_bytes = match wanted {
            None => length,
            Some(wanted) => {
                check_range(&head.headers, wanted, length)?;
                Some(wanted.total_bytes)
            }
        };
        // A part has the tag of its whole (RFC 9110, 15.3.7): one without it, or with a weak one, may be of another file.
        if wanted.is_some_and(|wanted| etag.as_ref() != Some(&wanted.etag)) {
            return Err(Error::Changed);
        }
        let has_ranges =
            text(&head.headers, &ACCEPT_RANGES).is_some_and(|unit| unit.eq_ignore_ascii_case("bytes"));
        Ok(Answer { total_bytes, etag, has_ranges, body: body(incoming) })
    }
}

fn request(url: &Url, wanted: Option<&Wanted>) -> Result<Request<Empty<Bytes>>> {
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(Error::Unreachable),
    };
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(ACCEPT_ENCODING, "identity");
    if let Some(Wanted { bytes, etag, .. }) = wanted {
        let last = bytes.end.saturating_sub(1);
        request = request.header(RANGE, format!("bytes={}-{last}", bytes.start)).header(IF_RANGE, etag);
    }
    request.body(Empty::new()).map_err(|_| Error::Denied("this is no URL"))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// A header that may be there once.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A tag that stands for bytes, and not for what means the same.
fn strong_tag(headers: &HeaderMap) -> Option<&str> {
    text(headers, &ETAG).filter(|tag| tag.starts_with('"') && tag.len() > 2 && tag.ends_with('"'))
}

/// Whether the part that comes is the one that was asked for.
fn check_range(headers: &HeaderMap, wanted: &Wanted, length: Option<u64>) -> Result<()> {
    let wrong = Error::Invalid("the source sends another range than it was asked for");
    let range = text(headers, &CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes ")).ok_or(wrong)?;
    let (range, total) = range.split_once('/').ok_or(wrong)?;
    let (first, last) = range.split_once('-').ok_or(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong);
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    if total != wanted.total_bytes {
        return Err(Error::Changed);
    }
    let count = wanted.bytes.end.checked_sub(wanted.bytes.start).ok_or(wrong)?;
    let is_it = first == wanted.bytes.start && last.checked_add(1) == Some(wanted.bytes.end);
    if is_it && length.is_none_or(|length| length == count) { Ok(()) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn sec_36_a_range_is_what_was_asked_for_or_nothing() {
        let wanted = Wanted { bytes: 10..20, total_bytes: 100, etag: "\"a\"".to_owned() };
        let check = |range: &str, length| {
            let headers = HeaderMap::from_iter([(CONTENT_RANGE, range.parse().unwrap())]);
            check_range(&headers, &wanted, length)
        };
        assert_eq!(check("bytes 10-19/100", Some(10)), Ok(()));
        assert_eq!(check("bytes 10-19/100", None), Ok(()));
        assert_eq!(check("bytes 10-19/101", Some(10)), Err(Error::Changed));
        for bad in ["bytes 0-9/100", "bytes 10-29/100", "bytes 10-18/100", "bytes 10-19/*", "10-19/100", ""] {
            assert!(check(bad, Some(10)).is_err(), "{bad}");
        }
        assert!(check("bytes 10-19/100", Some(11)).is_err());
        assert!(check_range(&HeaderMap::new(), &wanted, Some(10)).is_err());
    }

    #[test]
    fn only_strong_tags_stand_for_bytes() {
        let tag = |text: &str| {
            strong_tag(&HeaderMap::from_iter([(ETAG, text.parse().unwrap())])).map(str::to_owned)
        };
        assert_eq!(tag("\"a\"").as_deref(), Some("\"a\""));
        for weak in ["W/\"a\"", "a", "\"\"", "\""] {
            assert_eq!(tag(weak), None, "{weak}");
        }
    }
}
