//! Images that come in parts: each part a request, joined by one more.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use imageops::v1::{AbortSessionRequest, ComposeImageRequest, ListUploadsRequest, UploadMetadata};

use super::images::{BYTES, about_bytes, made, read_query, take_bytes};
use super::{answer, present, read_message, wrong_method};
use crate::call;
use crate::problem::Problem;
use crate::route::{Content, Route};
use crate::router::Gateway;

/// How long joining may take: a whole image is written, and read once more.
pub(crate) const COMPOSE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// What may be said of a part.
const OF_PARTS: [&str; 5] = ["md5", "sha256", "sha512", "store", "request_id"];

pub(super) fn routes() -> Vec<Route> {
    let session = "/v1/sessions/{session}";
    let one = Route::new(
        "put",
        "/v1/sessions/{session}/parts/{part}",
        "storePart",
        "Takes in a part, in place of an earlier one.",
        put(store),
    );
    [
        about_bytes(one, &OF_PARTS)
            .takes(Content::Raw("application/octet-stream"))
            .answers(200, "The part, `STORED`.", Content::Message("Upload"))
            .answers(409, "The session is being composed.", Content::Json("Problem")),
        Route::new(
            "get",
            session,
            "listParts",
            "Lists the parts that are stored, by their number.",
            get(list),
        )
        .answers(200, "The parts, on one page.", Content::Message("ListUploadsResponse")),
        Route::new("delete", session, "abortSession", "Drops all parts of a session.", delete(abort))
            .answers(200, "How many there were.", Content::Message("AbortSessionResponse")),
        Route::new(
            "post",
            "/v1/sessions/{session}:compose",
            "composeImage",
            "Makes one image of the parts.",
            post(compose),
        )
        .takes(Content::Message("UploadMetadata"))
        .answers(201, "The image.", Content::Message("Image"))
        .answers(404, "There is no such session.", Content::Json("Problem"))
        .answers(409, "A part is missing, or the session is being composed.", Content::Json("Problem"))
        .answers(
            422,
            "The bytes are unsafe, or not those that were promised.",
            Content::Json("Problem"),
        ),
    ]
    .into_iter()
    .map(|route| route.tag("Uploads"))
    .collect()
}

async fn store(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path((session, part)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let asked = || {
        let part = part.parse().map_err(|_| Problem::invalid("part", "is no number that can be"))?;
        Ok(UploadMetadata { session, part, ..read_query(&uri, &OF_PARTS)? })
    };
    let answered = take_bytes(&gateway, &headers, asked(), body, BYTES).await?;
    answer(StatusCode::OK, &present(answered.upload)?)
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(session): Path<String>,
) -> Result<Response, Problem> {
    let message = ListUploadsRequest { session, ..ListUploadsRequest::default() };
    let mut stub = call::list_stub(&gateway.connection);
    let call = stub.list_uploads(call::request(&headers, message));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn abort(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(session): Path<String>,
) -> Result<Response, Problem> {
    let mut stub = gateway.connection.stub();
    let call = stub.abort_session(call::request(&headers, AbortSessionRequest { session }));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

/// POST `/v1/sessions/{session}:compose`; the router sees session and verb as one.
async fn compose(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(target): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Some(session) = target.strip_suffix(":compose") else {
        return Ok(wrong_method("a session is not posted to; `:compose` is missing", "GET,HEAD,DELETE"));
    };
    let mut metadata: UploadMetadata = read_message(&gateway, &headers, body).await?;
    if !metadata.session.is_empty() && metadata.session != session {
        return Err(Problem::invalid("session", "is not the session of the path"));
    }
    session.clone_into(&mut metadata.session);
    let message = ComposeImageRequest { metadata: Some(metadata) };
    let mut stub = gateway.connection.stub();
    let answered =
        call::within(COMPOSE_TIMEOUT, stub.compose_image(call::request(&headers, message))).await?;
    let image = present(answered.image)?;
    made(StatusCode::CREATED, image, &answered.check_job)
}
