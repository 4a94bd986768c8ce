//! From the engine's progress to a job's: rate, remaining time, and a percentage that never falls.

use std::sync::atomic::{AtomicU64, Ordering};
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
        self.control_between(stop, 0.0, 1.0)
    }

    /// The same for a part of the job, which begins and ends at these fractions of the whole.
    pub(super) fn control_between(&self, stop: &Stop, start: f64, end: f64) -> Control {
        let tracker = self.clone();
        let report = move |progress: Progress| {
            tracker.report(Progress { fraction: start + (end - start) * progress.fraction, ..progress });
        };
        Control::new(report, stop.token())
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
            Phase::Converting => JobPhase::Converting,
            Phase::Verifying => JobPhase::Verifying,
            _ => JobPhase::Waiting,
        };
        self.update(phase, progress.done_bytes, progress.total_bytes, progress.fraction);
    }

    /// Says how far the job is; `fraction` of the whole.
    pub(super) fn update(&self, phase: JobPhase, done_bytes: u64, total_bytes: u64, fraction: f64) {
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

/// Counts the bytes of work that the engine has no part in. Clones count together.
#[derive(Clone)]
pub(super) struct Meter {
    tracker: Tracker,
    phase: JobPhase,
    total_bytes: u64,
    done_bytes: Arc<AtomicU64>,
}

impl Meter {
    /// Starts a phase of about so many bytes, which is the whole of the job.
    pub(super) fn new(tracker: &Tracker, phase: JobPhase, total_bytes: u64) -> Self {
        let meter = Self { tracker: tracker.clone(), phase, total_bytes, done_bytes: Arc::default() };
        meter.add(0);
        meter
    }

    /// Adds bytes that are done.
    pub(super) fn add(&self, bytes: u64) {
        let done_bytes =
            self.done_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes).min(self.total_bytes);
        let fraction = if self.total_bytes == 0 { 0.0 } else { done_bytes as f64 / self.total_bytes as f64 };
        self.tracker.update(self.phase, done_bytes, self.total_bytes, fraction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_never_passes_its_total() {
        let tracker = Tracker::new(0.0);
        let meter = Meter::new(&tracker, JobPhase::Copying, 100);
        meter.clone().add(40);
        let half = tracker.snapshot();
        assert_eq!((half.phase, half.done_bytes, half.total_bytes), (JobPhase::Copying, 40, 100));
        meter.add(90);
        assert_eq!(tracker.snapshot().done_bytes, 100);
        Meter::new(&Tracker::new(0.0), JobPhase::Copying, 0).add(1);
    }

    #[test]
    fn a_part_of_a_job_keeps_to_its_share() {
        let tracker = Tracker::new(0.0);
        let control = tracker.control_between(&Stop::default(), 0.5, 0.7);
        let told = |fraction| Progress { phase: Phase::Converting, done_bytes: 1, total_bytes: 2, fraction };
        control.report(told(0.5));
        assert!((tracker.snapshot().percent - 60.0).abs() < 1e-9);
        assert_eq!(tracker.snapshot().phase, JobPhase::Converting);
        control.report(told(1.0));
        assert!((tracker.snapshot().percent - 70.0).abs() < 1e-9);
    }

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
