//! `cargo xtask check`: what must hold before a push, beside the tests.

mod unused;

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::debian;
use crate::generate::{self, BASELINE};
use crate::process::{self, Run as _};
use crate::tally::{Counts, Tally};
use crate::test::time;
use crate::tools;
use crate::workspace::Workspace;

/// Options of `cargo xtask check`.
#[derive(Args)]
pub(crate) struct Options {
    /// Also compares the dependencies with the advisory database, which is fetched from where cargo-deny keeps it.
    #[arg(long)]
    advisories: bool,
    /// Runs only checks whose names contain one of these.
    names: Vec<String>,
}

/// One check by its name in the table.
type Check = (&'static str, fn(&Workspace) -> Result<bool>);

/// The quick ones first: a slip in the formatting need not wait for a build.
const CHECKS: &[Check] = &[
    ("format", format),
    ("go format", go_format),
    ("proto format", |workspace| buf(workspace, &["format", "--diff", "--exit-code"])),
    ("proto lint", |workspace| buf(workspace, &["lint"])),
    ("proto compatibility", |workspace| buf(workspace, &["breaking", "--against", BASELINE])),
    ("go generated", generate::go_is_fresh),
    ("unused dependencies", unused::none),
    ("licences, bans, sources", |workspace| deny(workspace, &["licenses", "bans", "sources"])),
    ("clippy", clippy),
    ("fuzz targets", fuzz_targets),
    ("documents", documents),
];

/// Whether all hold.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let mut tally = Tally::default();
    run_named(workspace, &mut tally, &options.names);
    if options.advisories {
        time(&mut tally, "advisories", || deny(workspace, &["advisories"]).map(Counts::one));
    }
    tally.print();
    Ok(tally.total().failed == 0)
}

/// Runs every check, each a row; one that fails does not stop the others.
pub(crate) fn run_all(workspace: &Workspace, tally: &mut Tally) {
    run_named(workspace, tally, &[]);
}

/// Runs the checks whose names contain one of `names`, or all when there are none.
fn run_named(workspace: &Workspace, tally: &mut Tally, names: &[String]) {
    for (name, check) in
        CHECKS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| name.contains(n)))
    {
        time(tally, name, || check(workspace).map(Counts::one));
    }
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> std::process::Command {
    let mut command = process::command("cargo");
    command.args(arguments).current_dir(&workspace.root);
    command
}

fn format(workspace: &Workspace) -> Result<bool> {
    let fuzz = cargo(workspace, &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]).succeeds()?;
    Ok(cargo(workspace, &["fmt", "--all", "--check"]).succeeds()? && fuzz)
}

fn clippy(workspace: &Workspace) -> Result<bool> {
    // Those that `cargo test` leaves out are no part of all targets.
    let targets = ["--all-targets", "--test", "torture"];
    let arguments =
        [&["clippy", "--workspace", "--locked"], &targets[..], &["--", "-D", "warnings"]].concat();
    cargo(workspace, &arguments).succeeds()
}

/// The programs of libFuzzer compile with the tool chain at hand, so that none is out of date when it is needed.
fn fuzz_targets(workspace: &Workspace) -> Result<bool> {
    debian::install_missing(debian::FOR_FUZZ)?;
    workspace.fuzz("clippy").args(["--all-targets", "--", "-D", "warnings"]).succeeds()
}

fn documents(workspace: &Workspace) -> Result<bool> {
    cargo(workspace, &["doc", "--workspace", "--no-deps", "--locked"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .succeeds()
}

/// Of the product, and of the fuzz targets, which have a list of their own.
fn deny(workspace: &Workspace, which: &[&str]) -> Result<bool> {
    let of = |directory: &Path| {
        process::command(tools::cargo_deny(workspace)?)
            .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
            .args(which)
            .current_dir(directory)
            .succeeds()
    };
    let fuzz = of(&workspace.root.join("fuzz"))?;
    Ok(of(&workspace.root)? && fuzz)
}

fn buf(workspace: &Workspace, arguments: &[&str]) -> Result<bool> {
    process::command(tools::buf(workspace)?).args(arguments).current_dir(&workspace.root).succeeds()
}

fn go_format(workspace: &Workspace) -> Result<bool> {
    let gofmt = tools::go(workspace)?.with_file_name("gofmt");
    let listed = process::command(gofmt).args(["-l", "."]).current_dir(workspace.go_module()).capture()?;
    for name in listed.lines() {
        println!("client/go/{name} is not formatted; run gofmt -w on it");
    }
    Ok(listed.is_empty())
}
