//! The legacy contract's checklist, both services of it, black box, against a server started for it alone.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Run as _, Stream};
use crate::suites::server::{Server, Setup};
use crate::tally::Counts;
use crate::workspace::Workspace;

/// The rows of the checklist: 1 to 27 are those of `imageops`, the others those of the file-system service.
const ROWS: std::ops::RangeInclusive<u32> = 1..=64;

pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let directory = workspace.target.join("edgegallery");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    let setup = Setup::below(workspace.binary("debug", "imageops-server"), &directory);
    let server = Server::start(&setup).map_err(anyhow::Error::msg)?;

    let rows = ROWS.map(|row| row.to_string()).collect::<Vec<_>>().join(",");
    let mut totals = None;
    let status = process::command("python3")
        .arg(workspace.root.join("tests/acceptance/edgegallery.py"))
        .args(["--ops", &format!("http://{}", server.http)])
        .args(["--fs", &format!("http://{}", server.http)])
        .arg("--image-path")
        .arg(&setup.image_path)
        .args(["--row", &rows])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .lines(|stream, line| match parse_totals(line) {
            // Its closing line goes into ours.
            Some(counts) if stream == Stream::Output => totals = Some(counts),
            _ => println!("{line}"),
        })?;
    let output = server.output();
    drop(server);
    // The status is 0 even when rows fail: only the closing line tells.
    let Some(counts) = totals else {
        bail!("the checklist ended with {status} and without a closing line; the server printed:\n{output}");
    };
    if counts.failed > 0 {
        println!("--- the server printed:\n{output}");
    }
    let seen = counts.passed + counts.failed + counts.skipped;
    if seen != ROWS.count() as u64 {
        bail!("the checklist ran {seen} rows instead of {}", ROWS.count());
    }
    Ok(counts.or_failed(status.success()))
}

/// `12 passed, 1 failed, 0 skipped`, alone on a line.
fn parse_totals(line: &str) -> Option<Counts> {
    let mut parts = line.split(", ");
    let mut next = |what| parts.next()?.strip_suffix(what)?.trim_end().parse().ok();
    let counts = Counts { passed: next("passed")?, failed: next("failed")?, skipped: next("skipped")? };
    parts.next().is_none().then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::parse_totals;
    use crate::tally::Counts;

    #[test]
    fn only_a_closing_line_is_one() {
        let counts = Counts { passed: 12, failed: 1, skipped: 0 };
        assert_eq!(parse_totals("12 passed, 1 failed, 0 skipped"), Some(counts));
        assert_eq!(parse_totals("PASS 12 compress, 1 failed, 0 skipped"), None);
        assert_eq!(parse_totals("12 passed, 1 failed, 0 skipped, 3 more"), None);
    }
}
