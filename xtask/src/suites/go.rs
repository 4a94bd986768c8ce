//! The Go module: vetted, and run against the real server.

use anyhow::Result;

use crate::process::{self, Run as _};
use crate::tally::Counts;
use crate::tools;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let go = tools::go(workspace)?;
    let module = workspace.go_module();
    let vetted = process::command(&go).args(["vet", "./..."]).current_dir(&module).succeeds()?;
    let mut counts = Counts::one(vetted);
    let mut tests = Counts::default();
    let status = process::command(&go)
        // Cached results are of no use: the server may have changed.
        .args(["test", "-v", "-count=1", "-timeout=5m", "./..."])
        .current_dir(&module)
        .env("IMAGEOPS_SERVER_BIN", workspace.binary("debug", "imageops-server"))
        .lines(|_, line| {
            println!("{line}");
            tests.add(count_line(line));
        })?;
    counts.add(tests.or_failed(status.success()));
    Ok(counts)
}

/// What a line of `go test -v` adds. Sub-tests are indented and belong to their test.
fn count_line(line: &str) -> Counts {
    let mut counts = Counts::default();
    match line.split_once(": ").map(|(start, _)| start) {
        Some("--- PASS") => counts.passed = 1,
        Some("--- FAIL") => counts.failed = 1,
        Some("--- SKIP") => counts.skipped = 1,
        _ => {}
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::count_line;
    use crate::tally::Counts;

    #[test]
    fn tests_are_counted_without_their_sub_tests() {
        assert_eq!(count_line("--- PASS: TestUpload (0.10s)").passed, 1);
        assert_eq!(count_line("--- SKIP: TestUpload (0.00s)").skipped, 1);
        assert_eq!(count_line("--- FAIL: TestUpload (0.00s)").failed, 1);
        assert_eq!(count_line("    --- PASS: TestUpload/resumed (0.10s)"), Counts::default());
    }
}
