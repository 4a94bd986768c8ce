//! `imageops-server`: parses, builds, runs, drains.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use imageops_server::config::{Cli, Command, Config, KeyCommand};
use imageops_server::exit::{Exit, Fatal};
use imageops_server::{import, keys, serve, telemetry};

/// How long threads have to come to their end when all work has.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("imageops-server: {fatal}");
            fatal.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Fatal> {
    let config = Config::load(cli.settings, cli.config.as_deref())?;
    if cli.print_config {
        print!("{}", config.to_toml()?);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Fatal::new(Exit::Internal, format!("no threads: {error}")))?;
    let ended = runtime.block_on(async {
        match cli.command {
            Some(Command::Key(command)) => {
                let catalogue = match &command {
                    // The first key may be made before the first start.
                    KeyCommand::Create(_) => serve::open_catalogue(&config).await?,
                    KeyCommand::List | KeyCommand::Revoke { .. } => {
                        serve::open_existing_catalogue(&config).await?
                    }
                };
                keys::run(command, &*catalogue, config.audit_log.as_deref()).await
            }
            Some(Command::ImportEdgegallery(from)) => {
                telemetry::start(&config)?;
                import::run(config, *from).await
            }
            None => {
                let metrics = telemetry::start(&config)?;
                serve::serve(config, metrics).await
            }
        }
    });
    // A thread may hang in a file system that does not answer.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    ended
}
