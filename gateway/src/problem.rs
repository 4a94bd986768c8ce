//! Errors of the native API: `application/problem+json` (RFC 9457).

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use imageops_client::code_name;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::call;

/// Where the reasons are explained; the reason in lower case is the anchor.
const REASONS_URL: &str = "https://github.com/imageops/imageops/blob/main/docs/errors.md";

/// When to come back to a server that is away and so cannot say it: it starts in less.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// One member of a request that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation {
    field: String,
    description: String,
}

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    reason: String,
    detail: String,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    durable_bytes: Option<u64>,
}

impl Problem {
    /// A refusal by the gateway itself.
    pub(crate) fn new(status: StatusCode, reason: &str, detail: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.to_owned(),
            detail: detail.into(),
            violations: Vec::new(),
            retry_after: None,
            durable_bytes: None,
        }
    }

    /// A member, parameter or header of the request that cannot be used.
    pub(crate) fn invalid(field: &str, description: impl Into<String>) -> Self {
        let description = description.into();
        let mut problem =
            Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", format!("{field}: {description}"));
        problem.violations.push(Violation { field: field.to_owned(), description });
        problem
    }

    /// A path or thing that is not there.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "nothing is here")
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable reason.
    #[cfg(test)]
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// The body.
    pub(crate) fn to_json(&self) -> Value {
        let mut body = json!({
            "type": format!("{REASONS_URL}#{}", self.reason.to_ascii_lowercase()),
            // 460 is the one status of ours that HTTP does not know.
            "title": self.status.canonical_reason().unwrap_or("Checksum Mismatch"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        if !self.violations.is_empty() {
            let fields = self.violations.iter();
            body["violations"] = fields
                .map(|violation| json!({"field": violation.field, "description": violation.description}))
                .collect();
        }
        if let Some(durable_bytes) = self.durable_bytes {
            body["durable_bytes"] = durable_bytes.to_string().into();
        }
        body
    }
}

impl From<Status> for Problem {
    fn from(mut status: Status) -> Self {
        if call::is_broken(&status) {
            tracing::warn!(code = ?status.code(), message = status.message(), "the server went away");
            status = Status::unavailable("the server went away");
        }
        let info = status.get_details_error_info();
        let reason = match &info {
            Some(info) if !info.reason.is_empty() => info.reason.clone(),
            _ => reason_of(status.code()).to_owned(),
        };
        let http = http_status(status.code(), &reason);
        // What is away the server tells of itself, in a sentence that is made for clients; others tell of connections.
        let is_told = info.is_some() && status.code() == Code::Unavailable;
        let detail = if is_internal(status.code()) && !is_told {
            // What went wrong inside is for the log alone.
            tracing::error!(code = ?status.code(), message = status.message(), "the server failed");
            "the server could not do this; its log tells more under the request id".to_owned()
        } else {
            status.message().to_owned()
        };
        let violations = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
        Self {
            status: http,
            reason,
            detail,
            violations: violations
                .into_iter()
                .map(|violation| Violation { field: violation.field, description: violation.description })
                .collect(),
            retry_after: status
                .get_details_retry_info()
                .and_then(|retry| retry.retry_delay)
                .or_else(|| (http == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER)),
            durable_bytes: info.and_then(|info| info.metadata.get("durable_bytes")?.parse().ok()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(delay) = self.retry_after {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The HTTP status of a gRPC code. A few reasons have a status that says more than their code's.
fn http_status(code: Code, reason: &str) -> StatusCode {
    match reason {
        "INVALID_ARGUMENT" | "INVALID_OUTPUT_FILE" => {}
        "NO_SPACE" => return StatusCode::INSUFFICIENT_STORAGE,
        // As tus answers an offset that is not the server's.
        "WRONG_OFFSET" => return StatusCode::CONFLICT,
        "STALE_ETAG" => return StatusCode::PRECONDITION_FAILED,
        "TOO_LARGE" => return StatusCode::PAYLOAD_TOO_LARGE,
        "RANGE_NOT_SATISFIABLE" => return StatusCode::RANGE_NOT_SATISFIABLE,
        "DIGEST_MISMATCH" | "SIZE_MISMATCH" => return StatusCode::UNPROCESSABLE_ENTITY,
        reason if reason.starts_with("UNSUPPORTED_") => return StatusCode::UNSUPPORTED_MEDIA_TYPE,
        // The inspector's: the request is well made, the image in it is not.
        reason if ["UNSAFE_", "INVALID_", "CORRUPT_"].iter().any(|verdict| reason.starts_with(verdict)) => {
            return StatusCode::UNPROCESSABLE_ENTITY;
        }
        _ => {}
    }
    match code {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable | Code::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether the message of such an error may tell of the server's inside.
pub(crate) fn is_internal(code: Code) -> bool {
    matches!(code, Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unavailable)
}

/// The reason of an error that carries none.
fn reason_of(code: Code) -> &'static str {
    // A status that is no error is none that a server sends as one.
    code_name(if code == Code::Ok { Code::Unknown } else { code })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn every_code_has_a_status_and_a_name() {
        for number in 0..=16 {
            let code = Code::from_i32(number);
            let problem = Problem::from(Status::new(code, "text"));
            assert!(problem.status.is_client_error() || problem.status.is_server_error(), "{code:?}");
            assert!(!problem.reason.is_empty(), "{code:?}");
            assert_eq!(problem.detail == "text", !is_internal(code), "{code:?}");
        }
        assert_eq!(Problem::from(Status::already_exists("x")).status, StatusCode::CONFLICT);
    }

    #[test]
    fn reasons_that_say_more_win_over_the_code() {
        for (reason, status) in [
            ("NO_SPACE", 507),
            ("UNSUPPORTED_FORMAT", 415),
            ("INVALID_MAGIC", 422),
            ("INVALID_ARGUMENT", 400),
        ] {
            assert_eq!(http_status(Code::InvalidArgument, reason).as_u16(), status);
        }
    }

    #[test]
    fn details_become_members_and_headers() {
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("durable_bytes".to_owned(), "42".to_owned())]);
        details.set_error_info("QUEUE_FULL", "imageops", metadata);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        details.set_bad_request(vec![FieldViolation::new("source", "is missing")]);
        let status = Status::with_error_details(Code::ResourceExhausted, "the queue is full", details);
        let problem = Problem::from(status);
        assert_eq!(
            problem.to_json(),
            json!({
                "type": format!("{REASONS_URL}#queue_full"),
                "title": "Too Many Requests",
                "status": 429,
                "detail": "the queue is full",
                "reason": "QUEUE_FULL",
                "violations": [{"field": "source", "description": "is missing"}],
                "durable_bytes": "42",
            })
        );
        let response = problem.into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn texts_of_the_inside_stay_inside() {
        let details = ErrorDetails::with_error_info("INTERNAL", "imageops", HashMap::new());
        for status in [
            Status::internal("open /srv/images/x: permission denied"),
            Status::unavailable("connect to /srv/images/socket: refused"),
            Status::with_error_details(Code::Internal, "open /srv/images/x: permission denied", details),
        ] {
            assert!(!Problem::from(status).to_json().to_string().contains("/srv"));
        }
    }

    #[test]
    fn a_connection_that_breaks_is_no_fault_of_the_server() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_ne!(broken.code(), Code::Unavailable, "the test would show nothing");
        let problem = Problem::from(broken);
        assert_eq!((problem.status.as_u16(), problem.reason.as_str()), (503, "UNAVAILABLE"));
        assert_eq!(problem.into_response().headers()[header::RETRY_AFTER], "2");
        let faulty = Problem::from(Status::internal("x"));
        assert_eq!((faulty.status.as_u16(), faulty.retry_after), (500, None));
    }

    #[test]
    fn what_is_away_is_told_in_the_servers_words() {
        let details = ErrorDetails::with_error_info("STORE_DISCONNECTED", "imageops", HashMap::new());
        let text = "the store cannot be reached now; try again";
        let problem = Problem::from(Status::with_error_details(Code::Unavailable, text, details));
        assert_eq!((problem.status.as_u16(), problem.detail.as_str()), (503, text));
    }
}
