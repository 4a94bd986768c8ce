//! Uploads in several requests, by tus 1.0, and their records as JSON.
//!
//! The last byte makes the image: tus knows no commit. What the server holds decides everything, so a client may lose
//! any answer, ask with HEAD, and go on.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, head, options, patch, post};
use imageops::v1::upload_image_request::Message;
use imageops::v1::{
    AbortUploadRequest, GetUploadRequest, ListUploadsRequest, Upload, UploadCommit, UploadResume, UploadState,
};
use tonic::Code;
use uuid::Uuid;

use super::incoming::Incoming;
use super::{answer, content_length, header_text, id_of, present, resource, tus, wrong_method};
use crate::intake::{self, Intake};
use crate::problem::Problem;
use crate::query::Query;
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::{call, leftover};

const COLLECTION: &str = "/v1/uploads";
const ONE: &str = "/v1/uploads/{id}";

pub(super) fn routes() -> Vec<Route> {
    let bytes = Content::Raw(tus::OFFSET_BYTES);
    let version = "Version of tus: 1.0.0.";
    let checksum = "`sha1`, `md5`, `sha256` or `crc32c` of the body, and its digest in base64.";
    [
        Route::new("get", COLLECTION, "listUploads", "Lists uploads, newest first.", get(list))
            .query("page_size", "At most so many; 100 by default, 1,000 at most.")
            .query("page_token", "`nextPageToken` of the page before.")
            .query("state", "Only uploads in this state; may repeat.")
            .answers(200, "A page.", Content::Message("ListUploadsResponse")),
        Route::new(
            "options",
            COLLECTION,
            "tusCapabilities",
            "Tells what of tus is spoken.",
            options(capabilities),
        )
        .answers(204, "In the headers.", Content::Empty),
        Route::new(
            "post",
            COLLECTION,
            "createUpload",
            "Begins an upload, with its first bytes if wanted.",
            post(create),
        )
        .header("Tus-Resumable", version, true)
        .header("Upload-Length", "Length of the whole, in bytes, where it is known.", false)
        .header("Upload-Defer-Length", "1: the length comes with a later request.", false)
        .header(
            "Upload-Metadata",
            "`filename`, `format`, `sha256`, `md5`, each with its value in base64.",
            false,
        )
        .header("Idempotency-Key", "UUID that names the upload.", false)
        .header("Upload-Checksum", checksum, false)
        .takes(bytes)
        .answers(201, "The upload; `Location` leads to it.", Content::Empty),
        Route::new("get", ONE, "getUpload", "Tells how far an upload is.", get(find)).answers(
            200,
            "The upload; `image` is set once it became one.",
            Content::Message("Upload"),
        ),
        Route::new("head", ONE, "tusOffset", "Tells the offset where an upload goes on.", head(tell))
            .answers(200, "In the headers; `Imageops-Image` names the image.", Content::Empty)
            .answers(410, "The upload was given up or refused.", Content::Empty),
        Route::new(
            "patch",
            ONE,
            "appendToUpload",
            "Goes on with an upload; the last byte makes the image.",
            patch(append),
        )
        .header("Tus-Resumable", version, true)
        .header("Upload-Offset", "Offset of the first byte of the body: that of the upload.", true)
        .header("Upload-Length", "Length of the whole, in bytes, where it was not told before.", false)
        .header("Upload-Checksum", checksum, false)
        .takes(bytes)
        .answers(204, "Taken; `Upload-Offset` tells how far it is.", Content::Empty)
        .answers(409, "The upload goes on elsewhere.", Content::Json("Problem"))
        .answers(
            460,
            "The bytes are not those of their checksum; none was taken.",
            Content::Json("Problem"),
        ),
        Route::new("delete", ONE, "abortUpload", "Gives an upload up and drops its bytes.", delete(give_up))
            .answers(204, "It is gone.", Content::Empty),
        Route::new(
            "post",
            ONE,
            "overrideMethod",
            "HEAD, PATCH or DELETE for clients that can only POST.",
            post(overridden),
        )
        .header("X-HTTP-Method-Override", "The method that is meant.", true)
        .takes(bytes)
        .answers(204, "As that method answers.", Content::Empty),
    ]
    .into_iter()
    .map(|route| route.tag("Uploads"))
    .collect()
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["page_size", "page_token", "state"])?;
    let message = ListUploadsRequest {
        page_size: query.number("page_size")?,
        page_token: query.text("page_token")?,
        states: query.choices::<UploadState>("state")?,
        session: String::new(),
    };
    let mut stub = call::list_stub(&gateway.connection);
    let call = stub.list_uploads(call::request(&headers, message));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    answer(StatusCode::OK, &fetch(&gateway, &headers, &id).await?)
}

async fn capabilities() -> Response {
    tus::capabilities()
}

async fn create(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, mut body: Body) -> Response {
    let answer = begin_upload(&gateway, &headers, &mut body).await;
    leftover::dismiss(body);
    tus::marked(answer)
}

async fn tell(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    tus::marked(tell_offset(&gateway, &headers, &id).await)
}

async fn append(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    mut body: Body,
) -> Response {
    let answer = append_bytes(&gateway, &headers, &id, &mut body).await;
    leftover::dismiss(body);
    tus::marked(answer)
}

async fn give_up(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    tus::marked(abort(&gateway, &headers, &id).await)
}

async fn overridden(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
    mut body: Body,
) -> Response {
    let meant = headers.get("x-http-method-override").map(|method| method.as_bytes().to_ascii_uppercase());
    let answer = match meant.as_deref() {
        Some(b"PATCH") => append_bytes(&gateway, &headers, &id, &mut body).await,
        Some(b"HEAD") => tell_offset(&gateway, &headers, &id).await,
        Some(b"DELETE") => abort(&gateway, &headers, &id).await,
        _ => Ok(wrong_method("an upload goes on with PATCH", "GET,HEAD,PATCH,DELETE")),
    };
    leftover::dismiss(body);
    tus::marked(answer)
}

async fn begin_upload(gateway: &Gateway, headers: &HeaderMap, body: &mut Body) -> Result<Response, Problem> {
    tus::check_version(headers, true)?;
    tus::refuse_concatenation(headers)?;
    let size_bytes = tus::length(headers)?;
    let mut metadata = tus::metadata(headers)?;
    metadata.size_bytes = size_bytes;
    let key = header_text(headers, "Idempotency-Key")?;
    let is_named = key.is_some();
    metadata.request_id = match key {
        Some(key) => key.trim_matches('"').to_owned(),
        None => Uuid::new_v4().to_string(),
    };
    let name = format!("uploads/{}", metadata.request_id);
    let with_bytes = headers.contains_key(header::CONTENT_TYPE);
    let mut bytes = Incoming::None;
    if with_bytes {
        tus::check_bytes(headers)?;
        check_fits(headers, 0, size_bytes)?;
        bytes = Incoming::of(gateway, headers, body, size_bytes.unwrap_or(u64::MAX)).await?;
    }
    let first = Message::Metadata(metadata);
    let intake = Intake::begin(&gateway.connection, call::request(headers, ()), first, 0);
    let upload = if with_bytes {
        let taken = take(intake, bytes, size_bytes).await;
        if taken.is_err() && !is_named {
            // Its client was never told where it is, and so cannot go on with it.
            let caller = call::request(headers, ()).metadata().clone();
            let given_up = intake::abort(gateway.connection.clone(), caller, name);
            // One that cannot be given up now expires.
            let _ = tokio::time::timeout(gateway.config.limits.call_timeout, given_up).await;
        }
        taken?
    } else {
        present(intake.close().await?.upload)?
    };

    let mut response = StatusCode::CREATED.into_response();
    tus::progress(&mut response, &upload);
    if let Ok(location) = HeaderValue::try_from(format!("{COLLECTION}/{}", id_of(&upload.name))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn tell_offset(gateway: &Gateway, headers: &HeaderMap, id: &str) -> Result<Response, Problem> {
    tus::check_version(headers, false)?;
    let upload = finished(gateway, headers, fetch(gateway, headers, id).await?).await?;
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    tus::progress(&mut response, &upload);
    Ok(response)
}

async fn append_bytes(
    gateway: &Gateway,
    headers: &HeaderMap,
    id: &str,
    body: &mut Body,
) -> Result<Response, Problem> {
    tus::check_version(headers, true)?;
    tus::check_bytes(headers)?;
    let offset_bytes = tus::number(headers, "Upload-Offset")?;
    let upload = fetch(gateway, headers, id).await?;
    refuse_ended(&upload)?;
    if offset_bytes != tus::offset_bytes(&upload) {
        let detail = format!("the upload goes on at {}", tus::offset_bytes(&upload));
        let problem = Problem::new(StatusCode::CONFLICT, "WRONG_OFFSET", detail);
        let mut response = problem.into_response();
        tus::progress(&mut response, &upload);
        return Ok(response);
    }
    let size_bytes = tus::late_length(headers, &upload)?;
    check_fits(headers, offset_bytes, size_bytes)?;
    let upload = if upload.state() == UploadState::Committed {
        // The answer to the last byte was lost, and the client says it again without bytes.
        upload
    } else {
        let left_bytes = size_bytes.unwrap_or(u64::MAX).saturating_sub(offset_bytes);
        let bytes = Incoming::of(gateway, headers, body, left_bytes).await?;
        take(resume(gateway, headers, &upload, size_bytes), bytes, size_bytes).await?
    };
    let mut response = StatusCode::NO_CONTENT.into_response();
    tus::progress(&mut response, &upload);
    Ok(response)
}

async fn abort(gateway: &Gateway, headers: &HeaderMap, id: &str) -> Result<Response, Problem> {
    tus::check_version(headers, false)?;
    // One that was given up before is gone, as for every other request.
    refuse_ended(&fetch(gateway, headers, id).await?)?;
    let message = AbortUploadRequest { name: resource("uploads", id)? };
    let mut stub = gateway.connection.stub();
    let call = stub.abort_upload(call::request(headers, message));
    call::within(gateway.config.limits.call_timeout, call).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn fetch(gateway: &Gateway, headers: &HeaderMap, id: &str) -> Result<Upload, Problem> {
    let message = GetUploadRequest { name: resource("uploads", id)? };
    let mut stub = gateway.connection.stub();
    let call = stub.get_upload(call::request(headers, message));
    present(call::within(gateway.config.limits.call_timeout, call).await?.upload)
}

/// An upload that can take no more bytes is gone, as tus has it.
fn refuse_ended(upload: &Upload) -> Result<(), Problem> {
    match upload.state() {
        UploadState::Open | UploadState::Stored | UploadState::Committed | UploadState::Unspecified => Ok(()),
        UploadState::Aborted => {
            Err(Problem::new(StatusCode::GONE, "UPLOAD_ENDED", "the upload was given up or has expired"))
        }
        UploadState::Failed => {
            let (reason, detail) = match &upload.error {
                Some(error) if !error.code.is_empty() => (error.code.as_str(), error.message.as_str()),
                _ => ("UPLOAD_ENDED", "the upload was refused"),
            };
            Err(Problem::new(StatusCode::GONE, reason, detail))
        }
    }
}

/// Refuses bodies that would pass the end of the upload, before their bytes are read.
fn check_fits(headers: &HeaderMap, offset_bytes: u64, size_bytes: Option<u64>) -> Result<(), Problem> {
    let size_bytes = size_bytes.unwrap_or(u64::MAX);
    let end_bytes = offset_bytes.checked_add(content_length(headers).unwrap_or(0));
    if end_bytes.is_some_and(|end_bytes| end_bytes <= size_bytes) {
        Ok(())
    } else {
        Err(too_long(size_bytes))
    }
}

fn too_long(size_bytes: u64) -> Problem {
    let detail = format!("the upload was announced with {size_bytes} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_MISMATCH", detail)
}

/// Goes on with an upload, and tells the server its length where that is known by now.
fn resume(gateway: &Gateway, headers: &HeaderMap, upload: &Upload, size_bytes: Option<u64>) -> Intake {
    let offset_bytes = upload.durable_bytes;
    let first = Message::Resume(UploadResume { upload: upload.name.clone(), offset_bytes, size_bytes });
    Intake::begin(&gateway.connection, call::request(headers, ()), first, offset_bytes)
}

/// Writes the bytes; makes the image when the last one is there.
async fn take(
    mut intake: Intake,
    mut bytes: Incoming<'_>,
    size_bytes: Option<u64>,
) -> Result<Upload, Problem> {
    let poured = pour(&mut bytes, &mut intake, size_bytes.unwrap_or(u64::MAX)).await;
    if let Ok(Poured::PastTheEnd) = poured {
        // What the client has mistaken is not known, so the last of it is not kept: the upload is never whole by it.
        intake.hang_up().await;
        return Err(too_long(size_bytes.unwrap_or(u64::MAX)));
    }
    if poured.is_ok() && size_bytes == Some(intake.end_bytes()) {
        let commit = UploadCommit { size_bytes, ..UploadCommit::default() };
        return present(intake.commit(commit).await?.upload);
    }
    // A broken body too is closed in order: what came becomes durable before the client asks.
    let closed = intake.close().await;
    poured?;
    present(closed?.upload)
}

/// What came of a body.
enum Poured {
    /// All of it was written.
    Whole,
    /// It has more bytes than the upload; those are not written.
    PastTheEnd,
}

async fn pour(bytes: &mut Incoming<'_>, intake: &mut Intake, size_bytes: u64) -> Result<Poured, Problem> {
    while let Some(data) = bytes.next().await? {
        // The server would take it for the end of the upload.
        if intake.end_bytes() + data.len() as u64 > size_bytes {
            return Ok(Poured::PastTheEnd);
        }
        intake.write(data).await?;
    }
    Ok(Poured::Whole)
}

/// Makes the image of an upload whose bytes are all there. It is missing when the gateway or the server went down between
/// the last byte and the commit; the client would take the offset for the end and never send anything again.
async fn finished(gateway: &Gateway, headers: &HeaderMap, upload: Upload) -> Result<Upload, Problem> {
    refuse_ended(&upload)?;
    let whole = upload.size_bytes == Some(upload.durable_bytes);
    if upload.state() == UploadState::Committed || !whole {
        return Ok(upload);
    }
    let commit = UploadCommit { size_bytes: upload.size_bytes, ..UploadCommit::default() };
    match resume(gateway, headers, &upload, upload.size_bytes).commit(commit).await {
        // Who may only read is told the offset; the image is made for the next one who may write.
        Err(status) if status.code() == Code::PermissionDenied => Ok(upload),
        committed => present(committed?.upload),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::Reason;

    use super::*;

    #[test]
    fn ended_uploads_are_gone_and_say_why() {
        let failed = Upload {
            state: UploadState::Failed.into(),
            error: Some(Reason { code: "UNSAFE_BACKING_FILE".to_owned(), ..Reason::default() }),
            ..Upload::default()
        };
        let problem = refuse_ended(&failed).unwrap_err();
        assert_eq!((problem.status(), problem.reason()), (StatusCode::GONE, "UNSAFE_BACKING_FILE"));
        let aborted = Upload { state: UploadState::Aborted.into(), ..Upload::default() };
        assert_eq!(refuse_ended(&aborted).unwrap_err().status(), StatusCode::GONE);
        let open = Upload { state: UploadState::Open.into(), ..Upload::default() };
        refuse_ended(&open).unwrap();
    }

    #[test]
    fn bodies_past_the_end_are_refused_before_they_are_read() {
        let length = |text| HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static(text))]);
        check_fits(&length("5"), 5, Some(10)).unwrap();
        check_fits(&HeaderMap::new(), 5, Some(10)).unwrap();
        check_fits(&length("6"), 5, None).unwrap();
        assert!(check_fits(&length("6"), 5, Some(10)).is_err());
        assert!(check_fits(&length("18446744073709551615"), 5, None).is_err());
    }
}
