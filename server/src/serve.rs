//! Puts the parts together, serves, and takes them apart again.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use imageops::v1;
use imageops::v1::image_ops_server::ImageOpsServer;
use imageops::v1::images_server::ImagesServer;
use imageops::v1::keys_server::KeysServer;
use imageops::v1::stores_server::StoresServer;
use imageops_catalogue::{Catalogue, PostgresCatalogue, SqliteCatalogue};
use imageops_client::Connection;
use imageops_gateway::{Drained, FileSystemView, FilenameForm, GatewayConfig, Limits, Origins};
use imageops_store::{DirectoryStore, ImageRoot, Store, make_directories};
use imageops_tls::Door;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::App;
use crate::audit::{Sink, record_calls};
use crate::auth::Authenticator;
use crate::ballast::Ballast;
use crate::bells::Bells;
use crate::config::{AuthMode, Config, LegacyFilename, LegacyProfile};
use crate::doomed::Doomed;
use crate::exit::{Exit, Fatal};
use crate::failure::Failure;
use crate::hub::Hub;
use crate::limits::TenantLimits;
use crate::rpc::Service;
use crate::shutdown::Signals;
use crate::stores::Stores;
use crate::upload::Uploads;
use crate::{entrance, listen, open_files, sources, sweep, telemetry, worker};

/// Largest message, either way: a chunk of 1 MiB and its frame fit with room to spare.
const MESSAGE_MAX_BYTES: usize = 4 << 20;
/// Largest message to the services that anyone may ask.
const QUESTION_MAX_BYTES: usize = 16 << 10;
/// How often the stores are probed (zstack.md 1.4).
const PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// How often those are looked for that are not there, or fail their writes: one that is back takes bytes within 10 s
/// (reliability rel_13, rel_15).
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two probes at least, when calls fail.
const SUSPECT_INTERVAL: Duration = Duration::from_millis(200);
/// What health calls the taking of bytes: not served while every store is away, disabled, or fails its writes.
const WRITES: &str = "imageops.writes";
/// How much one call may send ahead of what is taken from it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// How much one connection may send ahead.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Longest HTTP/2 frame that is taken: with the 16 KiB that HTTP/2 starts with, each of them costs its sender and us a system
/// call. Of each connection no more than one is in memory before it is counted against the windows.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// How old a connection of gRPC gets before it is asked to be replaced: behind a balancer, load spreads again (SEC-38).
const CONNECTION_AGE: Duration = Duration::from_secs(3600);

/// File of the catalogue in the data directory.
const CATALOGUE: &str = "catalogue.sqlite";

/// Opens the catalogue that is there. One that would have to be made is another one than is meant.
pub async fn open_existing_catalogue(config: &Config) -> Result<Arc<dyn Catalogue>, Fatal> {
    let path = config.data_dir.join(CATALOGUE);
    if config.catalogue_url.is_none() && matches!(path.try_exists(), Ok(false)) {
        let message = format!("there is no {}; --data-dir names the directory of the server", path.display());
        return Err(Fatal::new(Exit::Catalogue, message));
    }
    open_catalogue(config).await
}

/// Opens the catalogue in the data directory, which it makes where there is none.
pub async fn open_catalogue(config: &Config) -> Result<Arc<dyn Catalogue>, Fatal> {
    let failed = |place: &dyn std::fmt::Display, error: imageops_catalogue::Error| {
        tracing::debug!(?error, "catalogue");
        Fatal::new(Exit::Catalogue, format!("the catalogue {place} cannot be opened: {error}"))
    };
    if let Some(url) = &config.catalogue_url {
        // The address may hold a password: it is not shown.
        let catalogue = PostgresCatalogue::connect(url).await;
        return Ok(Arc::new(catalogue.map_err(|error| failed(&"of --catalogue-url", error))?));
    }
    make_directory(&config.data_dir, 0o700)?;
    let path = config.data_dir.join(CATALOGUE);
    let catalogue = SqliteCatalogue::open(&path).await;
    Ok(Arc::new(catalogue.map_err(|error| failed(&path.display(), error))?))
}

/// Serves until a signal, then drains.
pub async fn serve(config: Config, metrics: PrometheusHandle) -> Result<(), Fatal> {
    open_files::raise_limit();
    let closing = CancellationToken::new();
    let door = listen::door(&config, &closing)?;
    let app = build(config).await?;
    let grpc = bind("gRPC", app.config.grpc_listen).await?;
    let mut rest = vec![bind("REST", app.config.http_listen).await?];
    for address in &app.config.http_listen_also {
        rest.push(bind("REST", *address).await?);
    }
    // Whoever reads the addresses may stop the server from then on.
    let signals = Signals::listen().map_err(|error| Fatal::new(Exit::Internal, error.to_string()))?;
    announce(&app.config, &door, &grpc, &rest)?;

    let (health, routes) = routes(&app).await?;
    tokio::spawn(telemetry::upkeep(metrics.clone()));
    let limits = limits(&app.config, 1 + rest.len());
    let gateway = gateway(&app.config, routes.clone(), limits.clone(), metrics);
    let workers = tokio::spawn(worker::dispatch(Arc::clone(&app)));
    let sweeper = tokio::spawn(sweep::run(Arc::clone(&app)));
    let prober = tokio::spawn(probe(Arc::clone(&app), health.clone()));
    let grpc = tokio::spawn(serve_grpc(routes, grpc, door.clone(), limits.connections_max, closing.clone()));
    let rest = rest.into_iter().map(|listener| {
        let (gateway, limits, closing) = (gateway.clone(), limits.clone(), closing.clone());
        let door = door.clone();
        tokio::spawn(async move { imageops_gateway::serve(listener, door, gateway, &limits, closing).await })
    });
    let rest: Vec<_> = rest.collect();

    signals.first().await;
    tracing::info!(
        seconds = app.config.drain_seconds,
        "going down: running calls may end, jobs go back to the queue"
    );
    health.set_not_serving::<ImageOpsServer<Service>>().await;
    health.set_not_serving::<ImagesServer<Service>>().await;
    health.set_not_serving::<StoresServer<Service>>().await;
    health.set_not_serving::<KeysServer<Service>>().await;
    health.set_service_status("", ServingStatus::NotServing).await;
    app.shutdown.cancel();
    end_uploads_in_time(&app);
    // Whoever asks meanwhile is told to go elsewhere.
    tokio::time::sleep(Duration::from_secs(u64::from(app.config.unready_seconds))).await;
    closing.cancel();
    let drained = drain(&app, [workers, sweeper, prober], grpc, rest).await;
    app.catalogue.close().await;
    app.audit.close().await;
    tracing::info!(kept = drained, "stopped");
    Ok(())
}

async fn build(config: Config) -> Result<Arc<App>, Fatal> {
    make_directory(&config.image_path, 0o755)?;
    let app = assemble(config).await?;
    sweep::recover_image_root(&app.image_root).await.map_err(|failure| not_recovered(&failure))?;
    if app.config.auth == AuthMode::None && app.config.listens_beyond_loopback() {
        tracing::warn!("everyone who reaches the ports may do everything: --auth none beyond loopback");
    }
    if app.config.auth == AuthMode::Token
        && app.config.tls_cert.is_none()
        && app.config.listens_beyond_loopback()
    {
        tracing::warn!("keys are sent in the clear: --auth token beyond loopback without --tls-cert");
    }
    Ok(app)
}

fn not_recovered(failure: &Failure) -> Fatal {
    Fatal::new(Exit::Storage, format!("recovery failed: {}", failure.message))
}

/// The parts of a server, alone on the data directory and in order after a former life. Nothing beneath the image root,
/// which must exist, is touched.
pub(crate) async fn assemble(config: Config) -> Result<Arc<App>, Fatal> {
    let audit = Sink::open(config.audit_log.as_deref())?;
    make_directory(&config.data_dir, 0o700)?;
    let data_dir = fs::canonicalize(&config.data_dir).map_err(|error| storage(&config.data_dir, error))?;
    // The store's lock comes first: whoever holds it is alone with the catalogue's leases.
    let store_path = data_dir.join("store");
    let store: Arc<dyn Store> =
        Arc::new(DirectoryStore::open_or_create(&store_path).map_err(|error| match error {
            error @ imageops_store::Error::InUse => {
                Fatal::new(Exit::InUse, format!("the store {} cannot be used: {error}", store_path.display()))
            }
            other => storage(&store_path, other),
        })?);
    let root = fs::canonicalize(&config.image_path).map_err(|error| storage(&config.image_path, error))?;
    if root.starts_with(&store_path) || root == data_dir {
        let message =
            "--image-path lies in the store: outputs could replace stored images; name another directory";
        return Err(Fatal::new(Exit::Configuration, message));
    }
    let image_root = ImageRoot::open(&config.image_path, std::slice::from_ref(&data_dir))
        .map_err(|error| storage(&config.image_path, error))?;
    let image_root = Arc::new(image_root);
    let catalogue = open_catalogue(&config).await?;
    let worker = worker::identity(&data_dir).map_err(|error| storage(&data_dir, error))?;
    let stores = open_stores(&config, &*catalogue, store, &data_dir, &image_root).await?;
    sweep::recover(&*catalogue, worker, &stores).await.map_err(|failure| not_recovered(&failure))?;
    let ballast = Arc::new(Ballast::of(&data_dir));
    if let Err(error) = ballast.lay_in() {
        tracing::warn!(%error, "no room is kept for removals on a full disk; the next sweep tries again");
    }
    Ok(Arc::new(App {
        audit,
        doomed: Doomed::default(),
        readers: Arc::default(),
        ballast,
        authenticator: Authenticator::new(
            config.auth,
            config.tls_client_ca.is_some(),
            Arc::clone(&catalogue),
        ),
        sources: sources::fetcher(&config)?,
        tenant_limits: Arc::new(tenant_limits(&config)),
        uploads: Uploads::new(config.uploads_max),
        catalogue,
        stores,
        worker,
        image_root,
        hub: Arc::new(Hub::default()),
        bells: Bells::default(),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
        drain_over: CancellationToken::new(),
        config,
    }))
}

/// Where nobody is asked who calls there is one tenant, and nobody to keep a share for.
fn tenant_limits(config: &Config) -> TenantLimits {
    match config.auth {
        AuthMode::None => TenantLimits::new(0, 0),
        AuthMode::Token | AuthMode::Mtls => {
            TenantLimits::new(config.tenant_calls_max, config.tenant_calls_per_second)
        }
    }
}

async fn open_stores(
    config: &Config,
    catalogue: &dyn Catalogue,
    default: Arc<dyn Store>,
    data_dir: &Path,
    image_root: &Arc<ImageRoot>,
) -> Result<Arc<Stores>, Fatal> {
    let (path, staging) = (data_dir.join("store"), data_dir.join("staging"));
    let credentials = config.credentials.clone();
    let stores =
        Stores::open(catalogue, default, &path, &config.stores, credentials, staging, Arc::clone(image_root))
            .await;
    Ok(Arc::new(stores.map_err(|failure| Fatal::new(Exit::Storage, failure.message))?))
}

/// Looks after the stores until shutdown, and says in the health of [`WRITES`] whether any of them takes bytes.
async fn probe(app: Arc<App>, health: HealthReporter) {
    let mut tick = tokio::time::interval(RECONNECT_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut all_due = tokio::time::Instant::now();
    loop {
        let now = tokio::select! {
            now = tick.tick() => now,
            () = app.stores.suspected() => tokio::time::Instant::now(),
            () = app.shutdown.cancelled() => break,
        };
        let probed = if now >= all_due {
            all_due = now + PROBE_INTERVAL;
            app.stores.probe_all().await
        } else {
            app.stores.probe_doubtful().await
        };
        if let Err(failure) = probed {
            tracing::warn!(reason = failure.reason, "the stores were not probed; the next time comes");
        }
        let take_bytes = app.stores.take_bytes();
        metrics::gauge!("imageops_writable").set(f64::from(take_bytes));
        let status = if take_bytes { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(WRITES, status).await;
        // One that fails calls and no probe is not probed without a pause.
        tokio::select! {
            () = tokio::time::sleep(SUSPECT_INTERVAL) => {}
            () = app.shutdown.cancelled() => break,
        }
    }
    health.set_service_status(WRITES, ServingStatus::NotServing).await;
}

fn make_directory(path: &Path, mode: u32) -> Result<(), Fatal> {
    make_directories(path, mode).map_err(|error| storage(path, error))
}

fn storage(path: &Path, error: impl std::fmt::Display) -> Fatal {
    Fatal::new(Exit::Storage, format!("the directory {} cannot be used: {error}", path.display()))
}

async fn bind(what: &str, address: SocketAddr) -> Result<TcpListener, Fatal> {
    TcpListener::bind(address).await.map_err(|error| {
        let message =
            format!("{what} cannot listen on {address}: {error}; choose another address or stop what has it");
        Fatal::new(Exit::Port, message)
    })
}

/// Tells people and scripts where the server is: two lines on standard output, once both ports are bound.
fn announce(config: &Config, door: &Door, grpc: &TcpListener, rest: &[TcpListener]) -> Result<(), Fatal> {
    let address = |listener: &TcpListener| {
        listener.local_addr().map_err(|error| Fatal::new(Exit::Internal, error.to_string()))
    };
    let grpc = address(grpc)?;
    let rest = rest.iter().map(address).collect::<Result<Vec<_>, Fatal>>()?;
    // A closed standard output is no reason not to serve.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "gRPC listening on {grpc}");
    let scheme = if door.is_encrypted() { "https" } else { "http" };
    for rest in &rest {
        let _ = writeln!(out, "REST listening on {scheme}://{rest}");
    }
    let _ = writeln!(out, "images in {}", config.image_path.display());
    tracing::info!(%grpc, ?rest, image_path = %config.image_path.display(), data_dir = %config.data_dir.display(), "ready");
    Ok(())
}

async fn routes(app: &Arc<App>) -> Result<(HealthReporter, Routes), Fatal> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ImageOpsServer<Service>>().await;
    health.set_serving::<ImagesServer<Service>>().await;
    health.set_serving::<StoresServer<Service>>().await;
    health.set_serving::<KeysServer<Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let internal = |error: tonic_reflection::server::Error| Fatal::new(Exit::Internal, error.to_string());
    let service = Service::new(Arc::clone(app));
    let work = ImageOpsServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let records = ImagesServer::new(service.clone())
        .max_decoding_message_size(entrance::RECORD_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let stores = StoresServer::new(service.clone())
        .max_decoding_message_size(entrance::RECORD_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let keys = KeysServer::new(service)
        .max_decoding_message_size(entrance::RECORD_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let routes = Routes::new(work)
        .add_service(records)
        .add_service(stores)
        .add_service(keys)
        .add_service(health_service.max_decoding_message_size(QUESTION_MAX_BYTES))
        .add_service(reflection().build_v1().map_err(internal)?.max_decoding_message_size(QUESTION_MAX_BYTES))
        .add_service(
            reflection().build_v1alpha().map_err(internal)?.max_decoding_message_size(QUESTION_MAX_BYTES),
        );
    let guarded = routes.into_axum_router().layer(from_fn_with_state(Arc::clone(app), entrance::enter));
    let recorded = guarded.layer(from_fn_with_state(app.audit.clone(), record_calls));
    Ok((health, Routes::from(recorded).prepare()))
}

fn gateway(config: &Config, routes: Routes, limits: Limits, metrics: PrometheusHandle) -> axum::Router {
    let config = GatewayConfig {
        image_path_label: path_label(&config.image_path),
        filename_form: match config.legacy_filename {
            LegacyFilename::Path => FilenameForm::Full,
            LegacyFilename::Base => FilenameForm::BaseName,
        },
        cors_origins: if config.cors_origins.iter().any(|origin| origin == "*") {
            Origins::Any
        } else {
            Origins::List(config.cors_origins.clone())
        },
        spool_dir: Some(config.data_dir.clone()),
        limits,
        metrics: Some(metrics),
        file_system_view: match config.legacy_profile {
            LegacyProfile::Seed => FileSystemView::Seed,
            LegacyProfile::Late => FileSystemView::Full,
        },
    };
    imageops_gateway::router(Connection::from_service(routes), config)
}

/// The image root as the legacy surface shows it: absolute, without a slash at the end.
fn path_label(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    absolute.to_string_lossy().trim_end_matches('/').to_owned()
}

fn limits(config: &Config, listeners: usize) -> Limits {
    let limits = Limits { grace_period: closing_time(config), ..Limits::default() };
    Limits { connections_max: open_files::connections_max(limits.connections_max, listeners), ..limits }
}

/// What of the drain is left once no connection is let in any more.
fn closing_time(config: &Config) -> Duration {
    Duration::from_secs(u64::from(config.drain_seconds.saturating_sub(config.unready_seconds)))
}

async fn serve_grpc(
    routes: Routes,
    listener: TcpListener,
    door: Door,
    connections_max: usize,
    closing: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(256)
        .http2_max_header_list_size(16 << 10)
        .http2_max_pending_accept_reset_streams(Some(64))
        // tonic counts none unless told: streams that a client makes the server reset (CVE-2025-8671).
        .http2_max_local_error_reset_streams(Some(1024))
        // Running calls go on; the next ones come by another connection.
        .max_connection_age(CONNECTION_AGE)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            listen::incoming(listener, door, connections_max),
            closing.cancelled_owned(),
        )
        .await
}

/// Gives running uploads their time, less what making them durable may take.
fn end_uploads_in_time(app: &Arc<App>) {
    let given = Duration::from_secs(u64::from(app.config.drain_seconds).saturating_sub(2));
    let drain_over = app.drain_over.clone();
    tokio::spawn(async move {
        tokio::time::sleep(given).await;
        drain_over.cancel();
    });
}

/// Waits for what is running, for as long as configured; whether all of it ended.
async fn drain(
    app: &App,
    parts: [tokio::task::JoinHandle<()>; 3],
    grpc: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    rest: Vec<tokio::task::JoinHandle<Drained>>,
) -> bool {
    app.tasks.close();
    let everything = async {
        let (parts, rest) = (futures::future::join_all(parts), futures::future::join_all(rest));
        let (parts, grpc, rest, ()) = tokio::join!(parts, grpc, rest, app.tasks.wait());
        for error in parts.into_iter().filter_map(Result::err) {
            tracing::error!(%error, "a part of the server did not end well");
        }
        if let Ok(Err(error)) = grpc {
            tracing::warn!(%error, "gRPC did not end well");
        }
        rest.iter().all(|rest| matches!(rest, Ok(Drained::Completely)))
    };
    timeout(closing_time(&app.config) + Duration::from_secs(1), everything).await.unwrap_or(false)
}
