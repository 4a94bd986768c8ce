//! Puts a router on a listener, with the bounds that a public port needs.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::Version;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use imageops_tls::{Door, Peer, Stream};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::config::Limits;
use crate::sendfile::Outlet;

/// Longest head of a request, all headers together, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The same over HTTP/2, where headers are counted unpacked.
const HTTP2_HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Most requests at a time on one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 256;
/// Pause after an accept that failed for want of something: trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Sign of life that is asked of idle HTTP/2 connections.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);

/// Whether all requests ended in the grace period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// They did.
    Completely,
    /// So many connections were cut.
    Cut(usize),
}

/// Stands in the extensions of a request: cancelled when the listener shuts down. Answers without an end of their own
/// (event streams) end then.
#[derive(Clone, Debug)]
pub(crate) struct Draining(pub(crate) CancellationToken);

/// Serves `router` on `listener`, behind `door`, until `shutdown` is cancelled, then lets running requests end within the grace period.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    router: Router,
    limits: &Limits,
    shutdown: CancellationToken,
) -> Drained {
    let connections = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let cut = CancellationToken::new();
    let server = Arc::new(builder(limits));
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            () = shutdown.cancelled() => break,
        };
        let (stream, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let (server, router, shutdown, cut) = (server.clone(), router.clone(), shutdown.clone(), cut.clone());
        let (door, life) = (door.clone(), Life::begin(limits));
        connections.spawn(async move {
            let _permit = permit;
            let conversation = async {
                match door.let_in(stream, address).await {
                    Ok((stream, peer)) => converse(&server, stream, peer, router, life, shutdown).await,
                    Err(error) => tracing::debug!(%error, "a handshake failed"),
                }
            };
            tokio::select! {
                () = conversation => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.grace_period, connections.wait()).await.is_ok() {
        return Drained::Completely;
    }
    let left = connections.len();
    cut.cancel();
    connections.wait().await;
    Drained::Cut(left)
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        // Bodies are written as they are handed over, not gathered: see `sendfile`.
        .writev(true)
        .half_close(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HTTP2_HEADERS_BYTES_MAX)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(limits.header_timeout);
    server
}

/// One connection to its end.
async fn converse(
    server: &auto::Builder<TokioExecutor>,
    stream: Stream,
    peer: Peer,
    router: Router,
    life: Life,
    shutdown: CancellationToken,
) {
    let draining = Draining(shutdown.clone());
    let outlet = Outlet::new(stream);
    let passage = outlet.passage();
    let life = Arc::new(life);
    let asked = Arc::clone(&life);
    let service = router.map_request(move |mut request: Request<Incoming>| {
        asked.go_on(request.version());
        request.extensions_mut().insert(draining.clone());
        request.extensions_mut().insert(peer.clone());
        // HTTP/2 would put frames of its own around, and copies of, what stands for the bytes.
        if let (Some(passage), Version::HTTP_10 | Version::HTTP_11) = (&passage, request.version()) {
            request.extensions_mut().insert(passage.clone());
        }
        request
    });
    let connection = server.serve_connection(TokioIo::new(outlet), TowerToHyperService::new(service));
    tokio::pin!(connection);
    let last_call = async {
        tokio::select! { () = shutdown.cancelled() => {}, () = life.over() => {} }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_call => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// How long a connection of HTTP/2 takes requests: it answers pings, and so whoever opens many and asks nothing would keep the
/// places of all others.
struct Life {
    idle_timeout: Duration,
    end: Instant,
    /// `None`: it is one of HTTP/1, which is timed between requests, and cannot say beforehand that it takes no more.
    last_request: Mutex<Option<Instant>>,
}

impl Life {
    fn begin(limits: &Limits) -> Self {
        let now = Instant::now();
        let idle_timeout = limits.connection_idle_timeout;
        Self { idle_timeout, end: now + limits.connection_age_max, last_request: Mutex::new(Some(now)) }
    }

    /// A request has come.
    fn go_on(&self, version: Version) {
        let last_request = (version == Version::HTTP_2).then(Instant::now);
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = last_request;
    }

    /// Waits for the end.
    async fn over(&self) {
        loop {
            let last_request = *self.last_request.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(last_request) = last_request else { return pending().await };
            let due = self.end.min(last_request + self.idle_timeout);
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}
