//! Jobs.

use imageops_model::{JobId, JobSpec, JobState, Micros};

use super::{corrupt, read_failure, read_json, read_number, read_tenant, read_uuid};
use crate::{Error, JobRow, Result};

/// A job and what only the catalogue knows of it.
#[derive(Clone)]
pub(crate) struct StoredJob {
    pub(crate) row: JobRow,
    /// Claims that were given back; the others ended with their worker.
    pub(crate) releases: u32,
    /// Bytes of the quota that it holds.
    pub(crate) reserved_bytes: u64,
    /// Images of the quota that it holds.
    pub(crate) reserved_images: u64,
}

#[derive(sqlx::FromRow)]
pub(crate) struct JobRecord {
    id: String,
    tenant: String,
    spec: String,
    alias: Option<String>,
    state: String,
    progress: String,
    result: Option<String>,
    failure: Option<String>,
    revision: i64,
    attempt: i64,
    releases: i64,
    reserved_bytes: i64,
    reserved_images: i64,
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
            alias: record.alias,
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
        Ok(Self {
            row,
            releases: read_number("job releases", record.releases)?,
            reserved_bytes: read_number("reserved bytes", record.reserved_bytes)?,
            reserved_images: read_number("reserved images", record.reserved_images)?,
        })
    }
}
