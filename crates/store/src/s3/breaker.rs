//! A circuit breaker: a server that answers nothing but failures is not asked for a moment, and who asks is refused at
//! once (rel_15).
//!
//! It is fed with every attempt, retries included. Short disturbances are left to the retries: it opens when several
//! attempts in a row failed over more than a moment. While it is open one attempt at a time goes through now and then; the
//! first that succeeds closes it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row before it opens. With one attempt in ten failing at random, as many in a row are one in 10 000.
const FAILURES_MIN: u32 = 4;
/// Time that they have to span, so that a restart of the server is survived by retries.
const FAILING_MIN: Duration = Duration::from_secs(1);
/// Pause before the server is tried again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Failures since the last success.
    failures: u32,
    first_failure: Option<Instant>,
    /// Until when nothing goes through; `None` when closed.
    open_until: Option<Instant>,
    /// Whether an attempt is under way that decides.
    is_trying: bool,
}

/// An attempt that was let through. One that is dropped without an outcome changes nothing.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

impl Breaker {
    /// Lets an attempt through, or not.
    pub(super) fn admit(&self, now: Instant) -> Option<Attempt<'_>> {
        let mut state = self.state();
        let is_trial = match state.open_until {
            None => false,
            Some(until) if now < until || state.is_trying => return None,
            Some(_) => true,
        };
        state.is_trying |= is_trial;
        Some(Attempt { breaker: self, is_trial })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Says how it ended.
    pub(super) fn ended(self, is_success: bool, now: Instant) {
        let mut state = self.breaker.state();
        if is_success {
            (state.failures, state.first_failure, state.open_until) = (0, None, None);
            return;
        }
        state.failures = state.failures.saturating_add(1);
        let first = *state.first_failure.get_or_insert(now);
        let is_failing = state.failures >= FAILURES_MIN && now.duration_since(first) >= FAILING_MIN;
        if self.is_trial || is_failing {
            state.open_until = Some(now + PAUSE);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            self.breaker.state().is_trying = false;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Four failures over a second.
    fn open(breaker: &Breaker, start: Instant) {
        for at in [0, 300, 600, 1000] {
            breaker.admit(ms(start, at)).unwrap().ended(false, ms(start, at));
        }
        assert!(breaker.admit(ms(start, 1000)).is_none());
    }

    #[test]
    fn short_or_rare_failures_pass() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for at in 0..100 {
            breaker.admit(ms(start, at)).unwrap().ended(false, ms(start, at));
        }
        breaker.admit(ms(start, 900)).unwrap().ended(true, ms(start, 900));
        for at in [2000, 3000, 4000] {
            breaker.admit(ms(start, at)).unwrap().ended(false, ms(start, at));
        }
        assert!(breaker.admit(ms(start, 5000)).is_some());
    }

    #[test]
    fn rel_15_a_failing_server_is_tried_once_in_a_while() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        open(&breaker, start);
        assert!(breaker.admit(ms(start, 1999)).is_none());
        let trial = breaker.admit(ms(start, 2000)).unwrap();
        assert!(breaker.admit(ms(start, 2000)).is_none(), "one at a time");
        trial.ended(false, ms(start, 2100));
        assert!(breaker.admit(ms(start, 3099)).is_none());
        breaker.admit(ms(start, 3100)).unwrap().ended(true, ms(start, 3100));
        assert!(breaker.admit(ms(start, 3100)).is_some() && breaker.admit(ms(start, 3100)).is_some());
    }

    #[test]
    fn a_trial_that_is_given_up_makes_room_for_the_next() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        open(&breaker, start);
        drop(breaker.admit(ms(start, 2000)).unwrap());
        assert!(breaker.admit(ms(start, 2000)).is_some());
    }
}
