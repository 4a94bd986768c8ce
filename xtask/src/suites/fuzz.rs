//! The seeds of the fuzz targets and a fixed number of changes to them, without libFuzzer.

use anyhow::Result;

use crate::suites::libtest;
use crate::tally::Counts;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<Counts> {
    let mut command = workspace.fuzz("test");
    libtest::run(command.args(["--lib", "--tests", "--no-fail-fast", "--", "--show-output"]))
}
