//! Logs and metrics.

use std::time::Duration;
use std::{io, panic};

use metrics_exporter_prometheus::PrometheusHandle;
use tracing_subscriber::EnvFilter;

use crate::audit::TARGET as AUDIT;
use crate::config::{Config, LogFormat};
use crate::exit::{Exit, Fatal};

/// Time between two folds of what was measured.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts logging on standard error and collecting metrics; the handle renders them.
pub fn start(config: &Config) -> Result<PrometheusHandle, Fatal> {
    // The audit log is no chatter: a level that is meant for the rest does not silence it, its own name does.
    let filter = EnvFilter::try_new(format!("{AUDIT}=info,{}", config.log))
        .map_err(|error| Fatal::new(Exit::Configuration, error.to_string()))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // What cannot be logged is lost: to complain of it on the same stream would end the work that it tells of.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => logs.json().init(),
    }
    let handle = imageops_gateway::metrics_recorder()
        .and_then(|recorder| recorder.install_recorder())
        .map_err(|error| Fatal::new(Exit::Internal, error.to_string()))?;
    imageops_gateway::describe_metrics();
    describe();
    metrics::gauge!("imageops_jobs_queue_limit").set(config.queue_limit as f64);
    begin_at_zero();
    count_panics();
    Ok(handle)
}

/// Folds what was measured into the histograms from time to time: samples would pile up while nobody asks for them.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        handle.run_upkeep();
    }
}

/// A panic ends one request or one job; that it happened is counted and not only logged (reliability 4.6).
fn count_panics() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        metrics::counter!("imageops_panics_total").increment(1);
        default(panic);
    }));
}

/// What alerts are made of is there from the start: of a counter that begins with its first event no increase is seen.
fn begin_at_zero() {
    for name in [
        "imageops_uploads_acknowledged_total",
        "imageops_lost_total",
        "imageops_scrub_mismatch_total",
        "imageops_lease_stolen_total",
        "imageops_panics_total",
    ] {
        metrics::counter!(name).absolute(0);
    }
    for name in ["imageops_jobs_queued", "imageops_jobs_of_one_tenant", "imageops_orphans_bytes"] {
        metrics::gauge!(name).set(0.0);
    }
}

fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_gauge!("imageops_jobs_queue_limit", "jobs that one tenant may have queued or running");
    describe_gauge!("imageops_store_free_bytes", "room that the store says it has for new bytes");
    describe_gauge!("imageops_writable", "1 while a store takes new bytes, else 0");
    describe_gauge!("imageops_copies_damaged", "stored copies that do not have their digest");
    describe_gauge!("imageops_images_lost", "images that have no sound copy");
    describe_counter!("imageops_lost_total", "images whose last sound copy was found damaged");
    describe_counter!("imageops_scrub_mismatch_total", "stored bytes that did not have their digest");
    describe_counter!("imageops_lease_stolen_total", "jobs that another worker took over from this one");
    describe_counter!("imageops_panics_total", "panics, each the end of one request or job");
    describe_gauge!("imageops_orphans_bytes", "bytes without a row that the next sweeps remove");
    describe_gauge!("imageops_jobs_running", "jobs that run in this process");
    describe_gauge!(
        "imageops_jobs_of_one_tenant",
        "the most jobs that one tenant has queued or running, at the last sweep"
    );
    describe_gauge!("imageops_jobs_queued", "jobs that wait for a worker, at the last sweep");
    describe_counter!("imageops_jobs_ended_total", "jobs that ended, by kind and state");
    describe_counter!(
        "imageops_uploads_acknowledged_total",
        "uploads that became an image, durable and acknowledged"
    );
    describe_counter!("imageops_rejected_total", "uploads and calls that were refused, by reason");
}
