//! The bytes of one answer.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::connection::Driver;
use crate::error::{Error, Result};
use crate::pace::Pace;

/// A body; the connection goes with it.
pub(crate) struct Body {
    incoming: Incoming,
    _driver: Driver,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, driver: Driver) -> Self {
        Self { incoming, _driver: driver }
    }

    /// The next bytes; `None` at the end. [`Error::Cut`] when the connection breaks before it.
    pub(crate) async fn next(&mut self, pace: &mut Pace) -> Result<Option<Bytes>> {
        loop {
            let frame = match pace.wait(self.incoming.frame()).await? {
                None => return Ok(None),
                Some(Err(_)) => return Err(Error::Cut),
                Some(Ok(frame)) => frame,
            };
            // Trailers say nothing that is believed.
            let data = frame.into_data().unwrap_or_default();
            pace.count(data.len() as u64)?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }
}
