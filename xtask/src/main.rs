//! Tasks of the imageops workspace, run as `cargo xtask TASK`.
//!
//! - `test`: everything that can fail, on a machine with nothing but Debian and Rust; installs what it needs;
//! - `check`: what is read before a push: format, lints, documents, dependencies, contract, generated code;
//! - `generate`: writes the checked-in Go code and, when asked, the baseline of the contract;
//! - `torture`: the server is killed, starved and lied to, for as long as it takes;
//! - `bench`: our compress and check beside the tools people use today.
//!
//! One file per task or step; nothing here is part of the product.

mod bench;
mod checks;
mod debian;
mod generate;
mod images;
mod process;
mod suites;
mod tally;
mod test;
mod tools;
mod torture;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Tasks of the imageops workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs all tests: Rust, the legacy contract's checklist, Go. Installs missing Debian packages when it may.
    Test(test::Options),
    /// Runs the checks that come before a push; tests nothing.
    Check(checks::Options),
    /// Writes the generated Go code anew.
    Generate(generate::Options),
    /// Runs the crash and fault tests of docs/reliability.md, in full unless told otherwise.
    Torture(torture::Options),
    /// Measures compress and check beside their peers and writes docs/benchmarks.md.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Workspace::locate().and_then(|workspace| match arguments.task {
        Task::Test(options) => test::run(&workspace, &options),
        Task::Check(options) => checks::run(&workspace, &options),
        Task::Generate(options) => generate::run(&workspace, &options),
        Task::Torture(options) => torture::run(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
