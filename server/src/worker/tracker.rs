//! From the engine's progress to a job's: rate, remaining time, and a percentage that never falls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use imageops_image::{Control, Phase, Progress};
use imageops_model::{JobPhase, JobProgress};

use super::Stop;

/// Takes the engine's reports and makes snapshots for watchers.
#[derive(Clone)]
pub(super) struct Tracker {
    state: Arc<Mutex<State>>,
}

struct State {
    started: Instant,
    phase: JobPhase,
    phase_started: Instant,
    /// Bytes of the phase that were done when its clock started.
    phase_base_bytes: u64,
    done_bytes: u64,
    total_bytes: u64,
    fraction: f64,
    /// What an earlier attempt had reached: shown until it is overtaken.
    floor_percent: f64,
}

impl Tracker {
    /// A tracker that begins at what an earlier attempt had reached.
    pub(super) fn new(floor_percent: f64) -> Self {
        let now = Instant::now();
        Self {
            state: Arc::new(Mutex::new(State {
                started: now,
                phase: JobPhase::Waiting,
                phase_started: now,
                phase_base_bytes: 0,
                done_bytes: 0,
                total_bytes: 0,
                fraction: 0.0,
                floor_percent,
            })),
        }
    }

    /// What the engine reports to, and is stopped by.
    pub(super) fn control(&self, stop: &Stop) -> Control {
        let tracker = self.clone();
        Control::new(move |progress| tracker.report(progress), stop.token())
    }

    /// The output is complete and gets its name now.
    pub(super) fn publishing(&self) {
        self.update(JobPhase::Publishing, 0, 0, 1.0);
    }

    fn report(&self, progress: Progress) {
        let phase = match progress.phase {
            Phase::Planning => JobPhase::Planning,
            Phase::Checking => JobPhase::Checking,
            Phase::Compressing => JobPhase::Compressing,
            Phase::Verifying => JobPhase::Verifying,
            _ => JobPhase::Waiting,
        };
        self.update(phase, progress.done_bytes, progress.total_bytes, progress.fraction);
    }

    fn update(&self, phase: JobPhase, done_bytes: u64, total_bytes: u64, fraction: f64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.phase != phase {
            state.phase = phase;
            state.phase_started = Instant::now();
            state.phase_base_bytes = done_bytes;
        }
        state.done_bytes = done_bytes;
        state.total_bytes = total_bytes;
        state.fraction = state.fraction.max(fraction.clamp(0.0, 1.0));
    }

    /// How far the job is now. Below 100 %: that comes with success alone.
    pub(super) fn snapshot(&self) -> JobProgress {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let in_phase = state.phase_started.elapsed().as_secs_f64();
        let moved_bytes = state.done_bytes.saturating_sub(state.phase_base_bytes);
        let rate = (in_phase >= 0.2 && moved_bytes > 0).then(|| (moved_bytes as f64 / in_phase) as u64);
        let elapsed_ms = state.started.elapsed().as_secs_f64() * 1000.0;
        let remaining = (state.fraction >= 0.01 && elapsed_ms >= 200.0)
            .then(|| (elapsed_ms * (1.0 - state.fraction) / state.fraction) as u64);
        JobProgress {
            phase: state.phase,
            done_bytes: state.done_bytes,
            total_bytes: state.total_bytes,
            bytes_per_second: rate,
            remaining_ms: remaining,
            percent: (state.fraction * 100.0).max(state.floor_percent).min(99.9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_holds_the_percentage_until_it_is_overtaken() {
        let tracker = Tracker::new(40.0);
        tracker.update(JobPhase::Compressing, 1, 10, 0.1);
        assert!((tracker.snapshot().percent - 40.0).abs() < 1e-9);
        tracker.update(JobPhase::Compressing, 5, 10, 0.5);
        assert!((tracker.snapshot().percent - 50.0).abs() < 1e-9);
        tracker.update(JobPhase::Verifying, 0, 10, 0.2);
        assert!((tracker.snapshot().percent - 50.0).abs() < 1e-9, "never falls");
        tracker.publishing();
        assert!(tracker.snapshot().percent < 100.0, "100 comes with success alone");
    }
}
