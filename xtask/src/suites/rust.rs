//! The tests of the Rust workspace, counted from what their runners print.

use anyhow::{Error, Result};

use crate::images::{self, Size};
use crate::process;
use crate::suites::libtest;
use crate::suites::postgres::Postgres;
use crate::tally::Counts;
use crate::tools;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, filters: &[String]) -> Result<Counts> {
    let postgres = Postgres::start_without_flushes().map_err(Error::msg)?;
    let mut command = process::command("cargo");
    command
        .args(["test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"])
        .args(filters)
        .current_dir(&workspace.root)
        .env("IMAGEOPS_TEST_POSTGRES", postgres.url())
        .env("IMAGEOPS_TEST_S3", tools::s3s_fs(workspace)?)
        .env("IMAGEOPS_TEST_IMAGES", images::directory(workspace, Size::Small)?);
    libtest::run(&mut command)
}
