//! Jobs, and what happens to them.

use imageops_model::{ImageId, JobFailure, JobId, JobProgress, JobSpec, JobState, Micros, Tenant};
use uuid::Uuid;

use crate::{ImageRow, Replica, UploadRow};

/// A job to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// Id, made by the caller.
    pub id: JobId,
    /// Owner.
    pub tenant: Tenant,
    /// What it does.
    pub spec: JobSpec,
    /// Idempotency key and a digest of the request it came with.
    pub request: Option<RequestKey>,
    /// While a job of the tenant with the same key lives, this one is not made, when it may join that one.
    pub coalesce_key: Option<String>,
    /// Which jobs with the same key it may join. Others lose their key to it.
    pub join: Join,
    /// The client's own id of it, unique within the tenant.
    pub alias: Option<String>,
    /// Bytes of the quota that its output may need; they are held until it ends.
    pub reserve_bytes: u64,
    /// Set when the job failed before it began: the row starts in state failed.
    pub failure: Option<JobFailure>,
    /// The upload that an import fills, made with the job.
    pub upload: Option<UploadRow>,
    /// Now.
    pub create_time: Micros,
}

impl NewJob {
    /// A job that asks for nothing beside its work.
    pub fn new(id: JobId, tenant: Tenant, spec: JobSpec, create_time: Micros) -> Self {
        Self {
            id,
            tenant,
            spec,
            request: None,
            coalesce_key: None,
            join: Join::Any,
            alias: None,
            reserve_bytes: 0,
            failure: None,
            upload: None,
            create_time,
        }
    }
}

/// Which living job with the same key another one may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Any.
    Any,
    /// One that nobody has asked to end.
    NotCancelled,
    /// One that has not begun: it reads what is there later than now.
    NotBegun,
    /// One behind which the tenant has queued nothing either: what jobs leave is left in their order.
    Newest,
}

/// Jobs that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Wait for a worker.
    pub queued: u64,
    /// Run, or wait to be claimed again.
    pub running: u64,
    /// Of both, the most that one tenant has.
    pub most: u64,
}

/// An idempotency key: the same id with the same fingerprint is the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The client's id of the request.
    pub id: Uuid,
    /// Digest of the request's content.
    pub fingerprint: [u8; 32],
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Id.
    pub id: JobId,
    /// Owner.
    pub tenant: Tenant,
    /// What it does.
    pub spec: JobSpec,
    /// The client's own id of it.
    pub alias: Option<String>,
    /// State.
    pub state: JobState,
    /// How far it is.
    pub progress: JobProgress,
    /// Result as JSON, in state succeeded; its form is the server's.
    pub result: Option<String>,
    /// Reason, in state failed.
    pub failure: Option<JobFailure>,
    /// Grows with every change.
    pub revision: u64,
    /// Number of claims so far; also the fencing number: a worker's writes carry the number of its claim.
    pub attempt: u32,
    /// Whether someone asked to cancel it.
    pub cancel_requested: bool,
    /// Worker that claimed it, in state running.
    pub worker: Option<Uuid>,
    /// End of the lease, in state running; `None`: it was freed.
    pub lease_time: Option<Micros>,
    /// When it was asked for.
    pub create_time: Micros,
    /// When it was first claimed.
    pub start_time: Option<Micros>,
    /// When it last changed.
    pub update_time: Micros,
    /// When it ended.
    pub end_time: Option<Micros>,
}

/// The lease of a claim. Its clock never jumps, and need not tell the time of day (reliability R-7): times of leases are
/// compared with nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// When it begins: leases that ended before are over.
    pub now: Micros,
    /// When it ends.
    pub until: Micros,
}

/// How a worker ends a job.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at the end of a job, not many")]
pub enum JobOutcome {
    /// With a result (JSON), and what else was made, in the same transaction.
    Succeeded {
        /// The result.
        result: String,
        /// The image that was made.
        image: Option<ImageRow>,
        /// The copy that was made, and of which image.
        replica: Option<(ImageId, Replica)>,
    },
    /// Without.
    Failed(JobFailure),
    /// On request.
    Cancelled,
}

/// What a worker learns from a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Someone asked to cancel the job.
    pub cancel_requested: bool,
}
