//! The bytes of one answer, at a minimum rate.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::connection::Driver;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// A body; the connection goes with it.
pub(crate) struct Body {
    incoming: Incoming,
    pace: Pace,
    _driver: Driver,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, driver: Driver, limits: &Limits) -> Self {
        Self { incoming, pace: Pace::new(limits), _driver: driver }
    }

    /// The next bytes; `None` at the end. [`Error::Cut`] when the connection breaks before it.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let asked = Instant::now();
            let frame = match timeout(self.pace.window, self.incoming.frame()).await {
                Err(_) => return Err(Error::TooSlow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(Error::Cut),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers say nothing that is believed.
            let data = frame.into_data().unwrap_or_default();
            self.pace.count(data.len() as u64, asked.elapsed())?;
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }
}

/// Counts what comes while somebody waits for it: a source is not blamed for our own slowness.
struct Pace {
    window: Duration,
    window_bytes_min: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(limits: &Limits) -> Self {
        let window_ms = u64::try_from(limits.rate_window.as_millis()).unwrap_or(u64::MAX);
        Self {
            window: limits.rate_window,
            window_bytes_min: limits.min_bytes_per_second.saturating_mul(window_ms) / 1_000,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    fn count(&mut self, bytes: u64, waited: Duration) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return Ok(());
        }
        let is_slow = self.bytes < self.window_bytes_min;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        if is_slow { Err(Error::TooSlow) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_36_a_trickle_is_noticed_after_one_window() {
        let limits = Limits::default();
        let mut pace = Pace::new(&limits);
        for _ in 0..59 {
            assert_eq!(pace.count(1, Duration::from_secs(1)), Ok(()));
        }
        assert_eq!(pace.count(1, Duration::from_secs(1)), Err(Error::TooSlow));
        let mut pace = Pace::new(&limits);
        for _ in 0..600 {
            assert_eq!(pace.count(64 << 10, Duration::from_secs(1)), Ok(()));
        }
        // What we do not wait for costs nothing.
        assert_eq!(pace.count(0, Duration::ZERO), Ok(()));
    }
}
