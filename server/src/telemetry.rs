//! Logs and metrics.

use std::io;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};
use crate::exit::{Exit, Fatal};

/// Starts logging on standard error and collecting metrics; the handle renders them.
pub fn start(config: &Config) -> Result<PrometheusHandle, Fatal> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| Fatal::new(Exit::Configuration, error.to_string()))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => logs.json().init(),
    }
    PrometheusBuilder::new().install_recorder().map_err(|error| Fatal::new(Exit::Internal, error.to_string()))
}
