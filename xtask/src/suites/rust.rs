//! The tests of the Rust workspace, counted from what their runners print.

use anyhow::Result;

use crate::images::{self, Size};
use crate::process::{self, Run as _, Stream};
use crate::suites::libtest::Libtest;
use crate::tally::Counts;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, filters: &[String]) -> Result<Counts> {
    let mut libtest = Libtest::default();
    // The output of passed tests is asked for, because a skipped test says so there; the rest of it is not shown.
    let status = process::command("cargo")
        .args(["test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"])
        .args(filters)
        .current_dir(&workspace.root)
        .env("IMAGEOPS_TEST_IMAGES", images::directory(workspace, Size::Small)?)
        .lines(|stream, line| {
            if stream == Stream::Errors {
                libtest.note_skip(line);
                eprintln!("{line}");
            } else if libtest.line(line) {
                println!("{line}");
            }
        })?;
    Ok(libtest.counts().or_failed(status.success()))
}
