//! The bytes of one request of tus.

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;

use super::images::next;
use super::tus::Checksum;
use crate::call;
use crate::intake::require_writer;
use crate::problem::Problem;
use crate::router::Gateway;
use crate::spool;

/// The bytes of a request.
pub(super) enum Incoming<'a> {
    /// There are none.
    None,
    /// As they come.
    Passing(&'a mut Body),
    /// Whole, and compared with their checksum: bytes that are durable cannot be taken back.
    Kept(spool::Reader),
}

impl<'a> Incoming<'a> {
    /// Those of `body`; with a checksum at most `left_bytes` of them are kept first.
    pub(super) async fn of(
        gateway: &Gateway,
        headers: &HeaderMap,
        body: &'a mut Body,
        left_bytes: u64,
    ) -> Result<Self, Problem> {
        let Some(checksum) = Checksum::of(headers)? else { return Ok(Self::Passing(body)) };
        let limit = gateway.config.limits.call_timeout;
        require_writer(&gateway.connection, limit, call::request(headers, ())).await?;
        let mut spool = gateway.spools.open().await.map_err(not_kept)?;
        while let Some(data) = next(body).await? {
            spool.write(&data).await.map_err(not_kept)?;
            if spool.length_bytes() > left_bytes {
                let detail = format!("the upload takes {left_bytes} bytes more");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_MISMATCH", detail));
            }
        }
        let (right, spool) = spool.examined(move |kept| checksum.is_of(kept)).await.map_err(not_kept)?;
        if right {
            Ok(Self::Kept(spool.into_reader().await.map_err(not_kept)?))
        } else {
            Err(Checksum::mismatch())
        }
    }

    /// The next of them. `None`: there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self {
            Self::None => Ok(None),
            Self::Passing(body) => next(body).await,
            Self::Kept(kept) => kept.next().await.map_err(not_kept),
        }
    }
}

/// Bytes that could not wait for their checksum.
fn not_kept(error: io::Error) -> Problem {
    tracing::warn!(%error, "the bytes of a request could not be kept for their checksum");
    let detail = "there is no room to compare these bytes with their checksum; send less at a time";
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "NO_SPACE", detail)
}
