//! What ran and how it went: one row per suite, one plain line at the end.

use std::time::Duration;

/// How often tests ended one way or another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    /// One thing that passed or failed.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
    }

    /// A runner that ended badly without a failed test to show for it (it crashed, or did not build) counts as one.
    pub(crate) fn or_failed(mut self, runner_succeeded: bool) -> Self {
        if !runner_succeeded && self.failed == 0 {
            self.failed = 1;
        }
        self
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// All rows of a run.
#[derive(Default)]
pub(crate) struct Tally {
    rows: Vec<(String, Counts, Duration)>,
}

impl Tally {
    pub(crate) fn add(&mut self, name: &str, counts: Counts, elapsed: Duration) {
        self.rows.push((name.to_owned(), counts, elapsed));
    }

    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::default();
        for (_, counts, _) in &self.rows {
            total.add(*counts);
        }
        total
    }

    /// Prints the table and then the plain closing line, alone and last on standard output.
    pub(crate) fn print(&self) {
        let width = self.rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        println!();
        println!("{:width$}  passed  failed  skipped  seconds", "");
        for (name, counts, elapsed) in &self.rows {
            let Counts { passed, failed, skipped } = counts;
            println!("{name:width$}  {passed:>6}  {failed:>6}  {skipped:>7}  {:>7.1}", elapsed.as_secs_f64());
        }
        println!();
        println!("{}", self.total());
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn a_crashed_runner_is_a_failure() {
        let counts = Counts { passed: 3, failed: 0, skipped: 1 };
        assert_eq!(counts.or_failed(false), Counts { failed: 1, ..counts });
        assert_eq!(counts.or_failed(true), counts);
        assert_eq!(Counts { failed: 2, ..counts }.or_failed(false).failed, 2);
        assert_eq!(counts.to_string(), "3 passed, 0 failed, 1 skipped");
    }
}
