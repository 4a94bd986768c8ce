//! Progress of the phases of one operation, from several threads.

use std::sync::{Mutex, PoisonError};

use crate::control::{Control, Phase, Progress};

/// The caller is told of every so many bytes, and of the end.
const REPORT_BYTES: u64 = 1 << 20;

/// One phase's part of the whole.
pub(crate) struct Meter<'a> {
    control: &'a Control,
    phase: Phase,
    total_bytes: u64,
    /// Where the phase starts and ends in the whole operation, 0 to 1.
    start: f64,
    end: f64,
    /// Held while the caller is told, so that what it sees never falls.
    done: Mutex<Done>,
}

/// How far a phase is.
#[derive(Default)]
struct Done {
    bytes: u64,
    told_bytes: u64,
}

impl<'a> Meter<'a> {
    /// Starts a phase of `total_bytes` and says so.
    pub(crate) fn new(control: &'a Control, phase: Phase, total_bytes: u64, start: f64, end: f64) -> Self {
        let meter = Self { control, phase, total_bytes, start, end, done: Mutex::default() };
        meter.report(0);
        meter
    }

    /// Adds bytes that are done.
    pub(crate) fn add(&self, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.bytes = done.bytes.saturating_add(bytes).min(self.total_bytes);
        let fresh = done.bytes - done.told_bytes;
        if fresh >= REPORT_BYTES || (fresh > 0 && done.bytes == self.total_bytes) {
            done.told_bytes = done.bytes;
            self.report(done.bytes);
        }
    }

    /// Whatever was left is done, or was not there.
    pub(crate) fn finish(&self) {
        self.add(u64::MAX);
    }

    fn report(&self, done_bytes: u64) {
        let share = if self.total_bytes == 0 { 0.0 } else { done_bytes as f64 / self.total_bytes as f64 };
        self.control.report(Progress {
            phase: self.phase,
            done_bytes,
            total_bytes: self.total_bytes,
            fraction: self.start + (self.end - self.start) * share,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::CancelToken;

    #[test]
    fn small_steps_are_told_together_and_the_end_always() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        let push = move |progress: Progress| {
            list.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((progress.done_bytes, progress.fraction));
        };
        let control = Control::new(push, CancelToken::default());
        let meter = Meter::new(&control, Phase::Checking, 3 << 20, 0.0, 0.5);
        for _ in 0..3 {
            meter.add(600 << 10);
        }
        meter.finish();
        meter.finish();
        let told = told.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*told, [(0, 0.0), (1200 << 10, 600.0 / 3072.0), (3 << 20, 0.5)]);
    }
}
