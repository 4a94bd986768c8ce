//! The HTTP client below the object store's: no proxy from the environment, no redirects, a time limit for each attempt,
//! and a circuit breaker that sees all of them.
//!
//! Whatever is sent here may be sent again: a key belongs to one upload, and what a put or a completion came to is proven
//! afterwards. The client above knows that of some requests alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{Method, StatusCode};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use tokio::time::timeout;

use super::breaker::Breaker;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until the answer begins, for a request without a body; most operations have to be tried several times in their limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Completing an upload of many parts: the server may copy them.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a request's body that must get through in a second.
const BYTES_PER_SECOND_MIN: u64 = 512 << 10;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Connector {
    breaker: Arc<Breaker>,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_only()
            .build()
            .map_err(|source| object_store::Error::Generic { store: "S3", source: Box::new(source) })?;
        Ok(HttpClient::new(Guarded { client: HttpClient::new(client), breaker: Arc::clone(&self.breaker) }))
    }
}

#[derive(Debug)]
struct Guarded {
    client: HttpClient,
    breaker: Arc<Breaker>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the object store does not answer")]
    Timeout,
    #[error("the object store has failed for a while and is not asked now")]
    Open,
}

#[async_trait]
impl HttpService for Guarded {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Some(attempt) = self.breaker.admit(Instant::now()) else {
            // Of a kind that is not tried again.
            return Err(HttpError::new(HttpErrorKind::Unknown, Refusal::Open));
        };
        let limit = answer_limit(&request);
        let answer = timeout(limit, self.client.execute(request))
            .await
            .unwrap_or_else(|_| Err(HttpError::new(HttpErrorKind::Timeout, Refusal::Timeout)));
        let is_success = answer.as_ref().is_ok_and(|answer| !is_outage(answer.status()));
        attempt.ended(is_success, Instant::now());
        answer.map_err(sendable_again)
    }
}

/// The error of a request whose fate is not known, as one that is tried again whatever the request was.
fn sendable_again(error: HttpError) -> HttpError {
    match error.kind() {
        HttpErrorKind::Timeout | HttpErrorKind::Interrupted => HttpError::new(HttpErrorKind::Request, error),
        _ => error,
    }
}

fn answer_limit(request: &HttpRequest) -> Duration {
    let body_bytes = request.body().content_length() as u64;
    let names_upload = request.uri().query().is_some_and(|query| query.contains("uploadId="));
    let is_completion = request.method() == Method::POST && names_upload;
    let base = if is_completion { COMPLETION_TIMEOUT } else { ANSWER_TIMEOUT };
    base + Duration::from_secs(body_bytes / BYTES_PER_SECOND_MIN)
}

/// Whether an answer says that the server cannot serve at all, and not what it thinks of the request.
fn is_outage(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}
