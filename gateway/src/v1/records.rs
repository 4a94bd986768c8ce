//! The records of stored images: find, describe, delete.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use imageops::v1::{
    CopyImageRequest, DeleteImageRequest, GetImageRequest, GetImageResponse, Image, ImageFormat, ImageOrder,
    ImageState, ListImagesRequest, PurgeImageRequest, RemoveReplicaRequest, RestoreImageRequest,
    UpdateImageRequest,
};

use super::changes::{Change, expected_etag};
use super::images::add_pair;
use super::starts::{IDEMPOTENCY_KEY, IDEMPOTENCY_TEXT, started, take_key};
use super::stores::store_name;
use super::{answer, present, read_message, resource, wrong_method};
use crate::call;
use crate::problem::Problem;
use crate::query::{self, Query};
use crate::route::{Content, Route};
use crate::router::Gateway;

/// Parameters of a list.
const LIST: [&str; 11] = [
    "page_size",
    "page_token",
    "order",
    "state",
    "format",
    "display_name",
    "label",
    "tag",
    "hidden",
    "slim_companions",
    "with_work",
];

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
            .query("hidden", "Only images that are, or are not, hidden: `true` or `false`.")
            .query(
                "slim_companions",
                "With `true` only the slim companions of images, which else are not listed.",
            )
            .query("with_work", "With `true` what was last done with each image, in `works`.")
            .answers(200, "A page.", Content::Message("ListImagesResponse")),
        Route::new("get", path, "getImage", "Tells what is known of an image.", get(find)).answers(
            200,
            "The image.",
            image,
        ),
        Route::new(
            "get",
            "/v1/images/{id}/work",
            "getImageWork",
            "Tells what was last done with it.",
            get(find_work),
        )
        .answers(200, "Its last check and its slim companion.", Content::Message("ImageWork")),
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
            .query("purge", "With `true` it goes for good at once, whatever its state.")
            .header("If-Match", if_match, false)
            .answers(200, "The image as it lies in the trash, or as it was before it went.", image)
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
            // The router sees all verbs as one path; `act` serves them.
            MethodRouter::new(),
        )
        .header("If-Match", if_match, false)
        .answers(204, "It is gone.", Content::Empty)
        .answers(412, "The image has changed since.", Content::Json("Problem")),
        Route::new(
            "post",
            "/v1/images/{id}:copy",
            "copyImage",
            "Copies its bytes into another store.",
            MethodRouter::new(),
        )
        .header(IDEMPOTENCY_KEY, IDEMPOTENCY_TEXT, false)
        .takes(Content::Message("CopyImageRequest"))
        .answers(202, "The job; `Location` leads to it.", Content::Message("Job")),
        Route::new(
            "delete",
            "/v1/images/{id}/replicas/{store}",
            "removeReplica",
            "Removes the copy of its bytes in one store.",
            delete(remove_replica),
        )
        .header("If-Match", if_match, false)
        .answers(200, "The image as it is now.", image)
        .answers(409, "It is the last copy.", Content::Json("Problem"))
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
        Some(order) => query::choice::<ImageOrder>("order", order)?,
        None => ImageOrder::Unspecified.into(),
    };
    let mut labels = HashMap::new();
    for label in query.all("label") {
        add_pair(&mut labels, "label", label)?;
    }
    let message = ListImagesRequest {
        page_size: query.number("page_size")?,
        page_token: query.text("page_token")?,
        order,
        states: query.choices::<ImageState>("state")?,
        formats: query.choices::<ImageFormat>("format")?,
        display_name: query.one("display_name")?.map(str::to_owned),
        labels,
        tags: query.all("tag").map(str::to_owned).collect(),
        hidden: query.flag("hidden")?,
        slim_companions: query.flag("slim_companions")?.unwrap_or(false),
        with_work: query.flag("with_work")?.unwrap_or(false),
    };
    let mut stub = call::images_list_stub(&gateway.connection);
    let call = stub.list_images(call::request(&headers, message));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    show(StatusCode::OK, fetch(&gateway, &headers, &id).await?.image)
}

async fn find_work(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    answer(StatusCode::OK, &fetch(&gateway, &headers, &id).await?.work.unwrap_or_default())
}

/// An image, and what was last done with it.
pub(super) async fn fetch(
    gateway: &Gateway,
    headers: &HeaderMap,
    id: &str,
) -> Result<GetImageResponse, Problem> {
    let message = GetImageRequest { name: resource("images", id)? };
    let mut stub = gateway.connection.images();
    let call = stub.get_image(call::request(headers, message));
    Ok(call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn update(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let name = resource("images", &id)?;
    let Change { mut record, update_mask } = Change::<Image>::read(&gateway, &uri, &headers, body).await?;
    if !record.name.is_empty() && record.name != name {
        return Err(Problem::invalid("name", "is not the image of the path"));
    }
    record.name = name;
    if let Some(etag) = expected_etag(&headers)? {
        record.etag = etag;
    }
    // An empty mask means something else over the RPC: what is filled. Here nothing was named, so nothing changes.
    if update_mask.paths.is_empty() {
        record = Image { name: record.name, etag: record.etag, ..Image::default() };
    }
    let message = UpdateImageRequest { image: Some(record), update_mask: Some(update_mask) };
    let mut stub = gateway.connection.images();
    let call = stub.update_image(call::request(&headers, message));
    show(StatusCode::OK, call::within(gateway.config.limits.call_timeout, call).await?.image)
}

async fn remove(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let purge = Query::parse(&uri, &["purge"])?.flag("purge")?.unwrap_or(false);
    let etag = expected_etag(&headers)?.unwrap_or_default();
    let message = DeleteImageRequest { name: resource("images", &id)?, etag, purge };
    let mut stub = gateway.connection.images();
    let call = stub.delete_image(call::request(&headers, message));
    show(StatusCode::OK, call::within(gateway.config.limits.call_timeout, call).await?.image)
}

async fn remove_replica(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path((id, store)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let etag = expected_etag(&headers)?.unwrap_or_default();
    let message = RemoveReplicaRequest { name: resource("images", &id)?, store: store_name(&store), etag };
    let mut stub = gateway.connection.images();
    let call = stub.remove_replica(call::request(&headers, message));
    show(StatusCode::OK, call::within(gateway.config.limits.call_timeout, call).await?.image)
}

/// POST `/v1/images/{id}:verb`; the router sees id and verb as one.
async fn act(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(target): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let limit = gateway.config.limits.call_timeout;
    let mut stub = gateway.connection.images();
    match target.rsplit_once(':') {
        Some((id, "restore")) => {
            let message = RestoreImageRequest { name: resource("images", id)? };
            let call = stub.restore_image(call::request(&headers, message));
            show(StatusCode::OK, call::within(limit, call).await?.image)
        }
        Some((id, "purge")) => {
            let etag = expected_etag(&headers)?.unwrap_or_default();
            let message = PurgeImageRequest { name: resource("images", id)?, etag };
            call::within(limit, stub.purge_image(call::request(&headers, message))).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Some((id, "copy")) => {
            let name = resource("images", id)?;
            let mut message: CopyImageRequest = read_message(&gateway, &headers, body).await?;
            if !message.name.is_empty() && message.name != name {
                return Err(Problem::invalid("name", "is not the image of the path"));
            }
            message.name = name;
            take_key(&headers, &mut message.request_id)?;
            started(call::within(limit, stub.copy_image(call::request(&headers, message))).await?.job)
        }
        Some(_) => Err(Problem::not_found()),
        None => Ok(wrong_method(
            "an image is not posted to; a verb like `:restore` is missing",
            "GET,HEAD,PATCH,DELETE",
        )),
    }
}

/// An image, with its etag in the header as well.
pub(super) fn show(status: StatusCode, image: Option<Image>) -> Result<Response, Problem> {
    let image = present(image)?;
    let mut response = answer(status, &image)?;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", image.etag)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}
