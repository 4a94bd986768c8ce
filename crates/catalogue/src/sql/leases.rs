//! Claims, leases, and how jobs end.

use imageops_model::{JobEvent, JobFailure, JobId, JobProgress, JobState, Lane, Micros, Tenant};
use uuid::Uuid;

use super::jobs::{WHAT, apply, end, save, select_jobs};
use super::{Connection, job_ends, replicas};
use crate::lists::found;
use crate::rows::{JobRecord, StoredJob, write_uuid};
use crate::{Error, Heartbeat, JobOutcome, JobRow, Lease, Result};

/// What a claim adds to the revision: more than a worker's attempt ever shows.
const REVISIONS_PER_ATTEMPT: u64 = 1_000_000;

/// gRPC status code `ABORTED`: the job may be asked for again.
const CODE_ABORTED: i32 = 10;

// Workers know jobs by id alone; the tenant comes from the row.
const SELECT_FOR_WORKER: &str = select_jobs!("WHERE id = $1");

// The first condition and that on the kind are those of the lane's index, word for word: else it cannot be used. The states
// stand in another order than in that of `jobs_by_turn`, so that SQLite cannot take that one, which all lanes share.
macro_rules! is_claimable {
    ($kinds:literal) => {
        concat!(
            "WHERE state IN ('running', 'queued') AND (state = 'queued' OR lease_time IS NULL OR lease_time < $1) ",
            "AND kind ",
            $kinds
        )
    };
}

macro_rules! in_lane {
    ($kinds:literal) => {
        in_lane!($kinds, "")
    };
    ($kinds:literal, $share:expr) => {
        LaneStatements {
            select_claimable: concat!(
                select_jobs!(is_claimable!($kinds)),
                " AND tenant > $2",
                $share,
                " ORDER BY tenant, create_time, id LIMIT 1",
                lock_for_claim!()
            ),
            is_any_claimable: concat!(
                "SELECT CAST(1 AS BIGINT) FROM jobs ",
                is_claimable!($kinds),
                // In the order of the index: else PostgreSQL expects to meet one sooner by reading all jobs.
                " AND tenant > $2",
                $share,
                " ORDER BY tenant, create_time, id LIMIT 1"
            ),
        }
    };
}

/// Statements on the jobs of one lane; `$1` is the time, `$2` the tenant whose turn was the last one; of imports `$3` is the
/// built-in tenant, and `$4` how many of one other run at a time.
pub(super) struct LaneStatements {
    pub(super) select_claimable: &'static str,
    pub(super) is_any_claimable: &'static str,
}

static WORK: LaneStatements = in_lane!("NOT IN ('import', 'scrub', 'drain')");
static IMPORT: LaneStatements = in_lane!(
    "= 'import'",
    concat!(
        " AND (tenant = $3 OR (SELECT COUNT(*) FROM jobs AS other ",
        by_running_import!(),
        "WHERE other.state = 'running' AND other.kind = 'import' AND other.tenant = jobs.tenant \
         AND other.lease_time >= $1) < $4)"
    )
);
static SCRUB: LaneStatements = in_lane!("= 'scrub'");
static DRAIN: LaneStatements = in_lane!("= 'drain'");

pub(super) fn statements(lane: Lane) -> &'static LaneStatements {
    match lane {
        Lane::Work => &WORK,
        Lane::Import => &IMPORT,
        Lane::Scrub => &SCRUB,
        Lane::Drain => &DRAIN,
    }
}

const FREE_LEASES: &str = "UPDATE jobs SET lease_time = NULL, update_time = $1 \
     WHERE state IN ('queued', 'running') AND state = 'running' AND worker = $2 AND lease_time IS NOT NULL";

/// Whose turn it is.
pub(super) struct Turn {
    /// The tenant whose job was claimed last; empty: nobody's.
    pub(super) last: String,
    /// So many imports of one tenant, but the built-in one, run at a time.
    pub(super) imports_max: u32,
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

pub(super) async fn is_any_claimable(
    db: &mut Connection,
    lane: Lane,
    lease: Lease,
    imports_max: u32,
) -> Result<bool> {
    let mut query = sqlx::query_scalar(statements(lane).is_any_claimable).bind(lease.now.0).bind("");
    if lane == Lane::Import {
        query = query.bind(Tenant::BUILT_IN).bind(i64::from(imports_max));
    }
    let any: Option<i64> = query.fetch_optional(db).await?;
    Ok(any.is_some())
}

pub(super) async fn claim(
    db: &mut Connection,
    worker: Uuid,
    lane: Lane,
    lease: Lease,
    now: Micros,
    attempts_max: u32,
    turn: &Turn,
) -> Result<Option<JobRow>> {
    // Each round but the last two ends a job, so there are hardly more than the queue is long.
    let mut behind = turn.last.as_str();
    loop {
        let mut query = sqlx::query_as(statements(lane).select_claimable).bind(lease.now.0).bind(behind);
        if lane == Lane::Import {
            query = query.bind(Tenant::BUILT_IN).bind(i64::from(turn.imports_max));
        }
        let record: Option<JobRecord> = query.fetch_optional(&mut *db).await?;
        let Some(record) = record else {
            if behind.is_empty() {
                return Ok(None);
            }
            // From the first tenant again: no name is empty.
            behind = "";
            continue;
        };
        let mut job: StoredJob = record.try_into()?;
        let before = job.clone();
        let crashes = job.row.attempt.saturating_sub(job.releases);
        if job.row.cancel_requested {
            end(&mut job, JobEvent::Cancel, now)?;
        } else if job.row.state == JobState::Running && crashes >= attempts_max {
            end(&mut job, JobEvent::Fail, now)?;
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
            job.row.lease_time = Some(lease.until);
            job.row.start_time.get_or_insert(now);
            save(db, &before, &job, now).await?;
            return Ok(Some(job.row));
        }
        job.row.revision = job.row.revision.saturating_add(1);
        save(db, &before, &job, now).await?;
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
    let before = job.clone();
    job.row.progress = JobProgress { percent: before.row.progress.percent, ..*progress };
    // Never falls, also when a later attempt starts from the beginning. What is not a number could not be read back.
    if progress.percent.is_finite() {
        job.row.progress.percent = before.row.progress.percent.max(progress.percent.min(100.0));
    }
    job.row.revision = before.row.revision.max(revision);
    job.row.update_time = now;
    job.row.lease_time = before.row.lease_time.max(Some(lease_until));
    save(db, &before, &job, now).await?;
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
    let before = job.clone();
    let (mut made, mut copied) = (None, None);
    match outcome {
        JobOutcome::Succeeded { result, image, replica } => {
            end(&mut job, JobEvent::Succeed, now)?;
            job.row.result = Some(result);
            job.row.progress.percent = 100.0;
            job.row.progress.done_bytes = job.row.progress.total_bytes;
            job.row.progress.remaining_ms = None;
            (made, copied) = (image, replica);
        }
        JobOutcome::Failed(failure) => {
            end(&mut job, JobEvent::Fail, now)?;
            job.row.failure = Some(failure);
        }
        JobOutcome::Cancelled => end(&mut job, JobEvent::Cancel, now)?,
    }
    job.row.revision = revision.max(before.row.revision.saturating_add(1));
    save(db, &before, &job, now).await?;
    if let Some(image) = made {
        job_ends::bring(db, &before, &image, now).await?;
    }
    if let Some((image, replica)) = copied {
        replicas::add(db, &job.row.tenant, image, &replica, None, None, now).await?;
    }
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
    let before = job.clone();
    apply(&mut job.row, JobEvent::Release, now)?;
    job.row.revision = revision.max(before.row.revision.saturating_add(1));
    job.row.worker = None;
    job.row.lease_time = None;
    // The attempt stays counted as the fencing number, else the next claim would bear the same one.
    job.releases = job.releases.saturating_add(1);
    save(db, &before, &job, now).await
}

pub(super) async fn free_leases(db: &mut Connection, worker: Uuid, now: Micros) -> Result<u64> {
    Ok(sqlx::query(FREE_LEASES).bind(now.0).bind(write_uuid(worker)).execute(db).await?.rows_affected())
}
