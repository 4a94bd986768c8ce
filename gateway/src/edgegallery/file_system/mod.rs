//! The legacy file-system service: `/image-management/v1/images`.
//!
//! It keeps nothing of its own: an `imageId` is that of a stored image, a chunk an upload that is a part, a slim the hidden
//! companion of its source.

mod answers;
mod chunks;
mod download;
mod form;
mod merge;
mod names;
mod records;
mod refusal;
mod slim;
mod upload;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;

pub(crate) use self::refusal::Refusal;
use super::literals;
use crate::route::{Content, Route};

/// Where the service begins.
pub(crate) const BASE_PATH: &str = "/image-management/v1/images";

/// Label of an image that holds the `userId` of who sent it.
const USER_ID: &str = "edgegallery/user-id";

/// Type of plain answers and of errors.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Type of answers that are objects or lists.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// The routes of the service. A slash at the end of a path changes nothing.
pub(crate) fn routes() -> Vec<Route> {
    let alive = |path, operation, text: &'static str| {
        Route::new(
            "get",
            path,
            operation,
            "Tells that the service is alive.",
            get(move || async move { plain(text) }),
        )
        .answers(200, "It is.", Content::Raw("text/plain"))
    };
    let alive = vec![
        alive("/image-management/v1/images/upload", "fsChunksAlive", literals::UPLOAD_ALIVE),
        alive("/image-management/v1/images/merge", "fsMergeAlive", literals::MERGE_ALIVE),
    ];
    [
        records::routes(),
        upload::routes(),
        chunks::routes(),
        merge::routes(),
        slim::routes(),
        download::routes(),
        alive,
    ]
    .into_iter()
    .flatten()
    .map(|route| route.tag("EdgeGallery file-system").slash_allowed())
    .collect()
}

/// A bare text.
fn plain(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, TEXT)], text).into_response()
}

fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], value.to_string()).into_response()
}
