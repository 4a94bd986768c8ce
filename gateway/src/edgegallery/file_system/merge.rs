//! POST `images/merge`: makes one image of the chunks of a session.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::routing::post;
use imageops::v1::{ComposeImageRequest, UploadMetadata};
use tonic::{Code, Status};

use super::Refusal;
use super::form::Form;
use super::names::{self, FileName};
use super::upload::{self, is_local, labels_of, metadata_of};
use crate::call;
use crate::edgegallery::literals;
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::v1::COMPOSE_TIMEOUT;

pub(super) fn routes() -> Vec<Route> {
    let path = "/image-management/v1/images/merge";
    let text = Content::Raw("text/plain");
    vec![
        Route::new("post", path, "fsMerge", "Makes one image of the chunks of a session.", post(merge))
            .takes(Content::Form { texts: &["identifier", "filename", "userId", "priority"], file: "" })
            .takes(Content::Raw("application/x-www-form-urlencoded"))
            .answers(200, "The image; its check has begun.", Content::Json("FsUploaded"))
            .answers(400, "Its name cannot be taken.", text)
            .answers(500, "There is no such session, a chunk is missing, or the image cannot be kept.", text),
    ]
}

async fn merge(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let unnamed = Refusal::bad_request(literals::BAD_MERGE_NAME);
    let mut form = Form::open(&uri, &headers, body).await.map_err(|_| unnamed.clone())?;
    let read = form.finish().await;
    let asked = read.map_err(|_| unnamed).and_then(|()| asked(&form));
    form.dismiss();
    let request = ComposeImageRequest { metadata: Some(asked?) };
    let mut stub = gateway.connection.stub();
    let call = stub.compose_image(call::request(&headers, request));
    let answered = call::within(COMPOSE_TIMEOUT, call).await.map_err(|status| refusal(&status))?;
    upload::uploaded(&gateway, answered.image, &answered.check_job)
}

fn asked(form: &Form) -> Result<UploadMetadata, Refusal> {
    let unnamed = Refusal::bad_request(literals::BAD_MERGE_NAME);
    let name = FileName::of_merge(form.text("filename")).ok_or(unnamed.clone())?;
    if !names::is_user(form.text("userId")) {
        return Err(unnamed);
    }
    let session = form.text("identifier");
    if !names::is_identifier(session) || !is_local(form.text("priority")) {
        return Err(Refusal::failed(literals::NO_SESSION));
    }
    Ok(UploadMetadata { session: session.to_owned(), labels: labels_of(form), ..metadata_of(&name) })
}

fn refusal(status: &Status) -> Refusal {
    let legacy = match (status.code(), call::reason(status).as_deref()) {
        (_, Some("PART_MISSING")) => literals::CHUNK_MISSING,
        // Of two merges of one session the second comes too late, or is told so.
        (_, Some("SESSION_BUSY")) | (Code::NotFound, _) => literals::NO_SESSION,
        _ => return upload::refusal(status),
    };
    Refusal::of_failure(status, Refusal::failed(legacy))
}
