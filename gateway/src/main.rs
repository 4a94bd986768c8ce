//! REST gateway of imageops for a remote server. See `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use imageops_client::{ConnectOptions, Connection, Identity, TlsOptions};
use imageops_gateway::{Door, Drained, FileSystemView, FilenameForm, GatewayConfig, Limits, Origins};
use imageops_tls::{Certificates, Files};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit status for an unknown flag, or one without the value it needs; the server's own statuses are the same.
const EXIT_USAGE: u8 = 64;
/// Exit status for a port that cannot be bound.
const EXIT_PORT: u8 = 69;
/// Exit status for settings that cannot be used; nothing was bound then.
const EXIT_CONFIGURATION: u8 = 78;

/// How log lines are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Form of `imageInfo.filename` in EdgeGallery answers.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LegacyFilename {
    /// The image root and the name.
    Path,
    /// The last component alone, as late builds of the legacy service wrote it.
    Base,
}

/// Which builds of the EdgeGallery file-system service are stood in for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LegacyProfile {
    /// v1.3: queries have its members alone.
    Seed,
    /// Late ones: queries have all members.
    Late,
}

/// REST faces of imageops over the RPCs of a server elsewhere.
#[derive(Debug, Parser)]
#[command(name = "imageops-gateway", version)]
struct Options {
    /// The server's gRPC address, `https://` for TLS.
    #[arg(long, env = "IMAGEOPS_UPSTREAM", value_name = "http://HOST:PORT")]
    upstream: String,

    /// Authorities that the server's certificate leads to, in PEM [default: those of the system].
    #[arg(long, env = "IMAGEOPS_UPSTREAM_CA", value_name = "FILE")]
    upstream_ca: Option<PathBuf>,

    /// Certificate that the gateway shows to the server, in PEM. A server with `--auth mtls` takes all that comes through
    /// the gateway for this certificate's.
    #[arg(long, env = "IMAGEOPS_UPSTREAM_CERT", value_name = "FILE", requires = "upstream_key")]
    upstream_cert: Option<PathBuf>,

    /// Its private key, in PEM.
    #[arg(long, env = "IMAGEOPS_UPSTREAM_KEY", value_name = "FILE", requires = "upstream_cert")]
    upstream_key: Option<PathBuf>,

    /// Certificate of the gateway, in PEM, with those that lead to its authority: HTTPS. Read again when it changes, and at
    /// SIGHUP.
    #[arg(long, env = "IMAGEOPS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Its private key, in PEM.
    #[arg(long, env = "IMAGEOPS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Where to listen for HTTP.
    #[arg(long, env = "IMAGEOPS_HTTP_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5000")]
    http_listen: SocketAddr,

    /// What EdgeGallery answers show as the directory of the images; text only.
    #[arg(long, env = "IMAGE_PATH", value_name = "PATH", default_value = "/usr/app/vmImage")]
    image_path: String,

    /// Form of `imageInfo.filename` in EdgeGallery answers.
    #[arg(long, env = "IMAGEOPS_LEGACY_FILENAME", value_enum, default_value_t = LegacyFilename::Path)]
    legacy_filename: LegacyFilename,

    /// Which builds of the EdgeGallery file-system service are stood in for: strict clients of v1.3 fail on members that
    /// only late ones had.
    #[arg(long, env = "IMAGEOPS_LEGACY_PROFILE", value_enum, default_value_t = LegacyProfile::Seed)]
    legacy_profile: LegacyProfile,

    /// Where bytes wait that must be there whole before they go on, in files without names [default: the system's
    /// directory for such files].
    #[arg(long, env = "IMAGEOPS_SPOOL_DIR", value_name = "DIR")]
    spool_dir: Option<PathBuf>,

    /// Origins that browsers may call the EdgeGallery paths from, separated by commas. `*` allows all.
    #[arg(
        long,
        env = "IMAGEOPS_CORS_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ',',
        default_value = "*"
    )]
    cors_origins: Vec<String>,

    /// Seconds that requests may take to end after SIGTERM.
    #[arg(long, env = "IMAGEOPS_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u64,

    /// What is logged, as `level` or `target=level`, separated by commas.
    #[arg(long, env = "IMAGEOPS_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// How log lines are written.
    #[arg(long, env = "IMAGEOPS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // A closed pipe is no reason to fail differently.
            let _ = error.print();
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    if let Err(error) = start_log(&options) {
        eprintln!("imageops-gateway: {error:#}");
        return ExitCode::from(EXIT_CONFIGURATION);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    runtime.block_on(async {
        let (connection, config, certificates) = match prepare(&options) {
            Ok(prepared) => prepared,
            Err(error) => {
                eprintln!("imageops-gateway: {error:#}");
                return ExitCode::from(EXIT_CONFIGURATION);
            }
        };
        let listener = match TcpListener::bind(options.http_listen).await {
            Ok(listener) => listener,
            Err(error) => {
                let address = options.http_listen;
                eprintln!(
                    "imageops-gateway: cannot listen on {address}: {error}; choose another with --http-listen"
                );
                return ExitCode::from(EXIT_PORT);
            }
        };
        match run(&options, listener, connection, config, certificates).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        }
    })
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("imageops-gateway: {error:#}");
    ExitCode::FAILURE
}

fn start_log(options: &Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log).context("--log")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // What cannot be logged is lost: to complain of it on the same stream would end the work that it tells of.
        .log_internal_errors(false);
    match options.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Turns the options into what the gateway is made of; nothing is bound yet.
fn prepare(options: &Options) -> anyhow::Result<(Connection, GatewayConfig, Option<Arc<Certificates>>)> {
    let connect = ConnectOptions { tls: upstream_tls(options)?, ..ConnectOptions::default() };
    let connection = Connection::connect_lazy(&options.upstream, connect).context("--upstream")?;
    let certificates = match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => {
            let files = Files { certificate: certificate.clone(), key: key.clone(), client_ca: None };
            Some(Arc::new(Certificates::read(files).context("--tls-cert")?))
        }
        _ => None,
    };
    let metrics = imageops_gateway::metrics_recorder()
        .and_then(PrometheusBuilder::install_recorder)
        .context("metrics")?;
    imageops_gateway::describe_metrics();
    let cors_origins = match options.cors_origins.as_slice() {
        [all] if all == "*" => Origins::Any,
        list => Origins::List(list.iter().filter(|origin| !origin.is_empty()).cloned().collect()),
    };
    let limits = Limits { grace_period: Duration::from_secs(options.drain_seconds), ..Limits::default() };
    let config = GatewayConfig {
        image_path_label: options.image_path.trim_end_matches('/').to_owned(),
        filename_form: match options.legacy_filename {
            LegacyFilename::Path => FilenameForm::Full,
            LegacyFilename::Base => FilenameForm::BaseName,
        },
        file_system_view: match options.legacy_profile {
            LegacyProfile::Seed => FileSystemView::Seed,
            LegacyProfile::Late => FileSystemView::Full,
        },
        spool_dir: options.spool_dir.clone(),
        cors_origins,
        limits,
        metrics: Some(metrics),
    };
    Ok((connection, config, certificates))
}

/// What the connection to the server is made with.
fn upstream_tls(options: &Options) -> anyhow::Result<TlsOptions> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| path.display().to_string());
    let identity = match (&options.upstream_cert, &options.upstream_key) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate_pem: read(certificate)?, key_pem: read(key)? })
        }
        _ => None,
    };
    Ok(TlsOptions { ca_pem: options.upstream_ca.as_ref().map(read).transpose()?, identity })
}

/// Serves until SIGTERM or SIGINT, then drains.
async fn run(
    options: &Options,
    listener: TcpListener,
    connection: Connection,
    config: GatewayConfig,
    certificates: Option<Arc<Certificates>>,
) -> anyhow::Result<()> {
    tracing::info!(address = %listener.local_addr()?, upstream = options.upstream, "serving");
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    let limits = config.limits.clone();
    let router = imageops_gateway::router(connection, config);
    let door = match certificates {
        Some(certificates) => {
            tokio::spawn(Arc::clone(&certificates).keep_fresh(shutdown.clone()));
            Door::encrypted(certificates)
        }
        None => Door::plain(),
    };
    match imageops_gateway::serve(listener, door, router, &limits, shutdown).await {
        Drained::Completely => tracing::info!("all requests ended"),
        Drained::Cut(connections) => tracing::warn!(connections, "the grace period was not enough"),
    }
    Ok(())
}
