//! How a compression is, in the numbers and texts that both legacy services have.

use serde_json::Value;

use super::check::TIMEOUT;
use super::literals;

/// Reason of work that did not fit on the volume.
pub(super) const NO_SPACE: &str = "NO_SPACE";

/// How a compression is, or how it ended.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// In the numbers of the legacy services.
    pub(super) status: u32,
    /// The text that goes with it.
    pub(super) message: &'static str,
    /// The share done: a fraction while it runs, the whole numbers 1 and 0 afterwards.
    pub(super) rate: Value,
}

impl Verdict {
    /// It is done to this part of a hundred.
    pub(super) fn running(percent: f64) -> Self {
        Self { status: 1, message: literals::COMPRESS_RUNNING, rate: rate(percent).into() }
    }

    /// It is done.
    pub(super) fn completed() -> Self {
        Self { status: 0, message: literals::COMPRESS_COMPLETED, rate: 1.into() }
    }

    /// It ended for this reason without an output.
    pub(super) fn of_failure(reason: &str) -> Self {
        let (status, message) = match reason {
            NO_SPACE => (3, literals::COMPRESS_NO_SPACE),
            TIMEOUT => (4, literals::COMPRESS_TIMEOUT),
            _ => (2, literals::COMPRESS_FAILED),
        };
        Self { status, message, rate: 0.into() }
    }
}

/// The share done with three decimals, rounded down: below 1 until the job has ended, and never falling.
fn rate(percent: f64) -> f64 {
    let thousandths = if percent.is_finite() { (percent * 10.0).floor().clamp(0.0, 999.0) } else { 0.0 };
    thousandths / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_have_three_decimals_and_stay_below_one() {
        for (percent, want) in [
            (0.0, "0.0"),
            (12.34, "0.123"),
            (50.0, "0.5"),
            (99.999, "0.999"),
            (100.0, "0.999"),
            (f64::NAN, "0.0"),
        ] {
            assert_eq!(json!(rate(percent)).to_string(), want, "{percent}");
        }
    }
}
