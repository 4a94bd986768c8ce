//! The one place that asks for the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use imageops_model::Micros;

/// Now. Used for times that are stored and shown; durations are measured with `Instant`.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
