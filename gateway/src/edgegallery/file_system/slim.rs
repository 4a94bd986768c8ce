//! POST `images/{imageId}/action/slim`: makes the slim companion of an image.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use imageops::v1::source::Source as SourceKind;
use imageops::v1::{CompressRequest, JobState, Source};
use tonic::{Code, Status};

use super::records::find;
use super::{Refusal, plain};
use crate::call;
use crate::edgegallery::literals;
use crate::route::{Content, Route};
use crate::router::Gateway;

pub(super) fn routes() -> Vec<Route> {
    let path = "/image-management/v1/images/{id}/action/slim";
    let text = Content::Raw("text/plain");
    vec![
        Route::new("post", path, "fsSlim", "Starts to make an image smaller.", post(slim))
            .answers(200, "It has begun, was begun or done before, or could not begin.", text)
            .answers(404, "There is no such image.", text)
            .answers(500, "The image is no qcow2 image.", text),
    ]
}

async fn slim(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let record = find(&gateway, &headers, &id).await?.ok_or(Refusal::not_found(literals::NO_IMAGE))?;
    let source = Source { source: Some(SourceKind::Image(record.image.name)) };
    let request = CompressRequest { source: Some(source), companion: true, ..CompressRequest::default() };
    let mut stub = gateway.connection.stub();
    let call = stub.compress(call::request(&headers, request));
    match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(answer) if answer.job.as_ref().is_some_and(|job| job.state() != JobState::Failed) => {
            Ok(plain(literals::SLIM_STARTED))
        }
        Ok(_) => Ok(plain(literals::SLIM_NOT_STARTED)),
        Err(status) => refused(&status),
    }
}

fn refused(status: &Status) -> Result<Response, Refusal> {
    match (status.code(), call::reason(status).as_deref()) {
        (_, Some("SLIM_EXISTS")) => Ok(plain(literals::SLIM_DONE)),
        (_, Some("SLIM_IN_PROGRESS")) => Ok(plain(literals::SLIM_RUNNING)),
        (_, Some("SLIM_NOT_SUPPORTED")) => Err(Refusal::failed(literals::SLIM_NOT_SUPPORTED)),
        (Code::NotFound, _) => Err(Refusal::not_found(literals::NO_IMAGE)),
        _ => match Refusal::of_denied(status) {
            Some(denied) => Err(denied),
            None => {
                tracing::warn!(code = ?status.code(), "a slim could not be started");
                Ok(plain(literals::SLIM_NOT_STARTED))
            }
        },
    }
}
