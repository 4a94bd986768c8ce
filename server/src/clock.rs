//! The one place that asks for the time of day, and what goes on evenly when that jumps (reliability R-7).

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imageops_model::Micros;

/// Now. Used for times that are stored and shown; durations are measured with `Instant`.
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The time of day when the process began, and what has passed since. It never jumps: leases live by it.
pub fn steady() -> Micros {
    static BEGAN: LazyLock<(Micros, Instant)> = LazyLock::new(|| (now(), Instant::now()));
    let (time, at) = *BEGAN;
    after(time, at.elapsed())
}

/// The later of both: by it what is to last no longer than promised has ended, and what is to be kept is kept long enough.
pub fn latest() -> Micros {
    now().max(steady())
}

fn after(time: Micros, passed: Duration) -> Micros {
    time.plus_ms(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
}

/// How long a clock must have been put forward before things are removed by it.
const BELIEVED_AFTER: Duration = Duration::from_secs(86_400);

/// The time by which things are removed. It follows a clock that is put back at once, and one that is put forward within a
/// day: a jump that was a mistake and is taken back removes nothing.
pub struct Calendar {
    time: Micros,
    read: Instant,
}

impl Calendar {
    /// Begins at this time of day.
    pub fn new(time: Micros, at: Instant) -> Self {
        Self { time, read: at }
    }

    /// The time now, when the clock says `time`.
    pub fn read(&mut self, time: Micros, at: Instant) -> Micros {
        let passed = at.saturating_duration_since(self.read);
        let even = after(self.time, passed);
        if time < even || passed >= BELIEVED_AFTER {
            *self = Self::new(time, at);
        }
        time.min(even)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn a_jump_that_is_taken_back_removes_nothing() {
        let (start, at) = (Micros(1_000_000_000), Instant::now());
        let mut calendar = Calendar::new(start, at);
        let mut read = |hours: u64, jump_hours: i64| {
            let passed = Duration::from_secs(hours * 3600);
            let time = after(start, passed).plus_ms(jump_hours * HOUR_MS);
            (calendar.read(time, at + passed).0 - start.0) / (HOUR_MS * 1000)
        };
        assert_eq!(read(1, 0), 1);
        assert_eq!(read(2, 8760), 2, "a year ahead");
        assert_eq!(read(3, 0), 3);
        assert_eq!(read(4, -8760), 4 - 8760, "a year behind");
        assert_eq!(read(5, 0), 5 - 8760, "and back: late, not early");
        // Whoever sets a clock right is believed in the end.
        read(29, 0);
        assert_eq!(read(30, 0), 30);
    }
}
