//! Bodies that nobody wants any more.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use http_body_util::BodyExt as _;

/// Most bytes of such a body that are taken; a client that has more sees its connection break.
const BYTES_MAX: u64 = 1 << 30;

/// How long they are taken at most.
const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Takes what a refused client still sends, beside the answer, and drops it. Most clients look for an answer when they
/// have sent all, and would find a broken connection in its place.
///
/// It ends at these bounds, when the client is done, or when it is silent for as long as any body may be.
pub(crate) fn dismiss(mut body: Body) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(TIMEOUT, async move {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            taken += frame.data_ref().map_or(0, |data| data.len() as u64);
            if taken > BYTES_MAX {
                return;
            }
        }
    }));
}
