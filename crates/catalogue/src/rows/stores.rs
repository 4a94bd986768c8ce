//! Stores, what is to be read in them, and quotas.

use imageops_model::{ImageId, Micros, StoreId, StoreState};

use super::{corrupt, read_json, read_number, read_tenant, read_uuid};
use crate::{BlobToVerify, Error, Quota, Result, StoreRow, Usage};

#[derive(sqlx::FromRow)]
pub(crate) struct StoreRecord {
    id: String,
    name: String,
    /// JSON.
    kind: String,
    description: String,
    weight: i64,
    limit_bytes: Option<i64>,
    state: String,
    revision: i64,
    create_time: i64,
    update_time: i64,
}

impl TryFrom<StoreRecord> for StoreRow {
    type Error = Error;

    fn try_from(record: StoreRecord) -> Result<Self> {
        Ok(Self {
            id: StoreId(read_uuid("store id", &record.id)?),
            name: record.name,
            kind: read_json("kind of store", &record.kind)?,
            description: record.description,
            weight: read_number("weight", record.weight)?,
            limit_bytes: record.limit_bytes.map(|bytes| read_number("limit", bytes)).transpose()?,
            state: StoreState::parse(&record.state).ok_or_else(|| corrupt("store state"))?,
            revision: read_number("store revision", record.revision)?,
            create_time: Micros(record.create_time),
            update_time: Micros(record.update_time),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct BlobRecord {
    blob: String,
    image: String,
    tenant: String,
    size_bytes: i64,
    sha256: String,
    verify_time: i64,
}

impl TryFrom<BlobRecord> for BlobToVerify {
    type Error = Error;

    fn try_from(record: BlobRecord) -> Result<Self> {
        Ok(Self {
            blob: record.blob,
            image: ImageId(read_uuid("image id", &record.image)?),
            tenant: read_tenant(record.tenant)?,
            size_bytes: read_number("image size", record.size_bytes)?,
            sha256: record.sha256,
            verify_time: Micros(record.verify_time),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct UsageRecord {
    images: i64,
    bytes: i64,
    reserved_images: i64,
    reserved_bytes: i64,
    images_max: Option<i64>,
    bytes_max: Option<i64>,
}

impl TryFrom<UsageRecord> for Usage {
    type Error = Error;

    fn try_from(record: UsageRecord) -> Result<Self> {
        let number = |number| read_number("usage", number);
        let limit = |limit: Option<i64>| limit.map(|limit| read_number("quota", limit)).transpose();
        Ok(Self {
            images: number(record.images)?,
            bytes: number(record.bytes)?,
            reserved_images: number(record.reserved_images)?,
            reserved_bytes: number(record.reserved_bytes)?,
            quota: Quota { images_max: limit(record.images_max)?, bytes_max: limit(record.bytes_max)? },
        })
    }
}
