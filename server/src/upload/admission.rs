//! Whether an upload may begin, and as what: its metadata checked, its store chosen, its row made.

use std::sync::Arc;

use imageops::v1;
use imageops_catalogue::{Created, Error, UploadPart, UploadRow};
use imageops_model::{Archive, Label, Micros, StoreId, Tenant, UploadId, UploadState, UploadWishes};
use tonic::Code;
use uuid::Uuid;

use crate::app::App;
use crate::clock::{latest, now};
use crate::failure::{Failure, Result};
use crate::{reason, wire};

/// Longest name of a session, in bytes.
const SESSION_BYTES_MAX: usize = 255;
/// Highest number of a part.
const PART_MAX: u32 = 999_999_999;

const PART_FILLS_NO_RECORD: &str = "a part fills no record; name it where the parts are composed";
const PART_IS_NO_ARCHIVE: &str = "a part is wrapped in nothing; say it where they are composed";

/// Makes the upload that the metadata describe, or finds the one that they made before.
pub async fn begin(app: &Arc<App>, tenant: &Tenant, metadata: v1::UploadMetadata) -> Result<UploadRow> {
    let wanted = metadata.store.clone();
    let asked = read(app, tenant, metadata)?;
    let row = UploadRow { store: Some(place(app, &asked, &wanted).await?), ..asked };
    let made = app.catalogue.create_upload(row).await.map_err(|error| match error {
        Error::State { what: "image" } => not_queued(),
        other => other.into(),
    })?;
    match made {
        Created::New(row) | Created::Existing(row) => Ok(row),
    }
}

/// The row of an upload as its metadata ask for it, without a store.
pub fn read(app: &App, tenant: &Tenant, metadata: v1::UploadMetadata) -> Result<UploadRow> {
    let id = Uuid::try_parse(&metadata.request_id)
        .map_err(|_| Failure::invalid("metadata.request_id", "must be a UUID: it becomes the upload's id"))?;
    let details = wire::read_upload_details(&metadata)?;
    let record = read_record(&metadata)?;
    let part = read_part(&metadata)?;
    let label = Label::new(metadata.display_name)
        .map_err(|error| Failure::invalid("metadata.display_name", error.to_string()))?;
    if metadata.size_bytes.is_some_and(|size| size > app.config.upload_max_bytes) {
        return Err(too_large(app.config.upload_max_bytes));
    }
    let declared = wire::read_format("metadata.declared_format", metadata.declared_format)?;
    let promise = wire::read_promise(metadata.size_bytes, metadata.expected_digests)?;
    let time = now();
    Ok(UploadRow {
        id: UploadId(id),
        tenant: tenant.clone(),
        state: UploadState::Open,
        label,
        details,
        declared_format: declared.map(|format| format.as_str().to_owned()),
        size_bytes: metadata.size_bytes,
        expected_md5: promise.md5,
        expected_sha256: promise.sha256,
        store: None,
        part,
        composes: None,
        record,
        archive: read_archive(metadata.archive)?,
        wishes: UploadWishes {
            accept_corrupt: metadata.accept_corrupt,
            check: metadata.check,
            // What must be compared must be computed.
            sha512: metadata.sha512 || promise.sha512.is_some(),
            becomes_part: metadata.becomes_part,
            import: false,
            expected_sha512: promise.sha512,
            expected_crc32: promise.crc32,
        },
        durable_bytes: 0,
        reserved_bytes: 0,
        image: None,
        failure: None,
        create_time: time,
        update_time: time,
        expire_time: expiry(app),
    })
}

/// The store that an upload goes to: where it began, if it did.
pub async fn place(app: &Arc<App>, asked: &UploadRow, wanted: &str) -> Result<StoreId> {
    match app.catalogue.get_upload(&asked.tenant, asked.id).await {
        Ok(known) => return Ok(known.store.unwrap_or_else(|| app.stores.default_id())),
        Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    app.stores.place(wanted, asked.size_bytes, &[]).await
}

/// When an upload is given up to which nothing comes any more.
pub fn expiry(app: &App) -> Micros {
    latest().plus_ms(i64::from(app.config.upload_expiry_hours) * 3_600_000)
}

/// The record that an upload fills keeps what was said of it.
fn read_record(metadata: &v1::UploadMetadata) -> Result<Option<imageops_model::ImageId>> {
    if metadata.image.is_empty() {
        return Ok(None);
    }
    let said = !(metadata.display_name.is_empty()
        && metadata.description.is_empty()
        && metadata.labels.is_empty()
        && metadata.properties.is_empty()
        && metadata.tags.is_empty()
        && metadata.facts.is_none());
    if said {
        let message = "the record keeps what was said of it; leave everything else about the image empty";
        return Err(Failure::invalid("metadata.image", message));
    }
    if metadata.becomes_part || !metadata.session.is_empty() && metadata.part > 0 {
        return Err(Failure::invalid("metadata.image", PART_FILLS_NO_RECORD));
    }
    let id = metadata.image.parse().map_err(|error: imageops_model::InvalidName| {
        Failure::invalid("metadata.image", error.to_string())
    })?;
    Ok(Some(id))
}

fn read_part(metadata: &v1::UploadMetadata) -> Result<Option<UploadPart>> {
    let unnamed = metadata.session.is_empty() && metadata.part == 0;
    if unnamed && !metadata.becomes_part {
        return Ok(None);
    }
    if metadata.archive != 0 {
        return Err(Failure::invalid("metadata.archive", PART_IS_NO_ARCHIVE));
    }
    match (unnamed, metadata.becomes_part) {
        (true, _) => Ok(None),
        (false, true) => {
            let message = "is for parts that the commit names; leave `session` and `part` empty";
            Err(Failure::invalid("metadata.becomes_part", message))
        }
        (false, false) => {
            let fields = ["metadata.session", "metadata.part"];
            check_place(fields, metadata.session.clone(), metadata.part).map(Some)
        }
    }
}

/// The place among the parts of a session.
fn check_place([session, part]: [&'static str; 2], name: String, number: u32) -> Result<UploadPart> {
    check_session(session, &name)?;
    if !(1..=PART_MAX).contains(&number) {
        return Err(Failure::invalid(part, "lies between 1 and 999,999,999"));
    }
    Ok(UploadPart { session: name, number })
}

/// The part that an upload is in the end: as its metadata say, or the commit. `None`: it is an image.
pub fn read_place(upload: &UploadRow, commit: &v1::UploadCommit) -> Result<Option<UploadPart>> {
    if commit.session.is_empty() && commit.part == 0 {
        if upload.part.is_none() && upload.wishes.becomes_part {
            let message = "the upload becomes a part; name its session, and its number in `part`";
            return Err(Failure::invalid("commit.session", message));
        }
        return Ok(upload.part.clone());
    }
    let place = check_place(["commit.session", "commit.part"], commit.session.clone(), commit.part)?;
    if upload.part.as_ref().is_some_and(|declared| *declared != place) {
        let message = "the metadata made the upload another part, and it stays that";
        return Err(Failure::invalid("commit.session", message));
    }
    if upload.record.is_some() {
        return Err(Failure::invalid("commit.session", PART_FILLS_NO_RECORD));
    }
    if upload.archive.is_some() {
        return Err(Failure::invalid("commit.session", PART_IS_NO_ARCHIVE));
    }
    Ok(Some(place))
}

/// Refuses what cannot name a session.
pub fn check_session(field: &'static str, session: &str) -> Result<()> {
    let unfit = |c: char| c.is_control() || c == '/' || c == '\\';
    if !(1..=SESSION_BYTES_MAX).contains(&session.len())
        || session.contains(unfit)
        || [".", ".."].contains(&session)
    {
        let message = "has 1 to 255 bytes without slashes and control characters, and is not `.` or `..`";
        return Err(Failure::invalid(field, message));
    }
    Ok(())
}

fn read_archive(value: i32) -> Result<Option<Archive>> {
    match v1::Archive::try_from(value) {
        Ok(v1::Archive::Unspecified) => Ok(None),
        Ok(v1::Archive::Zip) => Ok(Some(Archive::Zip)),
        Ok(v1::Archive::Gzip) => Ok(Some(Archive::Gzip)),
        Ok(v1::Archive::Xz) => Ok(Some(Archive::Xz)),
        Ok(v1::Archive::Zstd) => Ok(Some(Archive::Zstd)),
        Err(_) => Err(Failure::invalid("metadata.archive", "takes ZIP, GZIP, XZ or ZSTD")),
    }
}

/// The record cannot be filled.
pub fn not_queued() -> Failure {
    let message = "the record has bytes already, or another upload fills it";
    Failure::new(Code::FailedPrecondition, reason::IMAGE_NOT_QUEUED, message)
}

/// More bytes than the server takes.
pub fn too_large(limit: u64) -> Failure {
    Failure::new(Code::InvalidArgument, reason::TOO_LARGE, format!("at most {limit} bytes are taken"))
        .with("limit_bytes", limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_25_sessions_are_labels() {
        for good in ["s1", "567017472-focal-server-cloudimg-amd64img", "a b", "ä", &"s".repeat(255)] {
            assert!(check_session("session", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\\b", "a\0", "a\nb", "../..", &"s".repeat(256)] {
            assert!(check_session("session", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_part_is_numbered_within_a_session() {
        let metadata = |session: &str, part| v1::UploadMetadata {
            session: session.to_owned(),
            part,
            ..v1::UploadMetadata::default()
        };
        assert_eq!(read_part(&metadata("", 0)), Ok(None));
        let part = UploadPart { session: "s".to_owned(), number: 7 };
        assert_eq!(read_part(&metadata("s", 7)), Ok(Some(part)));
        for (session, part) in [("s", 0), ("", 1), ("s", PART_MAX + 1), ("../s", 1)] {
            assert!(read_part(&metadata(session, part)).is_err(), "{session} {part}");
        }
        let becoming = |session, part| v1::UploadMetadata { becomes_part: true, ..metadata(session, part) };
        assert_eq!(read_part(&becoming("", 0)), Ok(None));
        let zip = v1::UploadMetadata { archive: v1::Archive::Zip.into(), ..becoming("", 0) };
        for metadata in [becoming("s", 7), becoming("", 7), becoming("s", 0), zip] {
            assert!(read_part(&metadata).is_err(), "{metadata:?}");
        }
    }
}
