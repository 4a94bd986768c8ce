//! The `imageops` command: checks, compresses, converts and inspects local images, and talks to a server.
//!
//! One file per command. Each ends in an [`exit::Exit`] or a [`exit::Failure`], which is one line on stderr; both forms
//! of output show the types of [`view`], whether the engine found something here or a server told it.

mod args;
mod asked;
mod check;
mod completions;
mod compress;
mod convert;
mod download;
mod dry_run;
mod exit;
mod image;
mod import;
mod in_place;
mod inspect;
mod interrupt;
mod job;
mod key;
mod local;
mod map;
mod output;
mod picture;
mod progress;
mod server;
mod store;
mod target;
mod upload;
mod view;

use std::panic;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::output::note;

/// Bits that the user takes away from new files.
static USER_MASK: OnceLock<u32> = OnceLock::new();

fn main() -> ExitCode {
    panic::set_hook(Box::new(|broken| {
        note(&format!("imageops: internal error, please report it: {broken}"))
    }));
    read_user_mask();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // What clap calls an error may be the help that was asked for. Nobody may be left to read either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Failure.into() } else { Exit::Success.into() };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::io("the program could not start", &error)),
    };
    let ended = runtime.block_on(run(&cli));
    // A read that was cut off by an interruption may still hang on a slow disk: nothing waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => fail(&failure),
    }
}

async fn run(cli: &Cli) -> Result<Exit, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Inspect(arguments) => inspect::run(global, arguments).await,
        Command::Check(arguments) => check::run(global, arguments).await,
        Command::Compress(arguments) => compress::run(global, arguments).await,
        Command::Convert(arguments) => convert::run(global, arguments).await,
        Command::Map(arguments) => map::run(global, arguments).await,
        Command::Upload(arguments) => upload::run(global, arguments).await,
        Command::Import(arguments) => import::run(global, arguments).await,
        Command::Download(arguments) => download::run(global, arguments).await,
        Command::Job(command) => job::run(global, command).await,
        Command::Image(command) => image::run(global, command).await,
        Command::Store(command) => store::run(global, command).await,
        Command::Key(command) => key::run(global, command).await,
        Command::Completions { shell } => completions::run(*shell),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    note(&format!("imageops: {failure}"));
    failure.exit.into()
}

/// Reads the mask once, before there are threads: the system can only swap it.
fn read_user_mask() {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    let _ = USER_MASK.set(mask.as_raw_mode());
}

/// Bits that the user takes away from new files.
fn user_mask() -> u32 {
    USER_MASK.get().copied().unwrap_or(0o022)
}
