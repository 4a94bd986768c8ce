//! Rows as the database holds them, and as the rest of the service knows them. What does not read back is
//! [`Error::Corrupt`], never a guess.

use imageops_model::{
    ImageDetails, ImageId, ImageState, JobFailure, JobId, JobSpec, JobState, KeyId, Label, Micros, Scope,
    StoreId, Tenant, UploadId, UploadState,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::{Error, ImageRow, JobRow, KeyRow, Result, UploadRow};

/// A job and what only the catalogue knows of it.
pub(crate) struct StoredJob {
    pub(crate) row: JobRow,
    /// Claims that were given back; the others ended with their worker.
    pub(crate) releases: u32,
}

#[derive(sqlx::FromRow)]
pub(crate) struct JobRecord {
    id: String,
    tenant: String,
    spec: String,
    state: String,
    progress: String,
    result: Option<String>,
    failure: Option<String>,
    revision: i64,
    attempt: i64,
    releases: i64,
    cancel_requested: i64,
    worker: Option<String>,
    lease_time: Option<i64>,
    create_time: i64,
    start_time: Option<i64>,
    update_time: i64,
    end_time: Option<i64>,
}

impl TryFrom<JobRecord> for StoredJob {
    type Error = Error;

    fn try_from(record: JobRecord) -> Result<Self> {
        let row = JobRow {
            id: JobId(read_uuid("job id", &record.id)?),
            tenant: read_tenant(record.tenant)?,
            spec: read_json::<JobSpec>("job specification", &record.spec)?,
            state: JobState::parse(&record.state).ok_or_else(|| corrupt("job state"))?,
            progress: read_json("job progress", &record.progress)?,
            result: record.result,
            failure: read_failure(record.failure)?,
            revision: read_number("job revision", record.revision)?,
            attempt: read_number("job attempt", record.attempt)?,
            cancel_requested: record.cancel_requested != 0,
            worker: record.worker.map(|worker| read_uuid("worker", &worker)).transpose()?,
            lease_time: record.lease_time.map(Micros),
            create_time: Micros(record.create_time),
            start_time: record.start_time.map(Micros),
            update_time: Micros(record.update_time),
            end_time: record.end_time.map(Micros),
        };
        Ok(Self { row, releases: read_number("job releases", record.releases)? })
    }
}

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
    durable_bytes: i64,
    image: Option<String>,
    failure: Option<String>,
    create_time: i64,
    update_time: i64,
    expire_time: i64,
}

impl TryFrom<UploadRecord> for UploadRow {
    type Error = Error;

    fn try_from(record: UploadRecord) -> Result<Self> {
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
            durable_bytes: read_number("durable bytes", record.durable_bytes)?,
            image: record.image.map(|image| read_uuid("image id", &image).map(ImageId)).transpose()?,
            failure: read_failure(record.failure)?,
            create_time: Micros(record.create_time),
            update_time: Micros(record.update_time),
            expire_time: Micros(record.expire_time),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct ImageRecord {
    id: String,
    tenant: String,
    label: String,
    state: String,
    format: String,
    size_bytes: i64,
    virtual_size_bytes: Option<i64>,
    md5: String,
    sha256: String,
    store: String,
    blob: String,
    derived_from: Option<String>,
    revision: i64,
    description: String,
    protected: i64,
    enabled: i64,
    /// JSON: names and values.
    labels: String,
    /// JSON: names and values.
    properties: String,
    /// JSON: a list.
    tags: String,
    create_time: i64,
    update_time: i64,
    trash_time: Option<i64>,
    purge_time: Option<i64>,
}

impl TryFrom<ImageRecord> for ImageRow {
    type Error = Error;

    fn try_from(record: ImageRecord) -> Result<Self> {
        Ok(Self {
            id: ImageId(read_uuid("image id", &record.id)?),
            tenant: read_tenant(record.tenant)?,
            label: read_label(record.label)?,
            state: ImageState::parse(&record.state).ok_or_else(|| corrupt("image state"))?,
            format: record.format,
            size_bytes: read_number("image size", record.size_bytes)?,
            virtual_size_bytes: record
                .virtual_size_bytes
                .map(|bytes| read_number("virtual size", bytes))
                .transpose()?,
            md5: record.md5,
            sha256: record.sha256,
            store: StoreId(read_uuid("store id", &record.store)?),
            blob: record.blob,
            derived_from: record
                .derived_from
                .map(|image| read_uuid("image id", &image).map(ImageId))
                .transpose()?,
            details: ImageDetails {
                description: record.description,
                labels: read_json("labels", &record.labels)?,
                properties: read_json("properties", &record.properties)?,
                tags: read_json("tags", &record.tags)?,
                protected: record.protected != 0,
            },
            enabled: record.enabled != 0,
            revision: read_number("image revision", record.revision)?,
            create_time: Micros(record.create_time),
            update_time: Micros(record.update_time),
            trash_time: record.trash_time.map(Micros),
            purge_time: record.purge_time.map(Micros),
        })
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct KeyRecord {
    id: String,
    secret_sha256: Vec<u8>,
    tenant: String,
    scopes: String,
    label: String,
    create_time: i64,
    revoke_time: Option<i64>,
}

impl TryFrom<KeyRecord> for KeyRow {
    type Error = Error;

    fn try_from(record: KeyRecord) -> Result<Self> {
        Ok(Self {
            id: KeyId(read_uuid("key id", &record.id)?),
            secret_sha256: record.secret_sha256.try_into().map_err(|_| corrupt("key digest"))?,
            tenant: read_tenant(record.tenant)?,
            scopes: read_scopes(&record.scopes)?,
            label: read_label(record.label)?,
            create_time: Micros(record.create_time),
            revoke_time: record.revoke_time.map(Micros),
        })
    }
}

pub(crate) fn corrupt(what: &str) -> Error {
    Error::Corrupt { what: what.to_owned() }
}

/// A UUID as rows hold it.
pub(crate) fn write_uuid(id: Uuid) -> String {
    id.hyphenated().to_string()
}

pub(crate) fn read_uuid(what: &str, text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_| corrupt(what))
}

/// A length or counter as rows hold it.
pub(crate) fn write_number(what: &'static str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::OutOfRange { what })
}

fn read_number<T: TryFrom<i64>>(what: &str, number: i64) -> Result<T> {
    T::try_from(number).map_err(|_| corrupt(what))
}

pub(crate) fn write_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt(&error.to_string()))
}

fn read_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what))
}

pub(crate) fn write_failure(failure: Option<&JobFailure>) -> Result<Option<String>> {
    failure.map(write_json).transpose()
}

fn read_failure(text: Option<String>) -> Result<Option<JobFailure>> {
    text.map(|text| read_json("failure", &text)).transpose()
}

pub(crate) fn write_scopes(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",")
}

fn read_scopes(text: &str) -> Result<Vec<Scope>> {
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| Scope::parse(name).ok_or_else(|| corrupt("key scope")))
        .collect()
}

fn read_tenant(name: String) -> Result<Tenant> {
    Tenant::new(name).map_err(|_| corrupt("tenant"))
}

fn read_label(text: String) -> Result<Label> {
    Label::new(text).map_err(|_| corrupt("label"))
}
