//! `imageops completions`.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::output::print;

/// Prints the completions of `shell`.
pub(crate) fn run(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "imageops", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
