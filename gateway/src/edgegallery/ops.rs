//! The legacy service `imageops`: `/api/v1/vmimage/check` and `/compress`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use imageops::v1::source::Source as SourceKind;
use imageops::v1::{CheckRequest, CompressRequest, GetJobRequest, Job, JobKind, JobState, Source};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::{BadRequest, StatusExt as _};
use uuid::Uuid;

use super::{compress, literals, ops_answers, python_json};
use crate::call;
use crate::json as strict_json;
use crate::json_body::{Missing, collect};
use crate::route::{Content, Route};
use crate::router::Gateway;

/// Where the service begins.
pub(crate) const BASE_PATH: &str = "/api/v1/vmimage";

/// Reason of an output name that cannot be used.
const INVALID_OUTPUT_FILE: &str = "INVALID_OUTPUT_FILE";

/// The routes of the service.
pub(crate) fn routes() -> Vec<Route> {
    let refusal = Content::Raw("text/html");
    let start = |path, operation, summary, handler: MethodRouter<Arc<Gateway>>| {
        let handler = handler.options(|| options("OPTIONS,POST"));
        Route::new("post", path, operation, summary, handler)
            .answers(200, "Taken on (`status` 0), or not (`status` 1).", Content::Json("OpsStarted"))
            .answers(400, "Malformed JSON.", refusal)
            .answers(500, "A name is missing or names no image.", refusal)
    };
    let poll = |path, operation, summary, handler: MethodRouter<Arc<Gateway>>| {
        Route::new("get", path, operation, summary, handler.options(|| options("GET,HEAD,OPTIONS")))
    };
    [
        start("/api/v1/vmimage/check", "opsStartCheck", "Starts a check of a file.", post(start_check))
            .takes(Content::Json("OpsCheckRequest")),
        poll("/api/v1/vmimage/check/{id}", "opsPollCheck", "Tells how a check is.", get(poll_check))
            .answers(200, "As far as it is.", Content::Json("OpsCheck"))
            .answers(500, "No such check.", refusal),
        start("/api/v1/vmimage/compress", "opsStartCompress", "Starts a compression.", post(start_compress))
            .takes(Content::Json("OpsCompressRequest")),
        poll(
            "/api/v1/vmimage/compress/{id}",
            "opsPollCompress",
            "Tells how a compression is.",
            get(poll_compress),
        )
        .answers(
            200,
            "As far as it is; `status` 2 too where there is none.",
            Content::Json("OpsCompress"),
        ),
    ]
    .into_iter()
    .map(|route| route.tag("EdgeGallery imageops"))
    .collect()
}

/// On these paths each request has an id of its own, and so a job.
fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// POST `check`.
async fn start_check(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let members = read_object(&gateway, &headers, body).await?;
    let name = text_member(&members, "inputImageName").ok_or(Refusal::text(literals::LACKING_INPUT))?;
    let request =
        CheckRequest { source: Some(file(&name)), request_id: request_id(), ..CheckRequest::default() };
    let mut stub = gateway.connection.stub();
    let call = stub.check(call::request(&headers, request));
    let id = match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(answer) => started_id(answer.job.as_ref()),
        Err(status) => {
            refuse_denied(&status)?;
            if names_no_file(&status) {
                return Err(Refusal::text(literals::check_input_missing(&name)));
            }
            tracing::warn!(code = ?status.code(), "a check could not be started");
            None
        }
    };
    Ok(match id {
        Some(id) => start_answer(0, literals::CHECK_STARTED, &id),
        None => start_answer(1, literals::CHECK_NOT_STARTED, &fresh_id()),
    })
}

/// GET `check/{requestId}`.
async fn poll_check(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    match find_job(&gateway, &headers, &id, JobKind::Check).await? {
        Some(job) => Ok(json_answer(&ops_answers::check(&job, &gateway.config))),
        None => Err(Refusal::text(literals::CHECK_UNKNOWN)),
    }
}

/// POST `compress`.
async fn start_compress(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let members = read_object(&gateway, &headers, body).await?;
    let input = text_member(&members, "inputImageName").ok_or(Refusal::text(literals::LACKING_INPUT))?;
    let output = text_member(&members, "outputImageName").ok_or(Refusal::text(literals::LACKING_OUTPUT))?;
    let request = CompressRequest {
        source: Some(file(&input)),
        output_file: output,
        request_id: request_id(),
        ..CompressRequest::default()
    };
    let mut stub = gateway.connection.stub();
    let call = stub.compress(call::request(&headers, request));
    let job = match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(answer) => answer.job,
        Err(status) => {
            refuse_denied(&status)?;
            if refuses_output(&status) {
                return Err(Refusal::text(literals::INVALID_OUTPUT));
            }
            if names_no_file(&status) {
                return Err(Refusal::text(literals::compress_input_missing(&input)));
            }
            tracing::warn!(code = ?status.code(), "a compression could not be started");
            None
        }
    };
    // Work that failed at once keeps its id: polls of it tell the same story.
    let id = job.as_ref().and_then(job_id).unwrap_or_else(fresh_id);
    Ok(match job {
        Some(job) if job.state() != JobState::Failed => start_answer(0, literals::COMPRESS_STARTED, &id),
        Some(job) if ops_answers::failed_for(&job, compress::NO_SPACE) => {
            start_answer(1, literals::COMPRESS_NO_SPACE, &id)
        }
        _ => start_answer(1, literals::COMPRESS_FAILED, &id),
    })
}

/// GET `compress/{requestId}`.
async fn poll_compress(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let job = find_job(&gateway, &headers, &id, JobKind::Compress).await?;
    Ok(json_answer(&job.as_ref().map_or_else(ops_answers::compress_unknown, ops_answers::compress)))
}

/// OPTIONS on any of these paths: a pre-flight, or a question for the methods.
async fn options(allow: &'static str) -> Response {
    (StatusCode::OK, [(header::ALLOW, allow)]).into_response()
}

/// An answer that is no success: a bare text under `text/html`, as the legacy service sent it.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn text(text: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, text: text.into() }
    }

    /// A refusal by the web layer rather than by the service.
    pub(crate) fn plain(status: StatusCode) -> Self {
        Self { status, text: status.canonical_reason().unwrap_or_default().to_owned() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // Names come back as they were sent; `nosniff` does not help against an honest `text/html`, this does.
        let policy = HeaderValue::from_static("default-src 'none'; sandbox");
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, policy),
        ];
        (self.status, headers, self.text).into_response()
    }
}

fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], python_json::to_line(value)).into_response()
}

fn start_answer(status: u32, message: &str, id: &str) -> Response {
    json_answer(&json!({"msg": message, "requestId": id, "status": status}))
}

fn fresh_id() -> String {
    Uuid::new_v4().to_string()
}

/// The id of a job that was taken on.
fn started_id(job: Option<&Job>) -> Option<String> {
    job.filter(|job| job.state() != JobState::Failed).and_then(job_id)
}

fn job_id(job: &Job) -> Option<String> {
    job.name.strip_prefix("jobs/").map(str::to_owned)
}

fn file(name: &str) -> Source {
    Source { source: Some(SourceKind::File(name.to_owned())) }
}

/// Whether the server says that the name is not that of a file below the image root. Names that no file can have are
/// refused as invalid by it, and were simply not found by the legacy service.
fn names_no_file(status: &Status) -> bool {
    match status.code() {
        Code::NotFound => true,
        Code::InvalidArgument => call::reason(status).is_none_or(|reason| reason == "INVALID_ARGUMENT"),
        _ => false,
    }
}

/// Whether the server says that the output cannot have its name. That it would replace the input is another matter: such a
/// compression fails.
fn refuses_output(status: &Status) -> bool {
    let about_output =
        |details: BadRequest| details.field_violations.iter().any(|one| one.field == "output_file");
    match call::reason(status).as_deref() {
        Some(INVALID_OUTPUT_FILE) => true,
        Some("INVALID_ARGUMENT") => status.get_details_bad_request().is_some_and(about_output),
        _ => false,
    }
}

/// Callers without a right get no legacy answer that they could take for the service's own.
fn refuse_denied(status: &Status) -> Result<(), Refusal> {
    match status.code() {
        Code::Unauthenticated => Err(Refusal::plain(StatusCode::UNAUTHORIZED)),
        Code::PermissionDenied => Err(Refusal::plain(StatusCode::FORBIDDEN)),
        _ => Ok(()),
    }
}

/// The job of that id and kind; an id of the other kind is unknown here.
async fn find_job(
    gateway: &Gateway,
    headers: &HeaderMap,
    id: &str,
    kind: JobKind,
) -> Result<Option<Job>, Refusal> {
    let Some(id) = crate::v1::uuid(id) else { return Ok(None) };
    let request = GetJobRequest { name: format!("jobs/{id}") };
    let mut stub = gateway.connection.stub();
    let call = stub.get_job(call::request(headers, request));
    match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(answer) => Ok(answer.job.filter(|job| job.kind() == kind)),
        Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => Ok(None),
        Err(status) => {
            refuse_denied(&status)?;
            tracing::warn!(code = ?status.code(), "a job could not be read");
            // Not "unknown": clients take that for the end of the job.
            Err(Refusal::plain(StatusCode::SERVICE_UNAVAILABLE))
        }
    }
}

/// The members of the request, or the refusal that the legacy service gave at this point.
async fn read_object(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
) -> Result<Map<String, Value>, Refusal> {
    let announced =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Read in every case: a client that is still sending would see a reset instead of the answer.
    let body = read_body(gateway, headers, body).await?;
    if !strict_json::is_json(announced) {
        return Err(Refusal::text(literals::LACKING_INPUT));
    }
    parse_object(&body)
}

async fn read_body(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<bytes::Bytes, Refusal> {
    collect(gateway, headers, body).await.map_err(|missing| match missing {
        Missing::TooLong => Refusal::plain(StatusCode::PAYLOAD_TOO_LARGE),
        Missing::Broken => Refusal::plain(StatusCode::REQUEST_TIMEOUT),
        Missing::Refused(status) => match refuse_denied(&status) {
            Err(refusal) => refusal,
            Ok(()) => Refusal::plain(StatusCode::SERVICE_UNAVAILABLE),
        },
    })
}

fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let body = strict_json::without_mark(body);
    let malformed = |_| Refusal::plain(StatusCode::BAD_REQUEST);
    strict_json::check(body).map_err(malformed)?;
    match serde_json::from_slice(body).map_err(malformed)? {
        Value::Object(members) => Ok(members),
        _ => Err(Refusal::text(literals::LACKING_INPUT)),
    }
}

/// A member that is a text and not empty.
fn text_member(members: &Map<String, Value>, name: &str) -> Option<String> {
    members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_are_no_object_lack_the_name_and_malformed_ones_are_refused() {
        for body in ["[]", "null", "5", r#""x""#] {
            let refusal = parse_object(body.as_bytes()).unwrap_err();
            assert_eq!(
                (refusal.status.as_u16(), refusal.text.as_str()),
                (500, literals::LACKING_INPUT),
                "{body}"
            );
        }
        for body in ["", "{bad", "{} x", r#"{"a":1,"a":1}"#, "\u{0}"] {
            assert_eq!(parse_object(body.as_bytes()).unwrap_err().status, StatusCode::BAD_REQUEST, "{body}");
        }
        let members = parse_object("\u{feff}{\"inputImageName\":\"a\",\"more\":{}}".as_bytes()).unwrap();
        assert_eq!(text_member(&members, "inputImageName").as_deref(), Some("a"));
    }

    #[test]
    fn only_texts_that_are_not_empty_are_names() {
        for body in [r#"{}"#, r#"{"n":""}"#, r#"{"n":null}"#, r#"{"n":5}"#, r#"{"n":["x"]}"#] {
            let members = parse_object(body.as_bytes()).unwrap();
            assert_eq!(text_member(&members, "n"), None, "{body}");
        }
    }

    #[test]
    fn refusals_are_texts_under_html() {
        let response = Refusal::text(literals::check_input_missing("../<b>x")).into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    }
}
