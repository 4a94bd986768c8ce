//! `images/upload`: chunks of images that come in pieces.
//!
//! A chunk is an upload that is a part of a session; `merge` composes them. Clients name the session behind the bytes: such
//! a chunk becomes a part with its commit.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use axum::routing::{delete, post};
use imageops::v1::{AbortSessionRequest, UploadCommit, UploadMetadata};

use super::form::Form;
use super::upload::{is_local, no_file};
use super::{Refusal, names, plain};
use crate::call;
use crate::edgegallery::literals;
use crate::intake::OneShot;
use crate::route::{Content, Route};
use crate::router::Gateway;

const PATH: &str = "/image-management/v1/images/upload";

pub(super) fn routes() -> Vec<Route> {
    let text = Content::Raw("text/plain");
    let texts = &["identifier", "priority"];
    vec![
        Route::new("post", PATH, "fsUploadChunk", "Takes in one chunk of a session.", post(upload))
            .takes(Content::Form { texts, file: "part" })
            .answers(200, "It is stored.", text)
            .answers(400, "There is no file, or the session or chunk is not named right.", text)
            .answers(500, "It cannot be kept.", text),
        Route::new("delete", PATH, "fsCancelSession", "Drops all chunks of a session.", delete(cancel))
            .takes(Content::Form { texts, file: "" })
            .answers(200, "They are gone, or never were.", text)
            .answers(400, "No session is named.", text),
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
    taken.map(|()| plain(literals::CHUNK_STORED))
}

async fn take(gateway: &Gateway, headers: &HeaderMap, form: &mut Form) -> Result<(), Refusal> {
    let nothing = Refusal::bad_request(literals::NO_FILE);
    let file_name = form.file("part").await.map_err(no_file)?.ok_or(nothing.clone())?;
    let part = names::part_number(&file_name).ok_or(nothing)?;
    let mut upload = begin(gateway, headers, form, part)?;
    while let Some(data) = form.chunk().await.map_err(no_file)? {
        upload.write(data).await.map_err(|status| not_stored(&status))?;
    }
    form.finish().await.map_err(no_file)?;
    require_local(form)?;
    let session = session_of(form)?;
    let commit = UploadCommit { session, part, ..UploadCommit::default() };
    upload.commit(commit).await.map_err(|status| not_stored(&status))?;
    Ok(())
}

/// Begins the part, in the session that the form tells of as far as it was read, else in none yet.
fn begin(gateway: &Gateway, headers: &HeaderMap, form: &Form, part: u32) -> Result<OneShot, Refusal> {
    require_local(form)?;
    let metadata = if form.text("identifier").is_empty() {
        UploadMetadata { becomes_part: true, ..UploadMetadata::default() }
    } else {
        UploadMetadata { session: session_of(form)?, part, ..UploadMetadata::default() }
    };
    Ok(OneShot::begin(&gateway.connection, call::request(headers, ()), metadata))
}

fn session_of(form: &Form) -> Result<String, Refusal> {
    let session = form.text("identifier");
    if names::is_identifier(session) {
        Ok(session.to_owned())
    } else {
        Err(Refusal::bad_request(literals::NO_FILE))
    }
}

fn require_local(form: &Form) -> Result<(), Refusal> {
    if is_local(form.text("priority")) { Ok(()) } else { Err(Refusal::failed(literals::CHUNK_NOT_STORED)) }
}

fn not_stored(status: &tonic::Status) -> Refusal {
    Refusal::of_failure(status, Refusal::failed(literals::CHUNK_NOT_STORED))
}

async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let unnamed = Refusal::bad_request(literals::NO_IDENTIFIER);
    let mut form = Form::open(&uri, &headers, body).await.map_err(|_| unnamed.clone())?;
    let read = form.finish().await;
    let session = form.text("identifier").to_owned();
    form.dismiss();
    if read.is_err() || !names::is_identifier(&session) {
        return Err(unnamed);
    }
    let mut stub = gateway.connection.stub();
    let call = stub.abort_session(call::request(&headers, AbortSessionRequest { session }));
    match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(_) => Ok(plain(literals::SESSION_CANCELLED)),
        Err(status) => Err(Refusal::of_failure(&status, Refusal::failed(literals::SESSION_NOT_CANCELLED))),
    }
}
