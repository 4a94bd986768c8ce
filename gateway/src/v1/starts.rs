//! Work that is asked for: checks, compressions, estimates, conversions, imports, inspections.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::post;
use imageops::v1::{
    CheckRequest, CompressRequest, ConvertRequest, EstimateCompressionRequest, ImportImageRequest,
    InspectRequest, Job,
};

use super::{answer, header_text, id_of, present, read_message};
use crate::call;
use crate::problem::Problem;
use crate::route::{Content, Route};
use crate::router::Gateway;

/// Header that carries the `request_id` of a start.
pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// What it means.
pub(super) const IDEMPOTENCY_TEXT: &str = "UUID; the same key with the same request answers the first job.";

pub(super) fn routes() -> Vec<Route> {
    let start = |path, operation, summary, handler, message| {
        Route::new("post", path, operation, summary, handler)
            .tag("Jobs")
            .header(IDEMPOTENCY_KEY, IDEMPOTENCY_TEXT, false)
            .takes(Content::Message(message))
            .answers(202, "The job; `Location` leads to it.", Content::Message("Job"))
            .answers(200, "With `validate_only`: what would be answered.", Content::Message("Job"))
    };
    vec![
        start("/v1/checks", "startCheck", "Starts a check.", post(start_check), "CheckRequest"),
        start(
            "/v1/compressions",
            "startCompression",
            "Starts a compression.",
            post(start_compress),
            "CompressRequest",
        ),
        start(
            "/v1/estimates",
            "startEstimate",
            "Starts an estimate of what a compression would come to.",
            post(start_estimate),
            "EstimateCompressionRequest",
        ),
        start(
            "/v1/conversions",
            "startConversion",
            "Starts a conversion.",
            post(start_convert),
            "ConvertRequest",
        ),
        start(
            "/v1/imports",
            "startImport",
            "Fetches an image from a URL.",
            post(start_import),
            "ImportImageRequest",
        ),
        Route::new(
            "post",
            "/v1/inspections",
            "inspect",
            "Looks at an image without reading its data.",
            post(inspect),
        )
        .tag("Jobs")
        .takes(Content::Message("InspectRequest"))
        .answers(200, "What was found, whatever the verdict.", Content::Message("Inspection")),
    ]
}

async fn start_check(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut message: CheckRequest = read_message(&gateway, &headers, body).await?;
    take_key(&headers, &mut message.request_id)?;
    let mut stub = gateway.connection.stub();
    let call = stub.check(call::request(&headers, message));
    started(call::within(gateway.config.limits.call_timeout, call).await?.job)
}

async fn start_compress(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut message: CompressRequest = read_message(&gateway, &headers, body).await?;
    take_key(&headers, &mut message.request_id)?;
    let mut stub = gateway.connection.stub();
    let call = stub.compress(call::request(&headers, message));
    started(call::within(gateway.config.limits.call_timeout, call).await?.job)
}

async fn start_estimate(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut message: EstimateCompressionRequest = read_message(&gateway, &headers, body).await?;
    take_key(&headers, &mut message.request_id)?;
    let mut stub = gateway.connection.stub();
    let call = stub.estimate_compression(call::request(&headers, message));
    started(call::within(gateway.config.limits.call_timeout, call).await?.job)
}

async fn start_convert(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut message: ConvertRequest = read_message(&gateway, &headers, body).await?;
    take_key(&headers, &mut message.request_id)?;
    let mut stub = gateway.connection.stub();
    let call = stub.convert(call::request(&headers, message));
    started(call::within(gateway.config.limits.call_timeout, call).await?.job)
}

async fn start_import(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let mut message: ImportImageRequest = read_message(&gateway, &headers, body).await?;
    take_key(&headers, &mut message.request_id)?;
    let mut stub = gateway.connection.images();
    let call = stub.import_image(call::request(&headers, message));
    started(call::within(gateway.config.limits.call_timeout, call).await?.job)
}

async fn inspect(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let message: InspectRequest = read_message(&gateway, &headers, body).await?;
    let mut stub = gateway.connection.stub();
    let call = stub.inspect(call::request(&headers, message));
    let found = call::within(gateway.config.limits.call_timeout, call).await?;
    answer(StatusCode::OK, &present(found.inspection)?)
}

/// Puts the key of the header where the message has it; two different keys are a mistake.
pub(super) fn take_key(headers: &HeaderMap, request_id: &mut String) -> Result<(), Problem> {
    let Some(key) = header_text(headers, IDEMPOTENCY_KEY)? else { return Ok(()) };
    // The header's draft writes the key as a quoted string; most clients do not.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    if !request_id.is_empty() && request_id != key {
        return Err(Problem::invalid(IDEMPOTENCY_KEY, "differs from the request_id of the body"));
    }
    key.clone_into(request_id);
    Ok(())
}

/// The job that was started, and where it is found.
pub(super) fn started(job: Option<Job>) -> Result<Response, Problem> {
    let job = present(job)?;
    if job.name.is_empty() {
        return answer(StatusCode::OK, &job);
    }
    let mut response = answer(StatusCode::ACCEPTED, &job)?;
    if let Ok(location) = HeaderValue::try_from(format!("/v1/jobs/{}", id_of(&job.name))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn the_key_of_the_header_becomes_the_request_id() {
        let name = HeaderName::from_static("idempotency-key");
        for sent in ["k-1", "\"k-1\"", " k-1 "] {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(sent).unwrap())]);
            let mut request_id = String::new();
            take_key(&headers, &mut request_id).unwrap();
            assert_eq!(request_id, "k-1");
            take_key(&headers, &mut request_id).unwrap();
            assert!(take_key(&headers, &mut "k-2".to_owned()).is_err());
        }
    }
}
