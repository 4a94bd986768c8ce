//! Moments.

use serde::{Deserialize, Serialize};

/// A moment: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Micros(pub i64);

impl Micros {
    /// The moment `milliseconds` later.
    #[must_use]
    pub fn plus_ms(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add(milliseconds.saturating_mul(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_stay_in_range() {
        assert_eq!(Micros(5).plus_ms(2), Micros(2_005));
        assert_eq!(Micros(5).plus_ms(-1), Micros(-995));
        assert_eq!(Micros(i64::MAX).plus_ms(1), Micros(i64::MAX));
        assert_eq!(Micros(0).plus_ms(i64::MIN), Micros(i64::MIN));
    }
}
