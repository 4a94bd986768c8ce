//! The records of stored images: find, describe, delete.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use imageops::FieldMask;
use imageops::v1::{
    DeleteImageRequest, GetImageRequest, Image, ImageFormat, ImageOrder, ImageState, ListImagesRequest,
    PurgeImageRequest, RestoreImageRequest, UpdateImageRequest,
};
use serde_json::{Map, Value};

use super::images::pair;
use super::{answer, header_text, malformed, present, read_json, resource};
use crate::call;
use crate::problem::Problem;
use crate::query::{self, Query};
use crate::route::{Content, Route};
use crate::router::Gateway;

/// Parameters of a list.
const LIST: [&str; 8] =
    ["page_size", "page_token", "order", "state", "format", "display_name", "label", "tag"];

pub(super) fn routes() -> Vec<Route> {
    let path = "/v1/images/{id}";
    let image = Content::Message("Image");
    let if_match = "Entity tag that the image must still have.";
    [
        Route::new("get", "/v1/images", "listImages", "Lists images.", get(list))
            .query("page_size", "At most so many; 100 by default, 1,000 at most.")
            .query("page_token", "`nextPageToken` of the page before.")
            .query(
                "order",
                "`newest` (default), `oldest`, `display_name`, `display_name_desc`, `largest` or `smallest`.",
            )
            .query("state", "Only images in this state; may repeat. By default all but `trashed`.")
            .query("format", "Only images of this format; may repeat.")
            .query("display_name", "Only images with exactly this name.")
            .query("label", "Only images with this label, `key=value`; may repeat, all must be there.")
            .query("tag", "Only images with this tag; may repeat, all must be there.")
            .answers(200, "A page.", Content::Message("ListImagesResponse")),
        Route::new("get", path, "getImage", "Tells what is known of an image.", get(find)).answers(
            200,
            "The image.",
            image,
        ),
        Route::new("patch", path, "updateImage", "Changes what people say of an image.", patch(update))
            .query(
                "update_mask",
                "What is changed, in lowerCamelCase with commas between; by default the members of the body.",
            )
            .header("If-Match", if_match, false)
            .takes(image)
            .answers(200, "The image as it is now.", image)
            .answers(412, "The image has changed since.", Content::Json("Problem")),
        Route::new("delete", path, "deleteImage", "Puts an image into the trash.", delete(remove))
            .header("If-Match", if_match, false)
            .answers(200, "The image as it lies in the trash.", image)
            .answers(412, "The image has changed since.", Content::Json("Problem")),
        Route::new(
            "post",
            "/v1/images/{id}:restore",
            "restoreImage",
            "Takes it out of the trash.",
            post(act),
        )
        .answers(200, "The image as it is now.", image),
        Route::new(
            "post",
            "/v1/images/{id}:purge",
            "purgeImage",
            "Removes it from the trash for good.",
            // The router sees both verbs as one path; `act` serves them.
            MethodRouter::new(),
        )
        .header("If-Match", if_match, false)
        .answers(204, "It is gone.", Content::Empty)
        .answers(412, "The image has changed since.", Content::Json("Problem")),
    ]
    .into_iter()
    .map(|route| route.tag("Images"))
    .collect()
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &LIST)?;
    let order = match query.one("order")? {
        Some(order) => query::choice(order, "IMAGE_ORDER_", ImageOrder::from_str_name)
            .ok_or_else(|| Problem::invalid("order", "is none of its values"))?,
        None => ImageOrder::Unspecified.into(),
    };
    let labels = query.all("label").map(|label| pair("label", label));
    let message = ListImagesRequest {
        page_size: query.number("page_size")?,
        page_token: query.text("page_token")?,
        order,
        states: query.choices("state", "IMAGE_STATE_", ImageState::from_str_name)?,
        formats: query.choices("format", "IMAGE_FORMAT_", ImageFormat::from_str_name)?,
        display_name: query.one("display_name")?.map(str::to_owned),
        labels: labels.collect::<Result<_, Problem>>()?,
        tags: query.all("tag").map(str::to_owned).collect(),
        ..ListImagesRequest::default()
    };
    let mut stub = gateway.connection.images();
    let call = stub.list_images(call::request(&headers, message));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let message = GetImageRequest { name: resource("images", &id)? };
    let mut stub = gateway.connection.images();
    let call = stub.get_image(call::request(&headers, message));
    show(call::within(gateway.config.limits.call_timeout, call).await?.image)
}

async fn update(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let name = resource("images", &id)?;
    let query = Query::parse(&uri, &["update_mask"])?;
    let body = read_json(&gateway, &headers, body).await?;
    let members: Map<String, Value> = serde_json::from_slice(&body).map_err(malformed)?;
    let mask = match query.one("update_mask")? {
        Some(mask) => serde_json::from_value(Value::String(mask.to_owned()))
            .map_err(|_| Problem::invalid("update_mask", "names members in lowerCamelCase"))?,
        None => mask_of(&members)?,
    };
    let mut image: Image = serde_json::from_slice(&body).map_err(malformed)?;
    if !image.name.is_empty() && image.name != name {
        return Err(Problem::invalid("name", "is not the image of the path"));
    }
    image.name = name;
    if let Some(etag) = expected_etag(&headers)? {
        image.etag = etag;
    }
    // An empty mask means something else over the RPC: what is filled. Here nothing was named, so nothing changes.
    if mask.paths.is_empty() {
        image = Image { name: image.name, etag: image.etag, ..Image::default() };
    }
    let message = UpdateImageRequest { image: Some(image), update_mask: Some(mask) };
    let mut stub = gateway.connection.images();
    let call = stub.update_image(call::request(&headers, message));
    show(call::within(gateway.config.limits.call_timeout, call).await?.image)
}

/// The members that a body has, but for those that say which image is meant.
fn mask_of(members: &Map<String, Value>) -> Result<FieldMask, Problem> {
    let named = members.keys().filter(|member| !["name", "etag"].contains(&member.as_str()));
    let mut mask = FieldMask::default();
    for member in named {
        // The spelling of the proto files is taken in bodies as well.
        let path: FieldMask = if member.contains('_') {
            FieldMask { paths: vec![member.clone()] }
        } else {
            serde_json::from_value(Value::String(member.clone())).map_err(malformed)?
        };
        mask.paths.extend(path.paths);
    }
    Ok(mask)
}

async fn remove(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let etag = expected_etag(&headers)?.unwrap_or_default();
    let message = DeleteImageRequest { name: resource("images", &id)?, etag, purge: false };
    let mut stub = gateway.connection.images();
    let call = stub.delete_image(call::request(&headers, message));
    show(call::within(gateway.config.limits.call_timeout, call).await?.image)
}

/// POST `/v1/images/{id}:verb`; the router sees id and verb as one.
async fn act(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(target): Path<String>,
) -> Result<Response, Problem> {
    let limit = gateway.config.limits.call_timeout;
    let mut stub = gateway.connection.images();
    match target.rsplit_once(':') {
        Some((id, "restore")) => {
            let message = RestoreImageRequest { name: resource("images", id)? };
            let call = stub.restore_image(call::request(&headers, message));
            show(call::within(limit, call).await?.image)
        }
        Some((id, "purge")) => {
            let etag = expected_etag(&headers)?.unwrap_or_default();
            let message = PurgeImageRequest { name: resource("images", id)?, etag };
            call::within(limit, stub.purge_image(call::request(&headers, message))).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Some(_) => Err(Problem::not_found()),
        None => {
            let detail = "an image is not posted to; a verb like `:restore` is missing";
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail);
            let mut response = problem.into_response();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD,PATCH,DELETE"));
            Ok(response)
        }
    }
}

/// The etag of `If-Match`; `None` when any will do.
fn expected_etag(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = header_text(headers, "if-match")? else { return Ok(None) };
    if text == "*" {
        return Ok(None);
    }
    let etag = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match etag.filter(|etag| !etag.is_empty() && !etag.contains(['"', ','])) {
        Some(etag) => Ok(Some(etag.to_owned())),
        None => Err(Problem::invalid("If-Match", "holds one entity tag in quotation marks, or `*`")),
    }
}

/// An image, with its etag in the header as well.
fn show(image: Option<Image>) -> Result<Response, Problem> {
    let image = present(image)?;
    let mut response = answer(StatusCode::OK, &image)?;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", image.etag)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_members_of_a_body_are_its_mask() {
        let members =
            serde_json::json!({"displayName": "a", "tags": [], "name": "x", "etag": "1", "size_bytes": 1});
        let mut mask = mask_of(members.as_object().unwrap()).unwrap();
        mask.paths.sort();
        assert_eq!(mask.paths, ["display_name", "size_bytes", "tags"]);
    }

    #[test]
    fn an_entity_tag_stands_in_quotation_marks() {
        let etag = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            expected_etag(&HeaderMap::from_iter([(header::IF_MATCH, value)]))
        };
        assert_eq!(etag("\"1f\"").unwrap(), Some("1f".to_owned()));
        assert_eq!(etag("*").unwrap(), None);
        for wrong in ["1f", "\"\"", "W/\"1f\"", "\"1\", \"2\"", ""] {
            assert!(etag(wrong).is_err(), "{wrong}");
        }
    }
}
