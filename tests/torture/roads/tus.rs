//! Uploads by tus 1.0: created, asked for their offset, and continued in pieces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Setback, Target, part, setback};
use crate::ledger::Entry;
use crate::support::http::Answer;

const VERSION: (&str, &str) = ("tus-resumable", "1.0.0");
/// So many requests carry an upload, so that kills fall between them too.
const PIECES: u64 = 4;
const PIECE_BYTES_MIN: u64 = 1 << 20;

/// One attempt, which creates the upload or goes on with it.
pub fn upload(target: Target, entry: &Entry) -> Result<String, Setback> {
    if entry.sent_bytes() > 0
        && let Some(image) = resume(target, entry)?
    {
        return Ok(image);
    }
    let (length, key) = (entry.content.size_bytes.to_string(), entry.id.to_string());
    let metadata =
        format!("filename {},sha256 {}", STANDARD.encode("tus"), STANDARD.encode(&entry.digests.sha256));
    let headers = [
        VERSION,
        ("upload-length", length.as_str()),
        ("idempotency-key", key.as_str()),
        ("upload-metadata", metadata.as_str()),
    ];
    let created = target.send("POST", "/v1/uploads", &headers, &[][..])?;
    if created.status != 201 {
        return Err(setback(&created));
    }
    resume(target, entry)?.ok_or_else(|| refused("an upload that was created is not known"))
}

/// Goes on with an upload to its end; `None` when the server does not know it.
pub fn resume(target: Target, entry: &Entry) -> Result<Option<String>, Setback> {
    let path = format!("/v1/uploads/{}", entry.id);
    let mut answer = target.send("HEAD", &path, &[VERSION], &[][..])?;
    if answer.status == 404 {
        return Ok(None);
    }
    let size_bytes = entry.content.size_bytes;
    loop {
        if !(200..300).contains(&answer.status) {
            return Err(setback(&answer));
        }
        if let Some(image) = answer.header("imageops-image") {
            return Ok(Some(image.to_owned()));
        }
        let offset_bytes = offset(&answer)?;
        entry.check_offset(offset_bytes);
        let piece_bytes = (size_bytes / PIECES).max(PIECE_BYTES_MIN).min(size_bytes - offset_bytes);
        let at = offset_bytes.to_string();
        let headers =
            [VERSION, ("upload-offset", at.as_str()), ("content-type", "application/offset+octet-stream")];
        answer = target.send("PATCH", &path, &headers, part(entry, offset_bytes, piece_bytes))?;
    }
}

fn offset(answer: &Answer) -> Result<u64, Setback> {
    let offset = answer.header("upload-offset").and_then(|offset| offset.parse().ok());
    offset.ok_or_else(|| refused("an answer without an offset"))
}

fn refused(text: &str) -> Setback {
    Setback::Refused { reason: String::new(), text: text.to_owned() }
}
