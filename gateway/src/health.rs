//! Probes, metrics and the OpenAPI document.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::call;
use crate::problem::Problem;
use crate::route::{Content, Route};
use crate::router::Gateway;

/// What the server's health calls the taking of bytes.
const WRITES: &str = "imageops.writes";
/// What readiness answers while images are served and none are taken: whoever balances must go on to send readers.
const READ_ONLY: &str = "read-only: no store takes bytes now; see GET /v1/stores\n";

/// How long the server may take to say that it is well.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Content type of the Prometheus text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4";

/// The routes of this module.
pub(crate) fn routes() -> Vec<Route> {
    let text = Content::Raw("text/plain");
    [
        Route::new("get", "/healthz", "getHealth", "Tells that the process is alive.", get(healthz))
            .answers(200, "It is.", text),
        Route::new(
            "get",
            "/readyz",
            "getReadiness",
            "Tells whether the server behind takes work.",
            get(readyz),
        )
        .answers(200, "It does; the text tells when no store takes bytes.", text)
        .answers(503, "It does not; `reason` says why.", Content::Json("Problem")),
        Route::new(
            "get",
            "/metrics",
            "getMetrics",
            "Measurements in the Prometheus text format.",
            get(metrics),
        )
        .answers(200, "The measurements.", Content::Raw(PROMETHEUS_TEXT))
        .answers(404, "None are kept by this process.", Content::Json("Problem")),
        Route::new("get", "/openapi.json", "getOpenApi", "This document.", get(document)).answers(
            200,
            "The document.",
            Content::Raw("application/json"),
        ),
    ]
    .into_iter()
    .map(|route| route.tag("Operations"))
    .collect()
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Result<&'static str, Problem> {
    let ask = |service: &str| {
        let mut client = HealthClient::new(gateway.connection.clone());
        let request = call::request(&headers, HealthCheckRequest { service: service.to_owned() });
        async move {
            let answer = call::within(PROBE_TIMEOUT, client.check(request)).await;
            answer.map(|answer| answer.status())
        }
    };
    let not_ready = |reason, detail: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail);
    // The empty name asks for the server as a whole.
    match ask("").await {
        Ok(ServingStatus::Serving) => match ask(WRITES).await {
            Ok(ServingStatus::NotServing) => Ok(READ_ONLY),
            _ => Ok("ok\n"),
        },
        Ok(_) => Err(not_ready("NOT_SERVING", "the server takes no work now")),
        Err(_) => Err(not_ready("UPSTREAM_UNREACHABLE", "the server does not answer")),
    }
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Result<Response, Problem> {
    let handle = gateway.config.metrics.as_ref().ok_or_else(Problem::not_found)?;
    Ok(([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], handle.render()).into_response())
}

async fn document(State(gateway): State<Arc<Gateway>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], gateway.openapi.clone()).into_response()
}
