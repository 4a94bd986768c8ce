//! Reads what Rust's test runner prints, line by line.

use std::process::Command;

use anyhow::Result;

use crate::process::{Run as _, Stream};
use crate::tally::Counts;

/// What a test prints when the tool or the data that it needs is not there. It then passes for its runner, but not for us.
const SKIPPED: &str = "SKIPPED: ";

/// Runs `cargo test` and counts what its runners print.
///
/// The output of passed tests must be asked for (`--show-output`), because a skipped test says so there; the rest of it
/// is not shown.
pub(crate) fn run(command: &mut Command) -> Result<Counts> {
    let mut libtest = Libtest::default();
    let status = command.lines(|stream, line| {
        if stream == Stream::Errors {
            libtest.note_skip(line);
            eprintln!("{line}");
        } else if libtest.line(line) {
            println!("{line}");
        }
    })?;
    Ok(libtest.counts().or_failed(status.success()))
}

/// State between lines.
#[derive(Default)]
struct Libtest {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: u64,
    /// Within the list of what passed tests printed.
    in_successes: bool,
    /// The test whose output is being read has said that it was skipped.
    skip_noted: bool,
}

impl Libtest {
    /// Takes a line of standard output; whether it is worth showing.
    fn line(&mut self, line: &str) -> bool {
        if let Some(totals) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.add_totals(totals);
        } else if line == "successes:" {
            self.in_successes = true;
        } else if line == "failures:" {
            self.in_successes = false;
        } else if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.skip_noted = false;
        } else if line.starts_with(SKIPPED) {
            self.note_skip(line);
            return true;
        }
        !self.in_successes
    }

    /// Counts a skip. A test that says so twice within its own output counts once.
    fn note_skip(&mut self, line: &str) {
        if !line.starts_with(SKIPPED) {
            return;
        }
        if !self.in_successes || !self.skip_noted {
            self.skipped += 1;
        }
        self.skip_noted = self.in_successes;
    }

    fn add_totals(&mut self, totals: &str) {
        // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s"
        for part in totals.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            passed: self.passed.saturating_sub(self.skipped),
            failed: self.failed,
            skipped: self.skipped + self.ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Libtest;
    use crate::tally::Counts;

    const OUTPUT: &str = "
running 4 tests
test reads::raw ... ok
test reads::qcow2 ... ok
test reads::peer ... ok
test reads::slow ... ignored

successes:

---- reads::raw stdout ----
4096 bytes

---- reads::peer stdout ----
SKIPPED: qemu-img is not installed
SKIPPED: qemu-img is not installed


successes:
    reads::peer
    reads::qcow2
    reads::raw

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.25s

running 2 tests
test writes ... FAILED
test other ... ok

successes:

successes:
    other

failures:

---- writes stdout ----
no space left

failures:
    writes

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
";

    #[test]
    fn counts_results_and_each_skipped_test_once() {
        let mut libtest = Libtest::default();
        let shown: Vec<_> = OUTPUT.lines().filter(|line| libtest.line(line)).collect();
        assert_eq!(libtest.counts(), Counts { passed: 3, failed: 1, skipped: 2 });
        assert!(!shown.contains(&"4096 bytes"), "output of a passed test is not shown");
        assert!(shown.contains(&"no space left"), "output of a failed test is");
        assert!(shown.contains(&"SKIPPED: qemu-img is not installed"));
    }

    #[test]
    fn a_skip_on_standard_error_counts() {
        let mut libtest = Libtest::default();
        libtest.line("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        libtest.note_skip("SKIPPED: no images");
        libtest.note_skip("warning: something else");
        assert_eq!(libtest.counts(), Counts { passed: 1, failed: 0, skipped: 1 });
    }
}
