//! The bytes of stored images.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head};
use imageops::v1::ImageFormat;

use super::records::fetch;
use super::resource;
use crate::download::{self, Asked};
use crate::problem::Problem;
use crate::query::Query;
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::sendfile::Passage;

/// What the parameter `format` means.
const FORMAT: &str =
    "`raw` or `qcow2`: the image in this format, which the first one who asks for it waits for.";
/// What the parameter `archive` means.
const ARCHIVE: &str = "`zip`: the image as the one entry of a zip.";

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
        .query("format", FORMAT)
        .query("archive", ARCHIVE)
        .header("Range", "One range of bytes, or a suffix.", false)
        .header("If-Range", "Takes the range only while the entity tag or date is still right.", false)
        .header("If-None-Match", "Entity tags that the caller has.", false)
        .header("If-Match", "Entity tags that the image must have.", false)
        .header(
            "If-Unmodified-Since",
            "Without `If-Match`: a date that the image must not be later than.",
            false,
        )
        .answers(200, "The whole image.", bytes)
        .answers(206, "The range.", bytes)
        .answers(304, "The caller has it.", Content::Empty)
        .answers(412, "The image is not the one that is meant.", Content::Json("Problem"))
        .answers(416, "The image has no such bytes.", Content::Json("Problem")),
        Route::new("head", path, "headImage", "Tells size, digest and name of an image.", head(content))
            .query("format", FORMAT)
            .query("archive", ARCHIVE)
            .answers(200, "In the headers.", Content::Empty),
    ]
    .into_iter()
    .map(|route| route.tag("Images"))
    .collect()
}

async fn content(
    State(gateway): State<Arc<Gateway>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    passage: Option<Extension<Passage>>,
    Path(id): Path<String>,
) -> Result<Response, Response> {
    let name = resource("images", &id).map_err(IntoResponse::into_response)?;
    let mut asked = asked(&uri, &name).map_err(IntoResponse::into_response)?;
    asked.passage = passage.as_deref();
    let source;
    if asked.format != ImageFormat::Unspecified {
        // What a conversion made has no name of its own.
        source = fetch(&gateway, &headers, &id).await.map_err(IntoResponse::into_response)?;
        asked.file_name = source.image.as_ref().map(|image| image.display_name.as_str());
    }
    download::answer(&gateway, &method, &headers, &asked).await.map_err(IntoResponse::into_response)
}

fn asked<'a>(uri: &Uri, image: &'a str) -> Result<Asked<'a>, Problem> {
    let query = Query::parse(uri, &["format", "archive"])?;
    let format = match query.one("format")? {
        None => ImageFormat::Unspecified,
        Some("raw") => ImageFormat::Raw,
        Some("qcow2") => ImageFormat::Qcow2,
        Some(_) => return Err(Problem::invalid("format", "is `raw` or `qcow2`")),
    };
    let zipped = match query.one("archive")? {
        None => false,
        Some("zip") => true,
        Some(_) => return Err(Problem::invalid("archive", "is `zip`")),
    };
    Ok(Asked { image, format, zipped, ..Asked::default() })
}
