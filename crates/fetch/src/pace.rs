//! The minimum rate of a source, over all the answers that a stretch takes.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::limits::Limits;

/// Counts what comes while somebody waits for it: a source is not blamed for our own slowness. A wait for a connection, a
/// head or the next try is one for the source, so that none begins anew by breaking off.
pub(crate) struct Pace {
    window: Duration,
    window_bytes_min: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(crate) fn new(limits: &Limits) -> Self {
        let window_ms = u64::try_from(limits.rate_window.as_millis()).unwrap_or(u64::MAX);
        Self {
            window: limits.rate_window,
            window_bytes_min: limits.min_bytes_per_second.saturating_mul(window_ms) / 1_000,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Waits for the source, no longer than it has time.
    pub(crate) async fn wait<T>(&mut self, awaited: impl Future<Output = T>) -> Result<T> {
        let asked = Instant::now();
        let result = timeout(self.left(), awaited).await.map_err(|_| Error::TooSlow);
        self.spend(asked.elapsed());
        result
    }

    fn spend(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
    }

    /// Counts bytes that a wait ended with.
    pub(crate) fn count(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < self.window {
            return Ok(());
        }
        let is_slow = self.bytes < self.window_bytes_min;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        if is_slow { Err(Error::TooSlow) } else { Ok(()) }
    }

    /// Time without a byte that ends it: the rest of the window, or a whole one where enough came in this.
    fn left(&self) -> Duration {
        if self.bytes < self.window_bytes_min { self.window.saturating_sub(self.waited) } else { self.window }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits, and what each of them ended with.
    fn after(pace: &mut Pace, waits: u32, bytes: u64) -> Result<()> {
        for _ in 0..waits {
            pace.spend(SECOND);
            pace.count(bytes)?;
        }
        Ok(())
    }

    #[test]
    fn sec_36_a_trickle_is_noticed_after_one_window() {
        let limits = Limits::default();
        let mut pace = Pace::new(&limits);
        assert_eq!(after(&mut pace, 59, 1), Ok(()));
        assert_eq!(pace.left(), SECOND);
        assert_eq!(after(&mut pace, 1, 1), Err(Error::TooSlow));
        let mut pace = Pace::new(&limits);
        assert_eq!(after(&mut pace, 600, 64 << 10), Ok(()));
        // What we do not wait for costs nothing.
        assert_eq!(pace.count(0), Ok(()));
    }

    #[test]
    fn who_brought_enough_may_be_silent_for_a_whole_window() {
        let mut pace = Pace::new(&Limits::default());
        assert_eq!(after(&mut pace, 1, 8 << 20), Ok(()));
        assert_eq!(pace.left(), 60 * SECOND);
        assert_eq!(after(&mut pace, 59, 0), Ok(()));
        assert_eq!(pace.left(), 60 * SECOND, "a new one, with nothing in it");
        pace.spend(50 * SECOND);
        assert_eq!(pace.left(), 10 * SECOND);
    }
}
