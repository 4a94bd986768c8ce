//! Puts the routes, and what every request passes on its way, together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use imageops_client::Connection;
use imageops_tls::Peer;
use uuid::Uuid;

use crate::call::{self, REQUEST_ID};
use crate::config::{GatewayConfig, Origins};
use crate::edgegallery::{file_system, ops};
use crate::metrics::{self, InFlight};
use crate::pace::pace;
use crate::problem::Problem;
use crate::route::Route;
use crate::spool::Spools;
use crate::{framing, health, leftover, openapi, v1};

/// What all handlers share.
pub(crate) struct Gateway {
    /// The way to the server.
    pub(crate) connection: Connection,
    /// What was decided at the start.
    pub(crate) config: GatewayConfig,
    /// The OpenAPI document, as it is sent.
    pub(crate) openapi: Bytes,
    /// Where bytes wait that must be there whole.
    pub(crate) spools: Spools,
    /// Requests answered so far.
    answered: AtomicU64,
}

/// Everything that the gateway serves, over one connection to the server.
pub fn router(connection: Connection, config: GatewayConfig) -> Router {
    let (idle, period) = (config.limits.body_idle_timeout, config.limits.body_pace_period);
    let openapi = Bytes::from(openapi::document(&all_routes()).to_string());
    let spools = Spools::new(config.spool_dir.clone());
    let gateway = Arc::new(Gateway { connection, config, openapi, spools, answered: AtomicU64::new(0) });
    let mut router = Router::new();
    for route in all_routes() {
        if route.slash_allowed {
            router = router.route(&format!("{}/", route.path), route.handler.clone());
        }
        router = router.route(route.matched_path(), route.handler);
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(heed))
        .layer(middleware::map_request(move |request| pace(request, idle, period)))
        .layer(middleware::from_fn_with_state(gateway.clone(), pass))
        .with_state(gateway)
}

impl Gateway {
    /// Counts an answered request. The recorder keeps every measured time until someone looks; where nobody asks for
    /// `/metrics`, this is who looks.
    fn count_answer(&self) {
        const UPKEEP_REQUESTS: u64 = 4096;
        let answered = self.answered.fetch_add(1, Ordering::Relaxed);
        if let (Some(metrics), 0) = (&self.config.metrics, (answered + 1) % UPKEEP_REQUESTS) {
            metrics.run_upkeep();
        }
    }
}

/// The table.
pub(crate) fn all_routes() -> Vec<Route> {
    let mut routes = ops::routes();
    routes.extend(file_system::routes());
    routes.extend(v1::routes());
    routes.extend(health::routes());
    routes
}

/// Whose paths a request is for: each face has errors of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    Ops,
    FileSystem,
    Native,
}

impl Face {
    fn of(uri: &Uri) -> Self {
        let is_below =
            |base| uri.path().strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if is_below(ops::BASE_PATH) {
            Self::Ops
        } else if is_below(file_system::BASE_PATH) {
            Self::FileSystem
        } else {
            Self::Native
        }
    }

    /// A refusal by the router, as this face tells it.
    fn refuse(self, problem: Problem) -> Response {
        match (self, problem.status()) {
            (Self::Native, _) => problem.into_response(),
            (Self::FileSystem, StatusCode::METHOD_NOT_ALLOWED) => file_system::Refusal::wrong_method(),
            // Pages for people, in both legacy services.
            (_, status @ (StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)) => {
                ops::Refusal::plain(status).into_response()
            }
            (Self::Ops, status) => ops::Refusal::plain(status).into_response(),
            (Self::FileSystem, status) => file_system::Refusal::plain(status).into_response(),
        }
    }

    /// Methods that pages of other origins may use, where any may be used.
    fn shared_methods(self) -> Option<&'static str> {
        match self {
            Self::Ops => Some("GET,HEAD,POST,OPTIONS"),
            Self::FileSystem => Some("PUT,PATCH,POST,GET,HEAD,DELETE,OPTIONS"),
            Self::Native => None,
        }
    }
}

/// What every request passes: its id, the bounds of its line, the headers of its answer, the measurements.
async fn pass(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let _in_flight = InFlight::begin();
    let method = request.method().clone();
    let face = Face::of(request.uri());
    let template = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let peer = request.extensions_mut().remove::<Peer>();
    call::name_peer(request.headers_mut(), peer.as_ref());

    let mut response = match refuse_line(&gateway, request.uri()) {
        Some(refusal) => face.refuse(refusal),
        None => next.run(request).await,
    };

    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(methods) = face.shared_methods() {
        let methods = (method == Method::OPTIONS).then_some(methods);
        allow_origin(headers, &gateway.config.cors_origins, origin.as_ref(), methods);
    }
    let route = template.as_deref().map_or("unmatched", |path| path.trim_end_matches('/'));
    metrics::request_ended(route, &method, response.status(), begun.elapsed());
    gateway.count_answer();
    tracing::debug!(
        %method,
        route,
        status = response.status().as_u16(),
        request_id = id.to_str().unwrap_or_default(),
        "request answered"
    );
    response
}

/// Lets requests through that can be taken as they were meant.
async fn heed(request: Request, next: Next) -> Response {
    match framing::refusal(&request) {
        Some(problem) => {
            let face = Face::of(request.uri());
            leftover::dismiss(request.into_body());
            face.refuse(problem)
        }
        None => next.run(request).await,
    }
}

/// The caller's id of the request where it is one that can go into logs and headers, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    const BYTES_MAX: usize = 128;
    let sent = headers.get(REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        !bytes.is_empty() && bytes.len() <= BYTES_MAX && bytes.iter().all(u8::is_ascii_graphic)
    });
    sent.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is made of visible characters")
    })
}

fn refuse_line(gateway: &Gateway, uri: &Uri) -> Option<Problem> {
    let query_bytes = uri.query().map_or(0, str::len);
    (query_bytes > gateway.config.limits.query_bytes_max).then(|| {
        Problem::new(StatusCode::URI_TOO_LONG, "QUERY_TOO_LONG", "the query string is longer than allowed")
    })
}

/// The legacy services let every page in; credentials are never allowed along. A pre-flight is told the methods too.
fn allow_origin(
    headers: &mut HeaderMap,
    origins: &Origins,
    origin: Option<&HeaderValue>,
    methods: Option<&'static str>,
) {
    let allowed = match origins {
        Origins::Any => Some(HeaderValue::from_static("*")),
        Origins::List(list) => {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
            origin.filter(|origin| list.iter().any(|entry| entry.as_bytes() == origin.as_bytes())).cloned()
        }
    };
    let Some(allowed) = allowed else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Content-Length,Content-Disposition,X-Request-Id"),
    );
    if let Some(methods) = methods {
        let fixed: [(HeaderName, &str); 3] = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization,Content-Type,X-Request-Id"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

async fn unknown_path(uri: Uri) -> Response {
    Face::of(&uri).refuse(Problem::not_found())
}

async fn wrong_method(uri: Uri, request: Request<Body>) -> Response {
    let face = Face::of(&uri);
    if face == Face::FileSystem && request.method() == Method::OPTIONS {
        // A pre-flight, or a question for the methods: the router adds them.
        return StatusCode::OK.into_response();
    }
    let detail = format!("{} is not possible here", request.method());
    face.refuse(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail))
}
