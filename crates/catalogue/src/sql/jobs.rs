//! Jobs: statements, and the steps of their life.
//!
//! A step reads the row, lets the state machine of the model decide, and writes the row back where it still is what was
//! read: compare-and-set on state, attempt and revision.

use imageops_model::{JobEvent, JobFailure, JobId, JobKind, JobProgress, JobState, Micros, Tenant};
use uuid::Uuid;

use super::{Connection, image_rows};
use crate::lists::{Slice, filter, found};
use crate::rows::{
    JobRecord, StoredJob, corrupt, read_uuid, write_failure, write_json, write_number, write_uuid,
};
use crate::{Created, Error, Heartbeat, JobOutcome, JobRow, NewJob, Page, RequestKey, Result};

const WHAT: &str = "job";

/// What a claim adds to the revision: more than a worker's attempt ever shows.
const REVISIONS_PER_ATTEMPT: u64 = 1_000_000;

/// gRPC status code `ABORTED`: the job may be asked for again.
const CODE_ABORTED: i32 = 10;

macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, spec, alias, state, progress, result, failure, revision, attempt, releases, \
             reserved_bytes, reserved_images, cancel_requested, worker, lease_time, create_time, start_time, update_time, end_time FROM jobs ",
            $rest
        )
    };
}

const SELECT: &str = select_jobs!("WHERE tenant = $1 AND id = $2");

// Workers know jobs by id alone; the tenant comes from the row.
const SELECT_FOR_WORKER: &str = select_jobs!("WHERE id = $1");

const SELECT_PAGE: &str = select_jobs!(
    "WHERE tenant = $1 AND state IN ($2, $3, $4, $5, $6) AND kind IN ($7, $8, $9, $10, $11, $12, $13) \
     AND (create_time, id) < ($14, $15) ORDER BY create_time DESC, id DESC LIMIT $16"
);

// The first condition is that of the index `jobs_to_claim`, word for word: else the index cannot be used.
const SELECT_CLAIMABLE: &str = concat!(
    select_jobs!(
        "WHERE state IN ('queued', 'running') AND (state = 'queued' OR lease_time IS NULL OR lease_time < $1) \
         ORDER BY create_time, id LIMIT 1"
    ),
    lock_for_claim!()
);

const IS_ANY_CLAIMABLE: &str = "SELECT CAST(1 AS BIGINT) FROM jobs WHERE state IN ('queued', 'running') \
     AND (state = 'queued' OR lease_time IS NULL OR lease_time < $1) LIMIT 1";

const SELECT_REQUEST: &str = "SELECT id, request_fingerprint FROM jobs WHERE tenant = $1 AND request_id = $2";

const COUNT_ACTIVE: &str = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running')";

const COUNT_BY_STATE: &str =
    "SELECT state, COUNT(*) FROM jobs WHERE state IN ('queued', 'running') GROUP BY state";

const INSERT: &str = "INSERT INTO jobs (id, tenant, kind, spec, state, progress, failure, revision, attempt, releases, \
     cancel_requested, create_time, update_time, end_time, request_id, request_fingerprint) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, $9, $9, $10, $11, $12) ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE jobs SET state = $1, progress = $2, result = $3, failure = $4, revision = $5, \
     attempt = $6, releases = $7, cancel_requested = $8, worker = $9, lease_time = $10, start_time = $11, \
     update_time = $12, end_time = $13 \
     WHERE tenant = $14 AND id = $15 AND state = $16 AND attempt = $17 AND revision = $18";

const DELETE: &str = "DELETE FROM jobs WHERE tenant = $1 AND id = $2 AND end_time IS NOT NULL";

const EXPIRE: &str = "DELETE FROM jobs WHERE id IN \
     (SELECT id FROM jobs WHERE end_time IS NOT NULL AND end_time < $1 ORDER BY end_time LIMIT $2)";

const FREE_LEASES: &str = "UPDATE jobs SET lease_time = NULL, update_time = $1 \
     WHERE state IN ('queued', 'running') AND state = 'running' AND worker = $2 AND lease_time IS NOT NULL";

pub(super) async fn create(db: &mut Connection, job: NewJob, queue_limit: u64) -> Result<Created<JobRow>> {
    if let Some(request) = job.request
        && let Some(id) = find_request(db, &job.tenant, request).await?
    {
        return Ok(Created::Existing(get(db, &job.tenant, id).await?));
    }
    let state = if job.failure.is_some() { JobState::Failed } else { JobState::Queued };
    // A job that failed before it began takes no place in the queue.
    if !state.is_final() && count_active(db).await? >= queue_limit {
        return Err(Error::QueueFull);
    }
    let inserted = sqlx::query(INSERT)
        .bind(write_uuid(job.id.0))
        .bind(job.tenant.as_str())
        .bind(job.spec.kind().as_str())
        .bind(write_json(&job.spec)?)
        .bind(state.as_str())
        .bind(write_json(&JobProgress::default())?)
        .bind(write_failure(job.failure.as_ref())?)
        .bind(1)
        .bind(job.create_time.0)
        .bind(state.is_final().then_some(job.create_time.0))
        .bind(job.request.map(|request| write_uuid(request.id)))
        .bind(job.request.map(|request| request.fingerprint.to_vec()))
        .execute(&mut *db)
        .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::Conflict { what: WHAT });
    }
    Ok(Created::New(get(db, &job.tenant, job.id).await?))
}

/// The job that the same request made before; [`Error::Conflict`] when it was another request.
async fn find_request(db: &mut Connection, tenant: &Tenant, request: RequestKey) -> Result<Option<JobId>> {
    let known: Option<(String, Vec<u8>)> = sqlx::query_as(SELECT_REQUEST)
        .bind(tenant.as_str())
        .bind(write_uuid(request.id))
        .fetch_optional(db)
        .await?;
    match known {
        None => Ok(None),
        Some((id, fingerprint)) if fingerprint == request.fingerprint => {
            Ok(Some(JobId(read_uuid("job id", &id)?)))
        }
        Some(_) => Err(Error::Conflict { what: WHAT }),
    }
}

async fn count_active(db: &mut Connection) -> Result<u64> {
    let active: i64 = sqlx::query_scalar(COUNT_ACTIVE).fetch_one(db).await?;
    u64::try_from(active).map_err(|_| corrupt("count of jobs"))
}

pub(super) async fn count(db: &mut Connection) -> Result<(u64, u64)> {
    let counts: Vec<(String, i64)> = sqlx::query_as(COUNT_BY_STATE).fetch_all(db).await?;
    let of = |state: JobState| {
        let count = counts.iter().find(|(name, _)| name == state.as_str()).map_or(0, |(_, count)| *count);
        u64::try_from(count).map_err(|_| corrupt("count of jobs"))
    };
    Ok((of(JobState::Queued)?, of(JobState::Running)?))
}

pub(super) async fn find(
    db: &mut Connection,
    tenant: &Tenant,
    request: RequestKey,
) -> Result<Option<JobRow>> {
    match find_request(db, tenant, request).await? {
        Some(id) => Ok(Some(get(db, tenant, id).await?)),
        None => Ok(None),
    }
}

pub(super) async fn get(db: &mut Connection, tenant: &Tenant, id: JobId) -> Result<JobRow> {
    Ok(load(db, tenant, id).await?.row)
}

async fn load(db: &mut Connection, tenant: &Tenant, id: JobId) -> Result<StoredJob> {
    let record: Option<JobRecord> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}

/// The job of a worker, which must still hold the claim number `attempt`.
async fn load_claimed(db: &mut Connection, id: JobId, attempt: u32) -> Result<StoredJob> {
    let record: Option<JobRecord> =
        sqlx::query_as(SELECT_FOR_WORKER).bind(write_uuid(id.0)).fetch_optional(db).await?;
    let job: StoredJob = found(record, WHAT)?.try_into()?;
    if job.row.state != JobState::Running || job.row.attempt != attempt {
        return Err(Error::Fenced);
    }
    Ok(job)
}

/// Writes `after` over `before`. The transaction is the only writer, so the comparison holds; were it ever not to, nothing
/// would be overwritten.
async fn save(db: &mut Connection, before: &JobRow, after: &StoredJob) -> Result<()> {
    let row = &after.row;
    let updated = sqlx::query(UPDATE)
        .bind(row.state.as_str())
        .bind(write_json(&row.progress)?)
        .bind(&row.result)
        .bind(write_failure(row.failure.as_ref())?)
        .bind(write_number("revision", row.revision)?)
        .bind(i64::from(row.attempt))
        .bind(i64::from(after.releases))
        .bind(i64::from(row.cancel_requested))
        .bind(row.worker.map(write_uuid))
        .bind(row.lease_time.map(|time| time.0))
        .bind(row.start_time.map(|time| time.0))
        .bind(row.update_time.0)
        .bind(row.end_time.map(|time| time.0))
        .bind(before.tenant.as_str())
        .bind(write_uuid(before.id.0))
        .bind(before.state.as_str())
        .bind(i64::from(before.attempt))
        .bind(write_number("revision", before.revision)?)
        .execute(db)
        .await?;
    if updated.rows_affected() == 1 { Ok(()) } else { Err(Error::Fenced) }
}

pub(super) async fn list(
    db: &mut Connection,
    tenant: &Tenant,
    states: &[JobState],
    kinds: &[JobKind],
    page: Page,
) -> Result<Vec<JobRow>> {
    let slice = Slice::from(page);
    let mut query = sqlx::query_as::<_, JobRecord>(SELECT_PAGE).bind(tenant.as_str());
    for state in filter::<5, _>(states, JobState::ALL, JobState::as_str) {
        query = query.bind(state);
    }
    for kind in filter::<7, _>(kinds, JobKind::ALL, JobKind::as_str) {
        query = query.bind(kind);
    }
    let records = query.bind(slice.create_time).bind(slice.id).bind(slice.limit).fetch_all(db).await?;
    records.into_iter().map(|record| Ok(StoredJob::try_from(record)?.row)).collect()
}

pub(super) async fn is_any_claimable(db: &mut Connection, now: Micros) -> Result<bool> {
    let any: Option<i64> = sqlx::query_scalar(IS_ANY_CLAIMABLE).bind(now.0).fetch_optional(db).await?;
    Ok(any.is_some())
}

pub(super) async fn claim(
    db: &mut Connection,
    worker: Uuid,
    now: Micros,
    lease_until: Micros,
    attempts_max: u32,
) -> Result<Option<JobRow>> {
    // Each round but the last ends a job, so there are at most as many as the queue is long.
    loop {
        let record: Option<JobRecord> =
            sqlx::query_as(SELECT_CLAIMABLE).bind(now.0).fetch_optional(&mut *db).await?;
        let Some(record) = record else { return Ok(None) };
        let mut job: StoredJob = record.try_into()?;
        let before = job.row.clone();
        let crashes = job.row.attempt.saturating_sub(job.releases);
        if job.row.cancel_requested {
            end(&mut job.row, JobEvent::Cancel, now)?;
        } else if job.row.state == JobState::Running && crashes >= attempts_max {
            end(&mut job.row, JobEvent::Fail, now)?;
            job.row.failure = Some(JobFailure {
                code: CODE_ABORTED,
                reason: "WORKER_CRASHED".to_owned(),
                message: format!("the worker ended without an answer {crashes} times"),
            });
        } else {
            apply(&mut job.row, JobEvent::Claim, now)?;
            job.row.attempt = job.row.attempt.checked_add(1).ok_or(Error::OutOfRange { what: "attempt" })?;
            job.row.revision = job.row.revision.saturating_add(REVISIONS_PER_ATTEMPT);
            job.row.worker = Some(worker);
            job.row.lease_time = Some(lease_until);
            job.row.start_time.get_or_insert(now);
            save(db, &before, &job).await?;
            return Ok(Some(job.row));
        }
        job.row.revision = job.row.revision.saturating_add(1);
        save(db, &before, &job).await?;
    }
}

pub(super) async fn heartbeat(
    db: &mut Connection,
    id: JobId,
    attempt: u32,
    progress: &JobProgress,
    revision: u64,
    now: Micros,
    lease_until: Micros,
) -> Result<Heartbeat> {
    let mut job = load_claimed(db, id, attempt).await?;
    let before = job.row.clone();
    job.row.progress = JobProgress { percent: before.progress.percent, ..*progress };
    // Never falls, also when a later attempt starts from the beginning. What is not a number could not be read back.
    if progress.percent.is_finite() {
        job.row.progress.percent = before.progress.percent.max(progress.percent.min(100.0));
    }
    job.row.revision = before.revision.max(revision);
    job.row.update_time = now;
    job.row.lease_time = before.lease_time.max(Some(lease_until));
    save(db, &before, &job).await?;
    Ok(Heartbeat { cancel_requested: job.row.cancel_requested })
}

pub(super) async fn finish(
    db: &mut Connection,
    id: JobId,
    attempt: u32,
    outcome: JobOutcome,
    revision: u64,
    now: Micros,
) -> Result<JobRow> {
    let mut job = load_claimed(db, id, attempt).await?;
    let before = job.row.clone();
    let row = &mut job.row;
    match outcome {
        JobOutcome::Succeeded { result, image, replica: _ } => {
            end(row, JobEvent::Succeed, now)?;
            row.result = Some(result);
            row.progress.percent = 100.0;
            row.progress.done_bytes = row.progress.total_bytes;
            row.progress.remaining_ms = None;
            if let Some(image) = image {
                image_rows::insert(db, &before.tenant, &image, image.size_bytes).await?;
            }
        }
        JobOutcome::Failed(failure) => {
            end(row, JobEvent::Fail, now)?;
            row.failure = Some(failure);
        }
        JobOutcome::Cancelled => end(row, JobEvent::Cancel, now)?,
    }
    row.revision = revision.max(before.revision.saturating_add(1));
    save(db, &before, &job).await?;
    Ok(job.row)
}

pub(super) async fn release(
    db: &mut Connection,
    id: JobId,
    attempt: u32,
    revision: u64,
    now: Micros,
) -> Result<()> {
    let mut job = load_claimed(db, id, attempt).await?;
    let before = job.row.clone();
    apply(&mut job.row, JobEvent::Release, now)?;
    job.row.revision = revision.max(before.revision.saturating_add(1));
    job.row.worker = None;
    job.row.lease_time = None;
    // The attempt stays counted as the fencing number, else the next claim would bear the same one.
    job.releases = job.releases.saturating_add(1);
    save(db, &before, &job).await
}

pub(super) async fn cancel(db: &mut Connection, tenant: &Tenant, id: JobId, now: Micros) -> Result<JobRow> {
    let mut job = load(db, tenant, id).await?;
    let before = job.row.clone();
    match before.state {
        JobState::Queued => end(&mut job.row, JobEvent::Cancel, now)?,
        JobState::Running if before.cancel_requested => return Ok(before),
        JobState::Running => job.row.update_time = now,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            return Err(Error::State { what: WHAT });
        }
    }
    job.row.cancel_requested = true;
    job.row.revision = before.revision.saturating_add(1);
    save(db, &before, &job).await?;
    Ok(job.row)
}

pub(super) async fn delete(db: &mut Connection, tenant: &Tenant, id: JobId) -> Result<()> {
    let job = load(db, tenant, id).await?;
    if !job.row.state.is_final() {
        return Err(Error::State { what: WHAT });
    }
    sqlx::query(DELETE).bind(tenant.as_str()).bind(write_uuid(id.0)).execute(db).await?;
    Ok(())
}

pub(super) async fn expire(db: &mut Connection, before: Micros, limit: u64) -> Result<u64> {
    let deleted = sqlx::query(EXPIRE).bind(before.0).bind(write_number("limit", limit)?).execute(db).await?;
    Ok(deleted.rows_affected())
}

pub(super) async fn free_leases(db: &mut Connection, worker: Uuid, now: Micros) -> Result<u64> {
    Ok(sqlx::query(FREE_LEASES).bind(now.0).bind(write_uuid(worker)).execute(db).await?.rows_affected())
}

/// Moves a job by the state machine.
fn apply(row: &mut JobRow, event: JobEvent, now: Micros) -> Result<()> {
    row.state = row.state.after(event).map_err(|_| Error::State { what: WHAT })?;
    row.update_time = now;
    Ok(())
}

/// Moves a job into a final state.
fn end(row: &mut JobRow, event: JobEvent, now: Micros) -> Result<()> {
    apply(row, event, now)?;
    row.end_time = Some(now);
    row.worker = None;
    row.lease_time = None;
    Ok(())
}
