//! How often and how patiently a failed call is made again.

use std::time::Duration;

use crate::error::{Error, Result};

/// Bounds of the attempts at one thing. Attempts are counted anew whenever something was achieved in between: an upload
/// whose durable bytes grew, a watch that brought news.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1.
    pub attempts_max: u32,
    /// Pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 8, first_pause: Duration::from_millis(200), pause_max: Duration::from_secs(10) }
    }
}

impl RetryPolicy {
    /// The pause after `failures` failures: doubling, at least what the server asked for, and by chance up to half as
    /// short, so that clients cut off together do not come back together.
    fn pause(&self, failures: u32, chance: u16) -> Duration {
        let doubled = self
            .first_pause
            .saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = doubled.min(self.pause_max);
        full / 2 + full / 2 * u32::from(chance) / u32::from(u16::MAX)
    }
}

/// The failures of one thing so far.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(policy: &'a RetryPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Goes on counting where an earlier count stood.
    pub(crate) fn with_failures(policy: &'a RetryPolicy, failures: u32) -> Self {
        Self { policy, failures }
    }

    /// Failures since something was achieved.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Something was achieved: all attempts are free again.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Pauses before the next attempt, or gives `error` back when it is not worth one or none is left.
    pub(crate) async fn pause_after(&mut self, error: Error) -> Result<()> {
        if !error.retryable() {
            return Err(error);
        }
        self.pause_anyway(error).await
    }

    /// The same for an error that the caller knows how to mend.
    pub(crate) async fn pause_anyway(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        if self.failures >= self.policy.attempts_max {
            return Err(error);
        }
        let mut chance = [0; 2];
        // Without randomness the pause is the longest: nothing depends on it.
        if getrandom::fill(&mut chance).is_err() {
            chance = [u8::MAX; 2];
        }
        let chance = u16::from_ne_bytes(chance);
        let pause = self.policy.pause(self.failures, chance);
        let asked = error.retry_after().unwrap_or_default().min(self.policy.pause_max);
        tokio::time::sleep(pause.max(spread(asked, chance))).await;
        Ok(())
    }
}

/// Up to half as long again as the server asked for: who was refused together does not come back together.
fn spread(asked: Duration, chance: u16) -> Duration {
    asked + (asked / 2).mul_f64(f64::from(chance) / f64::from(u16::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let longest: Vec<u128> =
            (1..9).map(|failures| policy.pause(failures, u16::MAX).as_millis()).collect();
        assert_eq!(longest, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(policy.pause(3, 0).as_millis(), 400);
        assert_eq!(policy.pause(u32::MAX, u16::MAX), policy.pause_max);
        let asked = Duration::from_secs(4);
        assert_eq!([0, u16::MAX].map(|chance| spread(asked, chance).as_secs()), [4, 6]);
    }

    #[tokio::test]
    async fn attempts_are_bounded_and_only_for_what_may_pass() {
        let policy = RetryPolicy {
            attempts_max: 3,
            first_pause: Duration::from_micros(1),
            pause_max: Duration::from_micros(1),
        };
        let unavailable = || Error::from(Status::unavailable("later"));
        let mut attempts = Attempts::new(&policy);
        assert!(attempts.pause_after(unavailable()).await.is_ok());
        assert!(attempts.pause_after(unavailable()).await.is_ok());
        assert!(attempts.pause_after(unavailable()).await.is_err());
        attempts.progressed();
        assert!(attempts.pause_after(unavailable()).await.is_ok());
        assert!(attempts.pause_after(Error::from(Status::not_found("no"))).await.is_err());
    }
}
