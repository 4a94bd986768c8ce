//! Places where the crash tests stop the process (reliability rel_04).
//!
//! Without the feature `fail-points`, which no release is built with, there are none: [`reach`] is empty. With it the
//! environment names one place, and the process ends there at once, as by SIGKILL: nothing is dropped, flushed or answered.

/// The points on the way of an upload to an image, in their order.
pub const POINTS: [&str; 10] = [
    "composition-begun",
    "before-data-flush",
    "after-data-flush",
    "before-link",
    "after-link",
    "after-directory-flush",
    "before-row-commit",
    "after-failed-row-commit",
    "after-row-commit",
    "before-answer",
];

/// Says that the process has come to `point`; ends it when the environment names that one.
#[cfg(feature = "fail-points")]
pub fn reach(point: &str) {
    use std::sync::LazyLock;

    /// Read once. A wrong name would make a test that stops nowhere.
    static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| {
        let chosen = std::env::var("IMAGEOPS_FAIL_POINT").ok()?;
        assert!(POINTS.contains(&chosen.as_str()), "IMAGEOPS_FAIL_POINT names no point: {chosen}");
        Some(chosen)
    });
    debug_assert!(POINTS.contains(&point), "{point} is not listed");
    if CHOSEN.as_deref() == Some(point) {
        std::process::abort();
    }
}

/// Says that the process has come to `point`, which matters only to the crash tests.
#[cfg(not(feature = "fail-points"))]
#[inline]
pub fn reach(_point: &str) {}
