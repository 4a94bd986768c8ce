//! Errors of the file-system service: a status, and one JSON string under `text/plain`.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tonic::{Code, Status};

use super::TEXT;
use crate::problem::is_internal;

/// An error answer.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: Cow<'static, str>,
}

impl Refusal {
    /// 400 with one of the service's literals.
    pub(super) fn bad_request(text: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.into() }
    }

    /// 404 with one of the service's literals.
    pub(super) fn not_found(text: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::NOT_FOUND, text: text.into() }
    }

    /// 500 with one of the service's literals.
    pub(super) fn failed(text: &'static str) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.into() }
    }

    /// A refusal by the web layer rather than by the service.
    pub(crate) fn plain(status: StatusCode) -> Self {
        Self { status, text: status.canonical_reason().unwrap_or_default().into() }
    }

    /// What callers without a right get: no legacy answer that they could take for the service's own.
    pub(super) fn of_denied(status: &Status) -> Option<Self> {
        match status.code() {
            Code::Unauthenticated => Some(Self::plain(StatusCode::UNAUTHORIZED)),
            Code::PermissionDenied => Some(Self::plain(StatusCode::FORBIDDEN)),
            _ => None,
        }
    }

    /// A failure of the server, as `legacy` where the caller has the right to the call.
    pub(super) fn of_failure(status: &Status, legacy: Self) -> Self {
        Self::of_denied(status).unwrap_or_else(|| {
            let code = status.code();
            // Clients are wrong all the time; the server should not be.
            if is_internal(code) {
                tracing::warn!(?code, answer = %legacy.text, "a call of the file-system service failed");
            }
            legacy
        })
    }

    /// The answer to a method that a path does not have: no JSON, alone of all.
    pub(crate) fn wrong_method() -> Response {
        (StatusCode::METHOD_NOT_ALLOWED, [(header::CONTENT_TYPE, TEXT)], "Method Not Allowed\n")
            .into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Value::from(self.text).to_string();
        let mut response = (self.status, [(header::CONTENT_TYPE, TEXT)], body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errors_are_one_json_string_under_plain_text() {
        let response = Refusal::not_found("there is no \"x\"").into_response();
        assert_eq!((response.status().as_u16(), &response.headers()[header::CONTENT_TYPE]), (404, &TEXT));
        let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        assert_eq!(body, r#""there is no \"x\"""#);
    }

    #[test]
    fn callers_without_a_right_get_no_literal() {
        let legacy = Refusal::failed("x");
        for (status, want) in [
            (Status::unauthenticated(""), 401),
            (Status::permission_denied(""), 403),
            (Status::internal(""), 500),
        ] {
            assert_eq!(Refusal::of_failure(&status, legacy.clone()).into_response().status(), want);
        }
    }
}
