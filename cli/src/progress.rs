//! The progress line on stderr, at a terminal only.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use imageops::v1::{Job, JobPhase, JobState};
use imageops_client::TransferProgress;
use imageops_image::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{size, span};

/// Ticks of the bar: finer than any terminal is wide.
const TICKS: u64 = 10_000;

/// Below this share nothing can be said of the remaining time.
const FRACTION_TELLING: f64 = 0.01;

/// How far something is.
#[derive(Clone, Debug, PartialEq)]
struct Step {
    label: &'static str,
    done_bytes: u64,
    total_bytes: u64,
    bytes_per_second: Option<u64>,
    remaining: Option<Duration>,
    /// The whole, 0 to 1.
    fraction: f64,
}

impl Step {
    fn text(&self) -> String {
        let mut text = format!("{:>5.1} %  {}", self.fraction * 100.0, self.label);
        if self.total_bytes > 0 {
            text += &format!("  {} of {}", size(self.done_bytes), size(self.total_bytes));
        }
        if let Some(rate) = self.bytes_per_second {
            text += &format!("  {}/s", size(rate));
        }
        if let Some(remaining) = self.remaining {
            text += &format!("  {} left", span(remaining));
        }
        text
    }
}

/// The line. Clones draw the same one.
#[derive(Clone)]
pub(crate) struct Bar {
    bar: ProgressBar,
    pace: Arc<Mutex<Pace>>,
}

impl Bar {
    /// A line that shows nothing until there is something to show, and never anything when stderr is no terminal.
    pub(crate) fn new() -> Self {
        let visible = std::io::stderr().is_terminal();
        let target =
            if visible { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(TICKS), target);
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, pace: Arc::new(Mutex::new(Pace::new(Instant::now()))) }
    }

    /// Shows the progress of an operation of the engine.
    pub(crate) fn show_engine(&self, progress: Progress) {
        let label = match progress.phase {
            Phase::Planning => "planning",
            Phase::Checking => "checking",
            Phase::Compressing => "compressing",
            Phase::Converting => "converting",
            Phase::Punching => "giving back",
            Phase::Verifying => "verifying",
            _ => "working",
        };
        self.show_paced(label, progress.done_bytes, progress.total_bytes, progress.fraction);
    }

    /// Shows the progress of an upload or a download.
    pub(crate) fn show_transfer(&self, label: &'static str, progress: TransferProgress) {
        let fraction = match progress.total_bytes {
            0 => 0.0,
            total => progress.done_bytes as f64 / total as f64,
        };
        self.show_paced(label, progress.done_bytes, progress.total_bytes, fraction);
    }

    /// Shows the progress of a job, as the server tells it.
    pub(crate) fn show_job(&self, job: &Job) {
        let Some(progress) = &job.progress else { return };
        let label = match (job.state(), progress.phase()) {
            (JobState::Queued, _) => "queued",
            (_, JobPhase::Planning) => "planning",
            (_, JobPhase::Checking) => "checking",
            (_, JobPhase::Compressing) => "compressing",
            (_, JobPhase::Verifying) => "verifying",
            (_, JobPhase::Publishing) => "publishing",
            (_, JobPhase::Copying) => "copying",
            (_, JobPhase::Converting) => "converting",
            (_, JobPhase::Fetching) => "fetching",
            (_, JobPhase::Unspecified) => "working",
        };
        let remaining = progress.remaining.as_ref();
        self.show(&Step {
            label,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
            bytes_per_second: progress.bytes_per_second,
            remaining: remaining.and_then(|span| u64::try_from(span.seconds).ok()).map(Duration::from_secs),
            fraction: (progress.percent / 100.0).clamp(0.0, 1.0),
        });
    }

    /// Takes the line away.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn show_paced(&self, label: &'static str, done_bytes: u64, total_bytes: u64, fraction: f64) {
        if self.bar.is_hidden() {
            return;
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let step = pace.step(Instant::now(), label, done_bytes, total_bytes, fraction);
        self.show(&step);
    }

    fn show(&self, step: &Step) {
        self.bar.set_position((step.fraction * TICKS as f64) as u64);
        self.bar.set_message(step.text());
    }
}

/// Rate of the phase and remaining time of the whole, from what was reported.
struct Pace {
    start: Instant,
    label: &'static str,
    phase_start: Instant,
    /// What was done when the phase was first seen: a resumed upload does not start at 0.
    phase_first_bytes: u64,
}

impl Pace {
    fn new(start: Instant) -> Self {
        Self { start, label: "", phase_start: start, phase_first_bytes: 0 }
    }

    fn step(
        &mut self,
        now: Instant,
        label: &'static str,
        done_bytes: u64,
        total_bytes: u64,
        fraction: f64,
    ) -> Step {
        if label != self.label || done_bytes < self.phase_first_bytes {
            (self.label, self.phase_start, self.phase_first_bytes) = (label, now, done_bytes);
        }
        let fraction = fraction.clamp(0.0, 1.0);
        let seconds = now.duration_since(self.phase_start).as_secs_f64();
        let phase_bytes = (done_bytes - self.phase_first_bytes) as f64;
        let elapsed = now.duration_since(self.start).as_secs_f64();
        let left = elapsed * (1.0 - fraction) / fraction.max(FRACTION_TELLING);
        Step {
            label,
            done_bytes,
            total_bytes,
            bytes_per_second: (seconds > 0.2).then(|| (phase_bytes / seconds) as u64),
            remaining: (fraction > FRACTION_TELLING).then(|| Duration::from_secs_f64(left)),
            fraction,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_remaining_time_come_from_what_was_done() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let first = pace.step(start, "compressing", 0, 100 << 20, 0.0);
        assert_eq!((first.bytes_per_second, first.remaining), (None, None));
        let step = pace.step(start + Duration::from_secs(2), "compressing", 50 << 20, 100 << 20, 0.5);
        assert_eq!(step.bytes_per_second, Some(25 << 20));
        assert_eq!(step.remaining, Some(Duration::from_secs(2)));
        assert_eq!(step.text(), " 50.0 %  compressing  50 MiB of 100 MiB  25 MiB/s  2.0 s left");
        let next = pace.step(start + Duration::from_secs(3), "verifying", 1 << 20, 10 << 20, 0.9);
        assert_eq!(next.bytes_per_second, None);
    }
}
