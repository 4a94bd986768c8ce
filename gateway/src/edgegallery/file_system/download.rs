//! GET `images/{imageId}/action/download`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tonic::Code;

use super::Refusal;
use super::records::{find, find_slim, parameter, unavailable};
use crate::download::{self, Asked, Refused};
use crate::edgegallery::literals;
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::sendfile::Passage;

/// What the service said of every file.
const HEADERS: [(HeaderName, &str); 5] = [
    (HeaderName::from_static("content-description"), "File Transfer"),
    (HeaderName::from_static("content-transfer-encoding"), "binary"),
    (header::EXPIRES, "0"),
    (header::CACHE_CONTROL, "must-revalidate"),
    (header::PRAGMA, "public"),
];

pub(super) fn routes() -> Vec<Route> {
    let path = "/image-management/v1/images/{id}/action/download";
    let bytes = Content::Raw("application/octet-stream");
    vec![
        Route::new(
            "get",
            path,
            "fsDownload",
            "Hands out the bytes of an image; once it was slimmed, the slim ones.",
            get(send),
        )
        .query("isZip", "`true` wraps them in a zip.")
        .header("Range", "One range of bytes, or a suffix; not of a zip.", false)
        .answers(200, "The image.", bytes)
        .answers(206, "The range.", bytes)
        .answers(304, "The caller has it.", Content::Empty)
        .answers(404, "There is no such image, or its bytes are not handed out.", Content::Raw("text/plain"))
        .answers(416, "The image has no such bytes.", Content::Raw("text/plain")),
    ]
}

async fn send(
    State(gateway): State<Arc<Gateway>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    passage: Option<Extension<Passage>>,
    Path(id): Path<String>,
) -> Result<Response, Response> {
    let nothing = || Refusal::not_found(literals::NO_IMAGE).into_response();
    let record =
        find(&gateway, &headers, &id).await.map_err(IntoResponse::into_response)?.ok_or_else(nothing)?;
    let slim = find_slim(&gateway, &headers, &record).await.map_err(IntoResponse::into_response)?;
    let asked = Asked {
        image: slim.as_ref().map_or(&*record.image.name, |slim| &*slim.image.name),
        file_name: Some(&record.image.display_name),
        zipped: parameter(&uri, "isZip").as_deref() == Some("true"),
        passage: passage.as_deref(),
        ..Asked::default()
    };
    let mut response = download::answer(&gateway, &method, &headers, &asked).await.map_err(refusal)?;
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn refusal(refused: Refused) -> Response {
    match refused {
        Refused::Call(status) => {
            let legacy = Refusal::not_found(literals::NO_IMAGE);
            // What the server withholds is not there, as far as this face goes.
            let withheld =
                matches!(status.code(), Code::NotFound | Code::FailedPrecondition | Code::DataLoss);
            if withheld { legacy } else { unavailable(&status) }.into_response()
        }
        Refused::OtherBytes => Refusal::plain(StatusCode::PRECONDITION_FAILED).into_response(),
        Refused::NoSuchRange { .. } => {
            let range = refused.content_range();
            let mut response = Refusal::plain(StatusCode::RANGE_NOT_SATISFIABLE).into_response();
            response.headers_mut().extend(range);
            response
        }
    }
}
