//! The native API: canonical JSON of the messages of `imageops.v1`.

mod changes;
mod content;
mod images;
mod incoming;
mod jobs;
mod keys;
mod promise;
mod quotas;
mod records;
mod sessions;
mod starts;
mod stores;
mod tus;
mod uploads;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub(crate) use self::sessions::COMPOSE_TIMEOUT;
use crate::json;
use crate::json_body::{Missing, collect};
use crate::problem::Problem;
use crate::route::Route;
use crate::router::Gateway;

/// Length of a UUID in its usual form.
const UUID_TEXT_BYTES: usize = 36;

/// The routes of the native API.
pub(crate) fn routes() -> Vec<Route> {
    [
        starts::routes(),
        jobs::routes(),
        images::routes(),
        records::routes(),
        content::routes(),
        uploads::routes(),
        sessions::routes(),
        stores::routes(),
        quotas::routes(),
        keys::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A UUID in its usual form; other spellings of the same number are not ids.
pub(crate) fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == UUID_TEXT_BYTES).then(|| Uuid::parse_str(text).ok()).flatten()
}

/// The resource name that an id in a path stands for. What is no id is nothing's.
pub(crate) fn resource(collection: &str, id: &str) -> Result<String, Problem> {
    uuid(id).map(|id| format!("{collection}/{id}")).ok_or_else(Problem::not_found)
}

/// The id in a resource name.
pub(crate) fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The length that the client announces. Without one the body is chunked, and its end is the commit.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The content type of a request, empty where there is none.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The text of a header that may be there.
fn header_text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(|text| Some(text.trim())).map_err(|_| Problem::invalid(name, "is not readable"))
}

/// A message from the canonical JSON in a body.
async fn read_message<M: DeserializeOwned>(
    gateway: &Gateway,
    headers: &HeaderMap,
    body: Body,
) -> Result<M, Problem> {
    let body = read_json(gateway, headers, body).await?;
    serde_json::from_slice(&body).map_err(malformed)
}

/// A body that is strict JSON.
async fn read_json(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let body = collect(gateway, headers, body).await.map_err(|missing| match missing {
        Missing::TooLong => {
            let detail =
                format!("a JSON body has at most {} bytes", gateway.config.limits.json_body_bytes_max);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", detail)
        }
        Missing::Broken => broken_body(),
        Missing::Refused(status) => status.into(),
    })?;
    if !json::is_json(content_type(headers)) {
        return Err(unsupported("application/json"));
    }
    json::check(&body).map_err(malformed)?;
    Ok(body)
}

fn malformed(error: serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "MALFORMED_JSON", error.to_string())
}

/// A body whose client went silent or away.
fn broken_body() -> Problem {
    let detail =
        "the body did not come whole, or came too slowly; send it again, or resume an upload that has an id";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "BODY_INCOMPLETE", detail)
}

/// A body of a type that is not taken here.
fn unsupported(types: &str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", format!("this takes {types}"))
}

/// What a path answers to a method that only the handler can see it does not have.
fn wrong_method(detail: &str, allow: &'static str) -> Response {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
    let mut response = problem.into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// A message as canonical JSON.
fn answer<M: Serialize>(status: StatusCode, message: &M) -> Result<Response, Problem> {
    let body = serde_json::to_vec(message).map_err(|error| tonic::Status::internal(error.to_string()))?;
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok((status, headers, body).into_response())
}

/// A member that the server's answers always have.
fn present<T>(member: Option<T>) -> Result<T, Problem> {
    member.ok_or_else(|| tonic::Status::internal("an answer lacks its content").into())
}
