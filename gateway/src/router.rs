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
use tower_http::timeout::RequestBodyTimeoutLayer;
use uuid::Uuid;

use crate::call::REQUEST_ID;
use crate::config::{GatewayConfig, Origins};
use crate::edgegallery::ops;
use crate::metrics::{self, InFlight};
use crate::problem::Problem;
use crate::route::Route;
use crate::{health, openapi, v1};

/// What all handlers share.
pub(crate) struct Gateway {
    /// The way to the server.
    pub(crate) connection: Connection,
    /// What was decided at the start.
    pub(crate) config: GatewayConfig,
    /// The OpenAPI document, as it is sent.
    pub(crate) openapi: Bytes,
    /// Requests answered so far.
    answered: AtomicU64,
}

/// Everything that the gateway serves, over one connection to the server.
pub fn router(connection: Connection, config: GatewayConfig) -> Router {
    let idle = config.limits.body_idle_timeout;
    let openapi = Bytes::from(openapi::document(&all_routes()).to_string());
    let gateway = Arc::new(Gateway { connection, config, openapi, answered: AtomicU64::new(0) });
    let mut router = Router::new();
    for route in all_routes() {
        router = router.route(route.matched_path(), route.handler);
    }
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(RequestBodyTimeoutLayer::new(idle))
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
    routes.extend(v1::routes());
    routes.extend(health::routes());
    routes
}

fn is_legacy(uri: &Uri) -> bool {
    uri.path().strip_prefix(ops::BASE_PATH).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What every request passes: its id, the bounds of its line, the headers of its answer, the measurements.
async fn pass(State(gateway): State<Arc<Gateway>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let _in_flight = InFlight::begin();
    let method = request.method().clone();
    let legacy = is_legacy(request.uri());
    let template = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());

    let mut response = match refuse_line(&gateway, request.uri()) {
        Some(refusal) if legacy => ops::Refusal::plain(refusal.status()).into_response(),
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };

    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if legacy {
        allow_origin(headers, &gateway.config.cors_origins, origin.as_ref(), method == Method::OPTIONS);
    }
    let route = template.as_deref().unwrap_or("unmatched");
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

/// The legacy service let every page in; credentials are never allowed along.
fn allow_origin(headers: &mut HeaderMap, origins: &Origins, origin: Option<&HeaderValue>, preflight: bool) {
    let allowed = match origins {
        Origins::Any => Some(HeaderValue::from_static("*")),
        Origins::List(list) => {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
            origin.filter(|origin| list.iter().any(|entry| entry.as_bytes() == origin.as_bytes())).cloned()
        }
    };
    let Some(allowed) = allowed else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("X-Request-Id"));
    if preflight {
        let fixed: [(HeaderName, &str); 3] = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET,HEAD,POST,OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization,Content-Type,X-Request-Id"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

async fn unknown_path(uri: Uri) -> Response {
    if is_legacy(&uri) {
        return ops::Refusal::plain(StatusCode::NOT_FOUND).into_response();
    }
    Problem::not_found().into_response()
}

async fn wrong_method(uri: Uri, request: Request<Body>) -> Response {
    if is_legacy(&uri) {
        return ops::Refusal::plain(StatusCode::METHOD_NOT_ALLOWED).into_response();
    }
    let detail = format!("{} is not possible here", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail).into_response()
}
