//! What a source may cost (SEC-36).

use std::time::Duration;

/// The bounds of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest file that is taken, counted in bytes that came.
    pub max_bytes: u64,
    /// For a name, for a connection to one of its addresses, and for TLS on it.
    pub connect: Duration,
    /// From the request to the head of the answer.
    pub first_byte: Duration,
    /// The least that a source brings, over each `rate_window` that was spent waiting for it, be it for bytes, an answer or
    /// the next try. A file so takes no longer than its length asks for, however often the source breaks off.
    pub min_bytes_per_second: u64,
    /// See `min_bytes_per_second`; also the longest time without a byte.
    pub rate_window: Duration,
    /// Redirects that are followed.
    pub redirects_max: u32,
    /// Failures in a row, without a byte between them, before a fetch is given up.
    pub tries_max: u32,
    /// Time before the first try again; doubled each time, up to 40 times it, and cut at random by up to a half.
    pub back_off: Duration,
    /// Ranges that are fetched at once, where the source offers them.
    pub ranges: usize,
    /// Length of a range; so many bytes for each of `ranges` are in memory at most.
    pub range_bytes: u64,
    /// Shorter files are fetched as one.
    pub ranges_from_bytes: u64,
}

impl Default for Limits {
    /// As SEC-36 has them: 10 s, 30 s, 64 KiB/s over 60 s, five redirects; four ranges of 8 MiB from 64 MiB on.
    fn default() -> Self {
        Self {
            max_bytes: 500 << 30,
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            min_bytes_per_second: 64 << 10,
            rate_window: Duration::from_secs(60),
            redirects_max: 5,
            tries_max: 5,
            back_off: Duration::from_millis(250),
            ranges: 4,
            range_bytes: 8 << 20,
            ranges_from_bytes: 64 << 20,
        }
    }
}
