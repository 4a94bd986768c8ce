//! `POST /v1/images`: all bytes in one request, named so that a broken one goes on elsewhere.

use super::{Setback, Target, form as make_form, grpc, part, setback, tus};
use crate::ledger::Entry;
use crate::support::http::Answer;

/// The bytes alone. What broke goes on by tus: the length was told.
pub fn body(target: Target, entry: &Entry) -> Result<String, Setback> {
    if entry.sent_bytes() > 0
        && let Some(image) = tus::resume(target, entry)?
    {
        return Ok(image);
    }
    let path =
        format!("/v1/images?display_name=body&request_id={}&sha256={}", entry.id, entry.digests.sha256);
    let headers = [("content-type", "application/octet-stream")];
    image(&target.send("POST", &path, &headers, part(entry, 0, entry.content.size_bytes))?)
}

/// A form. What broke goes on over gRPC: tus needs a length, and a form tells none.
pub async fn form(target: Target, entry: Entry) -> Result<String, Setback> {
    if entry.sent_bytes() > 0 {
        let client = target.client();
        grpc::check_offset(&client, &entry).await?;
        return grpc::send(&client, &entry).await;
    }
    super::blocking(target, entry, |target, entry| {
        let id = entry.id.to_string();
        let fields = [("request_id", id.as_str()), ("sha256", entry.digests.sha256.as_str())];
        let bytes = part(entry, 0, entry.content.size_bytes);
        let (content_type, form) = make_form(&fields, Some(("file", "form.img")), bytes);
        image(&target.send("POST", "/v1/images", &[("content-type", &content_type)], form)?)
    })
    .await
}

fn image(answer: &Answer) -> Result<String, Setback> {
    if answer.status != 201 {
        return Err(setback(answer));
    }
    Ok(answer.json()["name"].as_str().unwrap_or_default().to_owned())
}
