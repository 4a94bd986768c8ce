//! Measurements of the HTTP side.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

const REQUESTS_TOTAL: &str = "imageops_gateway_http_requests_total";
const REQUESTS_IN_FLIGHT: &str = "imageops_gateway_http_requests_in_flight";
const REQUEST_SECONDS: &str = "imageops_gateway_http_request_duration_seconds";

/// Bounds of the classes that times are counted in, in seconds: from a poll of a job to the upload of a large image.
const SECONDS_BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// A recorder that counts times in classes, which can be added up over several gateways where quantiles cannot.
pub fn recorder() -> Result<PrometheusBuilder, BuildError> {
    let durations = Matcher::Suffix("_duration_seconds".to_owned());
    PrometheusBuilder::new().set_buckets_for_metric(durations, &SECONDS_BOUNDS)
}

/// Gives the metrics of the gateway their texts; call once, after the recorder is installed.
pub fn describe() {
    describe_counter!(REQUESTS_TOTAL, "HTTP requests answered, by route, method and status");
    describe_gauge!(REQUESTS_IN_FLIGHT, "HTTP requests whose answer has not begun");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "time from a request's head to its answer's head");
}

/// Counts one answered request. `route` is the template, never the path: a label must not grow with what clients send.
pub(crate) fn request_ended(route: &str, method: &Method, status: StatusCode, elapsed: Duration) {
    let method = method_label(method);
    let labels = [("route", route.to_owned()), ("method", method.to_owned())];
    let status = status.as_str().to_owned();
    counter!(REQUESTS_TOTAL, "route" => route.to_owned(), "method" => method, "status" => status)
        .increment(1);
    histogram!(REQUEST_SECONDS, &labels).record(elapsed.as_secs_f64());
}

fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// A request that is being answered; counts itself out when it ends, also when the client went away.
pub(crate) struct InFlight(());

impl InFlight {
    pub(crate) fn begin() -> Self {
        gauge!(REQUESTS_IN_FLIGHT).increment(1);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(REQUESTS_IN_FLIGHT).decrement(1);
    }
}
