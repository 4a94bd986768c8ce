//! The bytes of stored images.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head};
use imageops::v1::Image;

use super::{id_of, resource};
use crate::download::{self, Asked};
use crate::route::{Content, Route};
use crate::router::Gateway;

/// Where the bytes of an image are.
pub(super) fn location(image: &Image) -> String {
    format!("/v1/images/{}/content", id_of(&image.name))
}

pub(super) fn routes() -> Vec<Route> {
    let path = "/v1/images/{id}/content";
    let bytes = Content::Raw("application/octet-stream");
    [
        Route::new(
            "get",
            path,
            "downloadImage",
            "Hands out the bytes of an image, or a range of them.",
            get(content),
        )
        .header("Range", "One range of bytes, or a suffix.", false)
        .header("If-Range", "Takes the range only while the entity tag or date is still right.", false)
        .header("If-None-Match", "Entity tags that the caller has.", false)
        .answers(200, "The whole image.", bytes)
        .answers(206, "The range.", bytes)
        .answers(304, "The caller has it.", Content::Empty)
        .answers(416, "The image has no such bytes.", Content::Json("Problem")),
        Route::new("head", path, "headImage", "Tells size, digest and name of an image.", head(content))
            .answers(200, "In the headers.", Content::Empty),
    ]
    .into_iter()
    .map(|route| route.tag("Images"))
    .collect()
}

async fn content(
    State(gateway): State<Arc<Gateway>>,
    method: Method,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Response> {
    let name = resource("images", &id).map_err(IntoResponse::into_response)?;
    let asked = Asked { image: &name, ..Asked::default() };
    download::answer(&gateway, &method, &headers, &asked).await.map_err(IntoResponse::into_response)
}
