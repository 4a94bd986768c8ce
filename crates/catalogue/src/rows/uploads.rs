//! Uploads.

use imageops_model::{Archive, ImageId, Micros, StoreId, UploadId, UploadState};

use super::{
    corrupt, read_failure, read_json, read_label, read_number, read_optional, read_tenant, read_uuid,
};
use crate::{Error, Result, UploadPart, UploadRow};

#[derive(sqlx::FromRow)]
pub(crate) struct UploadRecord {
    id: String,
    tenant: String,
    state: String,
    label: String,
    /// JSON.
    details: String,
    declared_format: Option<String>,
    size_bytes: Option<i64>,
    expected_md5: Option<String>,
    expected_sha256: Option<String>,
    store: Option<String>,
    session: Option<String>,
    part: Option<i64>,
    record: Option<String>,
    archive: Option<String>,
    /// JSON.
    wishes: String,
    durable_bytes: i64,
    reserved_bytes: i64,
    image: Option<String>,
    failure: Option<String>,
    create_time: i64,
    update_time: i64,
    expire_time: i64,
}

impl TryFrom<UploadRecord> for UploadRow {
    type Error = Error;

    fn try_from(record: UploadRecord) -> Result<Self> {
        let (part, composes) = match (record.session, record.part) {
            (Some(session), Some(number)) => {
                (Some(UploadPart { session, number: read_number("part", number)? }), None)
            }
            (composes, None) => (None, composes),
            (None, Some(_)) => return Err(corrupt("part")),
        };
        let archive = |name: String| Archive::parse(&name).ok_or_else(|| corrupt("archive"));
        Ok(Self {
            id: UploadId(read_uuid("upload id", &record.id)?),
            tenant: read_tenant(record.tenant)?,
            state: UploadState::parse(&record.state).ok_or_else(|| corrupt("upload state"))?,
            label: read_label(record.label)?,
            details: read_json("details", &record.details)?,
            declared_format: record.declared_format,
            size_bytes: record.size_bytes.map(|bytes| read_number("upload size", bytes)).transpose()?,
            expected_md5: record.expected_md5,
            expected_sha256: record.expected_sha256,
            store: read_optional("store id", record.store)?.map(StoreId),
            part,
            composes,
            record: read_optional("image id", record.record)?.map(ImageId),
            archive: record.archive.map(archive).transpose()?,
            wishes: read_json("wishes", &record.wishes)?,
            durable_bytes: read_number("durable bytes", record.durable_bytes)?,
            reserved_bytes: read_number("reserved bytes", record.reserved_bytes)?,
            image: read_optional("image id", record.image)?.map(ImageId),
            failure: read_failure(record.failure)?,
            create_time: Micros(record.create_time),
            update_time: Micros(record.update_time),
            expire_time: Micros(record.expire_time),
        })
    }
}
