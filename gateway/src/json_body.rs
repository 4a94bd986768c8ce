//! Bodies that must be there whole before anything is done with them.

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use imageops::v1::GetUploadRequest;
use tonic::{Code, Status};

use crate::call;
use crate::router::Gateway;
use crate::v1::content_length;

/// So much is kept for anyone; more for callers that the server knows (SEC-37).
const UNKNOWN_BYTES_MAX: usize = 16 << 10;

/// Why a body is not there.
pub(crate) enum Missing {
    /// It is longer than [`crate::Limits::json_body_bytes_max`].
    TooLong,
    /// Its client went silent, too slow or away.
    Broken,
    /// The server does not know who sends it, or cannot say.
    Refused(Status),
}

/// The whole of a body.
pub(crate) async fn collect(
    gateway: &Gateway,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Bytes, Missing> {
    let bytes_max = gateway.config.limits.json_body_bytes_max;
    if content_length(headers).is_some_and(|length| length > bytes_max as u64) {
        return Err(Missing::TooLong);
    }
    let (mut bytes, mut is_known) = (BytesMut::new(), false);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Missing::Broken)?.into_data() else { continue };
        if bytes.len() + data.len() > bytes_max {
            return Err(Missing::TooLong);
        }
        if !is_known && bytes.len() + data.len() > UNKNOWN_BYTES_MAX {
            require_known(gateway, headers).await?;
            is_known = true;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

async fn require_known(gateway: &Gateway, headers: &HeaderMap) -> Result<(), Missing> {
    let mut stub = gateway.connection.stub();
    // Of nothing: who asks is looked at first. It changes nothing, so nothing is recorded of who is known.
    let asked = stub.get_upload(call::request(headers, GetUploadRequest::default()));
    match call::within(gateway.config.limits.call_timeout, asked).await {
        // What they may do the call itself finds out.
        Err(status) if !matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied) => {
            Err(Missing::Refused(status))
        }
        _ => Ok(()),
    }
}
