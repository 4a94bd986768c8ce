//! Calls of the server on behalf of an HTTP request.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use imageops::v1::images_client::ImagesClient;
use imageops_client::Connection;
use imageops_tls::Peer;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Response, Status};

/// Name of the header that ties log lines of gateway and server, and the caller's, to one request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Name under which a server in the same process is told who is at the other end. What clients send under it ends at the
/// router; a server elsewhere does not look at it.
const PEER: HeaderName = HeaderName::from_static("imageops-peer");

/// Headers that go on to the server as metadata. Everything else ends here.
const PASSED_ON: [&str; 5] = ["authorization", "x-request-id", "traceparent", "tracestate", "imageops-peer"];

/// Largest answer that is taken where an answer holds many records: 1,000 jobs, or images, with their results.
const LIST_BYTES_MAX: usize = 64 << 20;

/// The generated stub.
pub(crate) type Stub = imageops::v1::image_ops_client::ImageOpsClient<Connection>;

/// The stub for answers that hold many records.
pub(crate) fn list_stub(connection: &Connection) -> Stub {
    connection.stub().max_decoding_message_size(LIST_BYTES_MAX)
}

/// The stub of the records of images for answers that hold many of them.
pub(crate) fn images_list_stub(connection: &Connection) -> ImagesClient<Connection> {
    connection.images().max_decoding_message_size(LIST_BYTES_MAX)
}

/// Puts who is at the other end in place of what the client may have claimed.
pub(crate) fn name_peer(headers: &mut HeaderMap, peer: Option<&Peer>) {
    headers.remove(PEER);
    if let Some(peer) = peer.and_then(|peer| HeaderValue::try_from(peer.to_string()).ok()) {
        headers.insert(PEER, peer);
    }
}

/// `message` with those headers of the HTTP request that the server must see.
pub(crate) fn request<T>(headers: &HeaderMap, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for name in PASSED_ON {
        let Some(value) = headers.get(name) else { continue };
        let Ok(mut value) = AsciiMetadataValue::try_from(value.as_bytes()) else { continue };
        value.set_sensitive(name == header::AUTHORIZATION.as_str());
        request.metadata_mut().insert(name, value);
    }
    request
}

/// The answer of a call, or DEADLINE_EXCEEDED when it does not come in time.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    response_within(limit, call).await.map(Response::into_inner)
}

/// The same with what comes beside the answer.
pub(crate) async fn response_within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<Response<T>, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("the server did not answer in time")),
    }
}

/// Whether the way to the server broke. What the server says comes over the wire and has no source; an error of the
/// connection stands there, under whatever code.
pub(crate) fn is_broken(status: &Status) -> bool {
    let by_connection = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
    by_connection && status.source().is_some()
}

/// The stable reason of an error, where it carries one.
pub(crate) fn reason(status: &Status) -> Option<String> {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason)
}
