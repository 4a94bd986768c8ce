//! POST `images`: one image, or a zip that holds one.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::routing::post;
use imageops::v1::{Image, UploadCommit, UploadMetadata};
use tonic::Status;

use super::form::Form;
use super::names::{self, FileName};
use super::{BASE_PATH, Refusal, USER_ID, answers, json_answer};
use crate::call;
use crate::edgegallery::literals;
use crate::intake::OneShot;
use crate::multipart::{FORM_BYTES_MAX, FormError};
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::v1::content_length;

/// An image has fewer bytes than this: 500 GiB.
const IMAGE_BYTES_END: u64 = 500 << 30;

pub(super) fn routes() -> Vec<Route> {
    let text = Content::Raw("text/plain");
    vec![
        Route::new(
            "post",
            BASE_PATH,
            "fsUpload",
            "Takes in an image, or a zip that holds one.",
            post(upload),
        )
        .takes(Content::Form { texts: &["userId", "priority"], file: "file" })
        .answers(200, "The image; its check has begun.", Content::Json("FsUploaded"))
        .answers(400, "There is no file, or its name or size cannot be taken.", text)
        .answers(500, "It cannot be kept.", text),
    ]
}

async fn upload(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut form = Form::open(&uri, &headers, body).await.map_err(no_file)?;
    let taken = take(&gateway, &headers, &mut form).await;
    form.dismiss();
    taken
}

/// A form that cannot be read has no file, as the service saw it.
pub(super) fn no_file(error: FormError) -> Refusal {
    tracing::debug!(%error, "a form");
    Refusal::bad_request(literals::NO_FILE)
}

async fn take(gateway: &Gateway, headers: &HeaderMap, form: &mut Form) -> Result<Response, Refusal> {
    let sent = form.file("file").await.map_err(no_file)?.ok_or(Refusal::bad_request(literals::NO_FILE))?;
    let name = FileName::of_upload(&sent).ok_or(Refusal::bad_request(literals::BAD_UPLOAD_NAME))?;
    let too_large = Refusal::bad_request(literals::TOO_LARGE);
    if content_length(headers).is_some_and(|bytes| bytes >= IMAGE_BYTES_END + FORM_BYTES_MAX) {
        return Err(too_large);
    }
    check_fields(form)?;
    let metadata = metadata_of(&name);
    let mut upload = OneShot::begin(&gateway.connection, call::request(headers, ()), metadata);
    while let Some(data) = form.chunk().await.map_err(no_file)? {
        if upload.length_bytes() + data.len() as u64 >= IMAGE_BYTES_END {
            return Err(too_large);
        }
        upload.write(data).await.map_err(|status| refusal(&status))?;
    }
    // Clients send the fields behind the file as well.
    form.finish().await.map_err(no_file)?;
    check_fields(form)?;
    let commit = UploadCommit { labels: labels_of(form), ..UploadCommit::default() };
    let answered = upload.commit(commit).await.map_err(|status| refusal(&status))?;
    uploaded(gateway, answered.image, &answered.check_job)
}

/// Refuses images for one of the two cloud stores that were never built, and of users whose name is no label; of the form
/// as far as it was read.
fn check_fields(form: &Form) -> Result<(), Refusal> {
    if !is_local(form.text("priority")) {
        return Err(Refusal::failed(literals::NOT_UPLOADED));
    }
    if names::is_user(form.text("userId")) { Ok(()) } else { Err(Refusal::bad_request(literals::NO_FILE)) }
}

/// Whether a `priority` asks for the one store that there is.
pub(super) fn is_local(priority: &str) -> bool {
    !matches!(priority, "A" | "B")
}

/// What the server is told of an image with this name. Corrupt ones are taken: their check says so.
pub(super) fn metadata_of(name: &FileName) -> UploadMetadata {
    UploadMetadata {
        display_name: name.text.clone(),
        archive: name.archive.into(),
        accept_corrupt: true,
        check: Some(true),
        ..UploadMetadata::default()
    }
}

/// What is kept of who sent an image.
pub(super) fn labels_of(form: &Form) -> HashMap<String, String> {
    let user = form.text("userId");
    (!user.is_empty()).then(|| (USER_ID.to_owned(), user.to_owned())).into_iter().collect()
}

/// The server's refusal of an image in the words of the service.
pub(super) fn refusal(status: &Status) -> Refusal {
    let reason = call::reason(status).unwrap_or_default();
    let legacy = if reason == "TOO_LARGE" {
        Refusal::bad_request(literals::TOO_LARGE)
    } else if reason.starts_with("ARCHIVE_") {
        Refusal::failed(literals::NO_ZIP)
    } else {
        Refusal::failed(literals::NOT_UPLOADED)
    };
    Refusal::of_failure(status, legacy)
}

/// The answer to an image that was taken.
pub(super) fn uploaded(
    gateway: &Gateway,
    image: Option<Image>,
    check_job: &str,
) -> Result<Response, Refusal> {
    let image = image.ok_or(Refusal::failed(literals::NOT_UPLOADED))?;
    Ok(json_answer(&answers::uploaded(&image, !check_job.is_empty(), &gateway.config)))
}
