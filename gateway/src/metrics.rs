//! Measurements of the HTTP side.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const REQUESTS_TOTAL: &str = "imageops_gateway_http_requests_total";
const REQUESTS_IN_FLIGHT: &str = "imageops_gateway_http_requests_in_flight";
const REQUEST_SECONDS: &str = "imageops_gateway_http_request_duration_seconds";

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
