//! ImportImage.

use std::sync::Arc;

use imageops::v1;
use imageops_catalogue::UploadRow;
use imageops_fetch::Url;
use imageops_model::{ImageState, ImportSpec, JobKind, JobSpec, Label, SourceUrl, UploadWishes};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::jobs::{Asked, queue, repeated, request_key};
use crate::app::App;
use crate::auth::Caller;
use crate::failure::{Failure, Result};
use crate::sources;
use crate::upload::admission;

/// Endings that say what a file is packed in, and nothing of what it is.
const PACKINGS: [&str; 4] = [".gz", ".xz", ".zst", ".zip"];

/// A hundred years.
const LIFETIME_MS: i64 = 100 * 365 * 86_400_000;

/// Queues an import. Nothing is asked of the network here: a call tells nothing of it, and takes no time for it.
pub(super) async fn import(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::ImportImageRequest,
) -> Result<v1::Job> {
    let key = request_key(
        JobKind::Import,
        &request.request_id,
        &v1::ImportImageRequest { request_id: String::new(), ..request.clone() },
    )?;
    if let Some(job) = repeated(app, caller, key, request.validate_only).await? {
        return Ok(job);
    }
    let url = app.sources.gate().read(&request.url).map_err(|error| {
        let failure = sources::refusal(error);
        Failure::invalid_as(crate::reason::URL_REFUSED, "url", failure.message)
    })?;
    let upload = upload(app, caller, &url, request.metadata.unwrap_or_default()).await?;
    let spec = ImportSpec { url: SourceUrl(url.into()), upload: upload.id, image: upload.record };
    let asked = Asked {
        request: key,
        upload: Some(upload),
        validate_only: request.validate_only,
        ..Asked::new(JobSpec::Import(spec))
    };
    queue(app, caller, asked).await
}

/// The upload that takes the bytes in.
async fn upload(
    app: &Arc<App>,
    caller: &Caller,
    url: &Url,
    mut metadata: v1::UploadMetadata,
) -> Result<UploadRow> {
    if !metadata.request_id.is_empty() {
        let message = "an import has a `request_id` of its own; leave it empty here";
        return Err(Failure::invalid("metadata.request_id", message));
    }
    if metadata.becomes_part || metadata.part != 0 || !metadata.session.is_empty() {
        return Err(Failure::invalid("metadata.session", "an import is no part of a session"));
    }
    metadata.request_id = Uuid::new_v4().to_string();
    if metadata.image.is_empty() && metadata.display_name.is_empty() {
        metadata.display_name = name_of(url, metadata.archive != 0);
    }
    let wanted = metadata.store.clone();
    let asked = admission::read(app, &caller.tenant, metadata)?;
    if let Some(record) = asked.record
        && app.catalogue.get_image(&caller.tenant, record).await?.state != ImageState::Queued
    {
        return Err(admission::not_queued());
    }
    let store = admission::place(app, &asked, &wanted).await?;
    let wishes = UploadWishes { import: true, ..asked.wishes };
    // It ends with its job, and not before.
    let expire_time = asked.create_time.plus_ms(LIFETIME_MS);
    Ok(UploadRow { store: Some(store), wishes, expire_time, ..asked })
}

/// The last part of the path, where it can be a label; without the ending of a packing that comes off.
fn name_of(url: &Url, is_unpacked: bool) -> String {
    let last = url.path().rsplit('/').next().unwrap_or_default();
    let name = percent_decode_str(last).decode_utf8_lossy();
    let unpacked = PACKINGS.iter().find_map(|packing| name.strip_suffix(packing)).filter(|_| is_unpacked);
    let name = unpacked.unwrap_or(&name);
    if Label::new(name).is_ok() { name.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_image_is_called_like_its_file() {
        for (url, is_unpacked, name) in [
            ("https://a.example/b/debian-13.qcow2", false, "debian-13.qcow2"),
            ("https://a.example/b/debian-13.qcow2", true, "debian-13.qcow2"),
            ("https://a.example/b/disk.raw.xz?token=secret", true, "disk.raw"),
            ("https://a.example/b/disk.raw.xz", false, "disk.raw.xz"),
            ("https://a.example/b/a%20b.img", false, "a b.img"),
            ("https://a.example/", false, ""),
            ("https://a.example/a%0Ab", false, ""),
        ] {
            assert_eq!(name_of(&Url::parse(url).unwrap(), is_unpacked), name, "{url}");
        }
    }
}
