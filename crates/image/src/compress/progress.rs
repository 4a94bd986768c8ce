//! Progress of the phases of one operation, from several threads.

use std::sync::{Mutex, PoisonError};

use crate::control::{Control, Phase, Progress};

/// One phase's part of the whole.
pub(crate) struct Meter<'a> {
    control: &'a Control,
    phase: Phase,
    total_bytes: u64,
    /// Where the phase starts and ends in the whole operation, 0 to 1.
    start: f64,
    end: f64,
    /// Held while the caller is told, so that what it sees never falls.
    done_bytes: Mutex<u64>,
}

impl<'a> Meter<'a> {
    /// Starts a phase of `total_bytes` and says so.
    pub(crate) fn new(control: &'a Control, phase: Phase, total_bytes: u64, start: f64, end: f64) -> Self {
        let meter = Self { control, phase, total_bytes, start, end, done_bytes: Mutex::new(0) };
        meter.add(0);
        meter
    }

    /// Tells the caller of more bytes that are done.
    pub(crate) fn add(&self, bytes: u64) {
        let mut done_bytes = self.done_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *done_bytes = done_bytes.saturating_add(bytes).min(self.total_bytes);
        let share = if self.total_bytes == 0 { 0.0 } else { *done_bytes as f64 / self.total_bytes as f64 };
        self.control.report(Progress {
            phase: self.phase,
            done_bytes: *done_bytes,
            total_bytes: self.total_bytes,
            fraction: self.start + (self.end - self.start) * share,
        });
    }
}
