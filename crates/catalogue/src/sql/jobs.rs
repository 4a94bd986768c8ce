//! Jobs: statements, and the steps of their life.
//!
//! A step reads the row, lets the state machine of the model decide, and writes the row back where it still is what was
//! read: compare-and-set on state, attempt and revision.

use imageops_model::{
    ImageId, JobEvent, JobId, JobKind, JobProgress, JobSpec, JobState, Micros, SourceUrl, Tenant,
};

use super::usage::{self, Amount};
use super::{Connection, job_ends, uploads};
use crate::lists::{Slice, filter, found};
use crate::rows::{
    JobRecord, StoredJob, corrupt, read_uuid, write_failure, write_json, write_number, write_uuid,
};
use crate::{Created, Error, JobCounts, JobRow, Join, NewJob, Page, RequestKey, Result};

pub(super) const WHAT: &str = "job";

macro_rules! select_jobs {
    ($rest:expr) => {
        concat!(
            "SELECT id, tenant, spec, alias, state, progress, result, failure, revision, attempt, releases, \
             reserved_bytes, reserved_images, cancel_requested, worker, lease_time, create_time, start_time, update_time, end_time FROM jobs ",
            $rest
        )
    };
}

pub(super) use select_jobs;

const SELECT: &str = select_jobs!("WHERE tenant = $1 AND id = $2");

/// A page of jobs: `$2` to `$6` are the states, `$7` to `$14` the kinds.
macro_rules! select_page {
    ($which:expr) => {
        select_jobs!(concat!(
            $which,
            " AND state IN ($2, $3, $4, $5, $6) AND kind IN ($7, $8, $9, $10, $11, $12, $13, $14) \
             AND (create_time, id) < ($15, $16) ORDER BY create_time DESC, id DESC LIMIT $17"
        ))
    };
}

const SELECT_PAGE: &str = select_page!("WHERE tenant = $1");

// No parameter tells a database that the rows are those of an index of live jobs: its condition has to stand here.
pub(super) const SELECT_LIVE_PAGE: &str =
    select_page!(concat!(by_turn!(), "WHERE tenant = $1 AND state IN ('queued', 'running')"));

pub(super) const SELECT_ALIAS: &str = select_jobs!("WHERE tenant = $1 AND alias = $2");

pub(super) const SELECT_COALESCED: &str =
    select_jobs!("WHERE tenant = $1 AND coalesce_key = $2 AND state IN ('queued', 'running')");

pub(super) const SELECT_OF_IMAGE: &str = select_jobs!(
    "WHERE tenant = $1 AND image = $2 AND state IN ('queued', 'running') ORDER BY create_time, id"
);

const SELECT_NEWEST: &str = "SELECT id FROM jobs WHERE tenant = $1 AND state IN ('queued', 'running') \
     ORDER BY create_time DESC, id DESC LIMIT 1";

const DROP_COALESCE_KEY: &str = "UPDATE jobs SET coalesce_key = NULL WHERE tenant = $1 AND id = $2";

const SELECT_REQUEST: &str = "SELECT id, request_fingerprint FROM jobs WHERE tenant = $1 AND request_id = $2";

/// Of each tenant as many as it may ask for: the checks of its new images, which come unasked, take no other tenant's place.
const COUNT_ACTIVE: &str = "SELECT CAST(COALESCE(SUM(CASE WHEN own > $1 THEN $1 ELSE own END), 0) AS BIGINT) FROM \
     (SELECT COUNT(*) AS own FROM jobs WHERE state IN ('queued', 'running') GROUP BY tenant) AS tenants";

const COUNT_ACTIVE_OF: &str =
    "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'running') AND tenant = $1";

/// How many times as many jobs as one tenant all tenants together may have in the queue.
const QUEUE_TENANTS: u64 = 10;

const COUNT_BY_TENANT: &str = "SELECT COUNT(*), SUM(CASE state WHEN 'running' THEN 1 ELSE 0 END) FROM jobs \
     WHERE state IN ('queued', 'running') GROUP BY tenant";

const INSERT: &str = "INSERT INTO jobs (id, tenant, kind, spec, state, progress, failure, revision, attempt, releases, \
     cancel_requested, create_time, update_time, end_time, request_id, request_fingerprint, coalesce_key, alias, image, \
     reserved_bytes, reserved_images) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, 0, $9, $9, $10, $11, $12, $13, $14, $15, $16, $17) \
     ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE jobs SET state = $1, progress = $2, result = $3, failure = $4, revision = $5, \
     attempt = $6, releases = $7, cancel_requested = $8, worker = $9, lease_time = $10, start_time = $11, \
     update_time = $12, end_time = $13, reserved_bytes = $14, reserved_images = $15, \
     spec = COALESCE($16, spec) \
     WHERE tenant = $17 AND id = $18 AND state = $19 AND attempt = $20 AND revision = $21";

const DELETE: &str = "DELETE FROM jobs WHERE tenant = $1 AND id = $2 AND end_time IS NOT NULL";

const EXPIRE: &str = "DELETE FROM jobs WHERE id IN \
     (SELECT id FROM jobs WHERE end_time IS NOT NULL AND end_time < $1 ORDER BY end_time LIMIT $2)";

/// Refuses a job for which there is no place before it waits for its turn to write: else a flood of jobs that are refused
/// would keep all others waiting. What has an answer all the same is left to [`create`], which decides.
pub(super) async fn refuse_surplus(db: &mut Connection, job: &NewJob, queue_limit: u64) -> Result<()> {
    if job.failure.is_some() || !is_full(db, &job.tenant, queue_limit).await? {
        return Ok(());
    }
    if let Some(request) = job.request
        && find_request(db, &job.tenant, request).await?.is_some()
    {
        return Ok(());
    }
    if let Some(alias) = &job.alias
        && find_by_alias(db, &job.tenant, alias).await?.is_some()
    {
        return Ok(());
    }
    if let Some(key) = &job.coalesce_key
        && find_one(db, SELECT_COALESCED, &job.tenant, key).await?.is_some()
    {
        return Ok(());
    }
    Err(Error::QueueFull)
}

async fn may_join(db: &mut Connection, join: Join, living: &JobRow) -> Result<bool> {
    let is_queued = living.state == JobState::Queued;
    Ok(match join {
        Join::Any => true,
        Join::NotCancelled => !living.cancel_requested,
        Join::NotBegun => is_queued,
        Join::Newest => is_queued && is_newest(db, living).await?,
    })
}

async fn is_newest(db: &mut Connection, living: &JobRow) -> Result<bool> {
    let newest: String = sqlx::query_scalar(SELECT_NEWEST).bind(living.tenant.as_str()).fetch_one(db).await?;
    Ok(newest == write_uuid(living.id.0))
}

async fn is_full(db: &mut Connection, tenant: &Tenant, queue_limit: u64) -> Result<bool> {
    // The check of a new image is queued whatever the queue: nothing is to be counted for it.
    if queue_limit == u64::MAX {
        return Ok(false);
    }
    Ok(count_active_of(db, tenant).await? >= queue_limit
        || count_active(db, queue_limit).await? >= queue_limit.saturating_mul(QUEUE_TENANTS))
}

pub(super) async fn create(db: &mut Connection, job: NewJob, queue_limit: u64) -> Result<Created<JobRow>> {
    if let Some(request) = job.request
        && let Some(id) = find_request(db, &job.tenant, request).await?
    {
        return Ok(Created::Existing(get(db, &job.tenant, id).await?));
    }
    if let Some(alias) = &job.alias
        && find_by_alias(db, &job.tenant, alias).await?.is_some()
    {
        return Err(Error::Conflict { what: "alias" });
    }
    if let Some(key) = &job.coalesce_key
        && let Some(living) = find_one(db, SELECT_COALESCED, &job.tenant, key).await?
    {
        if may_join(db, job.join, &living).await? {
            return Ok(Created::Existing(living));
        }
        sqlx::query(DROP_COALESCE_KEY)
            .bind(job.tenant.as_str())
            .bind(write_uuid(living.id.0))
            .execute(&mut *db)
            .await?;
    }
    let state = if job.failure.is_some() { JobState::Failed } else { JobState::Queued };
    // A job that failed before it began takes no place in the queue.
    if !state.is_final() && is_full(db, &job.tenant, queue_limit).await? {
        return Err(Error::QueueFull);
    }
    let held = if state.is_final() { Amount::default() } else { promise(&job) };
    usage::ensure_room(db, &job.tenant, held, Amount::default()).await?;
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
        .bind(&job.coalesce_key)
        .bind(&job.alias)
        .bind(job.spec.image().map(|image| write_uuid(image.0)))
        .bind(write_number("reserved bytes", held.bytes)?)
        .bind(write_number("reserved images", held.images)?)
        .execute(&mut *db)
        .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::Conflict { what: WHAT });
    }
    usage::rebook(db, &job.tenant, Amount::default(), held).await?;
    if let Some(upload) = job.upload
        && let Created::Existing(_) = uploads::create(db, upload).await?
    {
        return Err(Error::Conflict { what: uploads::WHAT });
    }
    let row = get(db, &job.tenant, job.id).await?;
    job_ends::begun(db, &row).await?;
    if state.is_final() {
        job_ends::ended(db, &row, row.create_time).await?;
    }
    Ok(Created::New(row))
}

/// What a job needs of the quota until it ends.
fn promise(job: &NewJob) -> Amount {
    Amount { images: u64::from(job.spec.makes_image()), bytes: job.reserve_bytes }
}

/// What a job holds of the quota.
pub(super) fn held(job: &StoredJob) -> Amount {
    Amount { images: job.reserved_images, bytes: job.reserved_bytes }
}

pub(super) async fn find_by_alias(
    db: &mut Connection,
    tenant: &Tenant,
    alias: &str,
) -> Result<Option<JobRow>> {
    find_one(db, SELECT_ALIAS, tenant, alias).await
}

async fn find_one(
    db: &mut Connection,
    statement: &'static str,
    tenant: &Tenant,
    name: &str,
) -> Result<Option<JobRow>> {
    let record: Option<JobRecord> =
        sqlx::query_as(statement).bind(tenant.as_str()).bind(name).fetch_optional(db).await?;
    Ok(record.map(StoredJob::try_from).transpose()?.map(|job| job.row))
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

async fn count_active_of(db: &mut Connection, tenant: &Tenant) -> Result<u64> {
    let active: i64 = sqlx::query_scalar(COUNT_ACTIVE_OF).bind(tenant.as_str()).fetch_one(db).await?;
    u64::try_from(active).map_err(|_| corrupt("count of jobs"))
}

async fn count_active(db: &mut Connection, most: u64) -> Result<u64> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let active: i64 = sqlx::query_scalar(COUNT_ACTIVE).bind(most).fetch_one(db).await?;
    u64::try_from(active).map_err(|_| corrupt("count of jobs"))
}

pub(super) async fn count(db: &mut Connection) -> Result<JobCounts> {
    let counts: Vec<(i64, i64)> = sqlx::query_as(COUNT_BY_TENANT).fetch_all(db).await?;
    let read = |count: i64| u64::try_from(count).map_err(|_| corrupt("count of jobs"));
    let mut all = JobCounts::default();
    for (own, running) in counts {
        let (own, running) = (read(own)?, read(running)?);
        all.queued += own.saturating_sub(running);
        all.running += running;
        all.most = all.most.max(own);
    }
    Ok(all)
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

/// Writes `after` over `before`, counts what it holds, and tells its image of its end. The transaction is the only writer,
/// so the comparison holds; were it ever not to, nothing would be overwritten.
pub(super) async fn save(
    db: &mut Connection,
    before: &StoredJob,
    after: &StoredJob,
    now: Micros,
) -> Result<()> {
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
        .bind(write_number("reserved bytes", after.reserved_bytes)?)
        .bind(write_number("reserved images", after.reserved_images)?)
        .bind((row.spec != before.row.spec).then(|| write_json(&row.spec)).transpose()?)
        .bind(row.tenant.as_str())
        .bind(write_uuid(row.id.0))
        .bind(before.row.state.as_str())
        .bind(i64::from(before.row.attempt))
        .bind(write_number("revision", before.row.revision)?)
        .execute(&mut *db)
        .await?;
    if updated.rows_affected() == 0 {
        return Err(Error::Fenced);
    }
    usage::rebook(db, &row.tenant, held(before), held(after)).await?;
    if row.state.is_final() {
        job_ends::ended(db, row, now).await?;
    }
    Ok(())
}

pub(super) async fn list(
    db: &mut Connection,
    tenant: &Tenant,
    states: &[JobState],
    kinds: &[JobKind],
    page: Page,
) -> Result<Vec<JobRow>> {
    let slice = Slice::from(page);
    let only_live = !states.is_empty() && states.iter().all(|state| !state.is_final());
    let statement = if only_live { SELECT_LIVE_PAGE } else { SELECT_PAGE };
    let mut query = sqlx::query_as::<_, JobRecord>(statement).bind(tenant.as_str());
    for state in filter::<5, _>(states, JobState::ALL, JobState::as_str) {
        query = query.bind(state);
    }
    for kind in filter::<8, _>(kinds, JobKind::ALL, JobKind::as_str) {
        query = query.bind(kind);
    }
    let records = query.bind(slice.create_time).bind(slice.id).bind(slice.limit).fetch_all(db).await?;
    records.into_iter().map(|record| Ok(StoredJob::try_from(record)?.row)).collect()
}

pub(super) async fn cancel(db: &mut Connection, tenant: &Tenant, id: JobId, now: Micros) -> Result<JobRow> {
    let job = load(db, tenant, id).await?;
    ask_to_cancel(db, job, now).await
}

/// Asks all live jobs that read an image to cancel.
pub(super) async fn cancel_of_image(
    db: &mut Connection,
    tenant: &Tenant,
    image: ImageId,
    now: Micros,
) -> Result<()> {
    let records: Vec<JobRecord> = sqlx::query_as(SELECT_OF_IMAGE)
        .bind(tenant.as_str())
        .bind(write_uuid(image.0))
        .fetch_all(&mut *db)
        .await?;
    for record in records {
        ask_to_cancel(db, record.try_into()?, now).await?;
    }
    Ok(())
}

async fn ask_to_cancel(db: &mut Connection, mut job: StoredJob, now: Micros) -> Result<JobRow> {
    let before = job.clone();
    match before.row.state {
        JobState::Queued => end(&mut job, JobEvent::Cancel, now)?,
        JobState::Running if before.row.cancel_requested => return Ok(before.row),
        JobState::Running => job.row.update_time = now,
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            return Err(Error::State { what: WHAT });
        }
    }
    job.row.cancel_requested = true;
    job.row.revision = before.row.revision.saturating_add(1);
    save(db, &before, &job, now).await?;
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

/// Moves a job by the state machine.
pub(super) fn apply(row: &mut JobRow, event: JobEvent, now: Micros) -> Result<()> {
    row.state = row.state.after(event).map_err(|_| Error::State { what: WHAT })?;
    row.update_time = now;
    Ok(())
}

/// Moves a job into a final state, in which it holds nothing.
pub(super) fn end(job: &mut StoredJob, event: JobEvent, now: Micros) -> Result<()> {
    apply(&mut job.row, event, now)?;
    job.row.end_time = Some(now);
    job.row.worker = None;
    job.row.lease_time = None;
    job.reserved_bytes = 0;
    job.reserved_images = 0;
    // Nobody fetches from it any more: what in it may be a secret goes (SEC-40).
    if let JobSpec::Import(import) = &mut job.row.spec {
        import.url = SourceUrl(import.url.shown().to_owned());
    }
    Ok(())
}
