//! The EdgeGallery file system: one form, or chunks and a merge.

use std::sync::atomic::Ordering;

use super::{Setback, Target, form as make_form, part, setback};
use crate::audit;
use crate::ledger::Entry;
use crate::support::http::Answer;

const IMAGES: &str = "/image-management/v1/images";
/// So many chunks carry an image, at most.
const CHUNKS: u64 = 6;
const CHUNK_BYTES_MIN: u64 = 512 << 10;

/// One request with the whole file. Nothing names an attempt: one whose answer was lost may have made an image.
pub fn form(target: Target, entry: &Entry) -> Result<String, Setback> {
    let name = format!("{}.img", entry.id);
    let bytes = part(entry, 0, entry.content.size_bytes);
    let (content_type, form) = make_form(&[("userId", "torture")], Some(("file", &name)), bytes);
    image(&target.send("POST", IMAGES, &[("content-type", &content_type)], form)?)
}

/// The chunks that were not confirmed, then the merge. When an earlier merge lost its answer the session is gone, and the
/// image is there.
pub async fn chunks(target: Target, entry: Entry) -> Result<String, Setback> {
    let digests = entry.digests.clone();
    match super::blocking(target, entry, send_chunks).await {
        Err(Setback::Refused { text, .. }) if text.contains("fail to find the file path") => {
            let images = audit::images(&target.patient_client()).await;
            let same = images.into_iter().find(|image| image.digests.as_ref() == Some(&digests));
            same.map(|image| image.name).ok_or(Setback::Refused { reason: String::new(), text })
        }
        result => result,
    }
}

/// A chunk that was confirmed is not sent again: it must be there, however often the server was killed since.
fn send_chunks(target: Target, entry: &Entry) -> Result<String, Setback> {
    let (identifier, size_bytes) = (entry.id.to_string(), entry.content.size_bytes);
    let chunk_bytes = chunk_bytes(size_bytes);
    loop {
        let offset_bytes = entry.confirmed_bytes.load(Ordering::Acquire);
        if offset_bytes == size_bytes {
            return merge(target, &identifier);
        }
        let length_bytes = chunk_bytes.min(size_bytes - offset_bytes);
        let name = format!("{}.part", offset_bytes / chunk_bytes + 1);
        let bytes = part(entry, offset_bytes, length_bytes);
        let (content_type, form) = make_form(&[("identifier", &identifier)], Some(("part", &name)), bytes);
        let headers = [("content-type", content_type.as_str())];
        let answer = target.send("POST", &format!("{IMAGES}/upload"), &headers, form)?;
        if answer.status != 200 {
            return Err(setback(&answer));
        }
        entry.confirmed_bytes.fetch_add(length_bytes, Ordering::AcqRel);
    }
}

/// Length of each chunk but the last.
pub fn chunk_bytes(size_bytes: u64) -> u64 {
    (size_bytes / CHUNKS).max(CHUNK_BYTES_MIN)
}

/// Gives up what was sent under an identifier and not merged.
pub fn cancel(target: Target, identifier: &str) {
    let path = format!("{IMAGES}/upload?identifier={identifier}");
    let answer = target.send("DELETE", &path, &[], &[][..]).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn merge(target: Target, identifier: &str) -> Result<String, Setback> {
    let name = format!("{identifier}.img");
    let fields = [("identifier", identifier), ("filename", &name), ("userId", "torture")];
    let (content_type, form) = make_form(&fields, None, &[][..]);
    image(&target.send("POST", &format!("{IMAGES}/merge"), &[("content-type", &content_type)], form)?)
}

fn image(answer: &Answer) -> Result<String, Setback> {
    if answer.status != 200 {
        return Err(setback(answer));
    }
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body["imageId"].as_str() {
        Some(id) => Ok(format!("images/{id}")),
        None => Err(setback(answer)),
    }
}
