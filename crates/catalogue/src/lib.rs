//! The catalogue: images, uploads, jobs and keys, in an SQL database.
//!
//! [`Catalogue`] is the one door; [`sqlite`] and [`postgres`] stand behind it, and both pass the same suite. It knows
//! nothing of bytes, stores, protobuf or HTTP, and has no clock and no randomness: moments and ids are handed in.
//! Every row belongs to a tenant, and every query names it: rows of another tenant answer like rows that do not exist.

#![allow(
    clippy::duplicate_mod,
    reason = "`sqlite` and `postgres` each have the steps of `src/sql`, compiled for their own connection"
)]

use std::fmt;

use async_trait::async_trait;
use imageops_model::{
    ImageDetails, ImageId, ImageState, JobFailure, JobId, JobKind, JobProgress, JobSpec, JobState, KeyId,
    Label, Micros, Scope, StoreId, Tenant, UploadId, UploadState,
};
use uuid::Uuid;

mod error;
mod images;
mod lists;
pub mod postgres;
mod rows;
pub mod sqlite;
#[cfg(test)]
mod suite;

pub use error::{Error, Result};
pub use images::{ImageChange, ImageCursor, ImageFilter, ImageOrder, ImagePage, SortKey};
pub use postgres::PostgresCatalogue;
pub use sqlite::SqliteCatalogue;

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
    /// Set when the job failed before it began: the row starts in state failed.
    pub failure: Option<JobFailure>,
    /// Now.
    pub create_time: Micros,
}

/// An idempotency key: the same id with the same fingerprint is the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The client's id of the request.
    pub id: Uuid,
    /// Digest of the request's content.
    pub fingerprint: [u8; 32],
}

/// A row of the catalogue, with whether this call made it.
#[derive(Clone, Debug, PartialEq)]
pub enum Created<T> {
    /// Made now.
    New(T),
    /// The same request was made before; this is its row as it is now.
    Existing(T),
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
    /// Worker that holds the lease, in state running.
    pub worker: Option<Uuid>,
    /// End of the lease, in state running.
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

/// How a worker ends a job.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one at the end of a job, not many")]
pub enum JobOutcome {
    /// With a result (JSON). A compression of an image also brings the image that it made, in the same transaction.
    Succeeded {
        /// The result.
        result: String,
        /// The image that was made.
        image: Option<ImageRow>,
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

/// Which rows of a list are wanted, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// At most so many, 1 to 1,000.
    pub limit: u32,
    /// Only rows behind this one.
    pub after: Option<Cursor>,
}

/// The place of a row in a list: rows are ordered by creation time, then id, both descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Creation time of the row.
    pub create_time: Micros,
    /// Id of the row.
    pub id: Uuid,
}

/// An upload.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadRow {
    /// Id: the client's `request_id`.
    pub id: UploadId,
    /// Owner.
    pub tenant: Tenant,
    /// State.
    pub state: UploadState,
    /// Label of the image to be.
    pub label: Label,
    /// What is said of the image to be.
    pub details: ImageDetails,
    /// Format that the client declared, in the engine's spelling.
    pub declared_format: Option<String>,
    /// Length that the client declared.
    pub size_bytes: Option<u64>,
    /// Digests that the client promised, lower-case hexadecimal.
    pub expected_md5: Option<String>,
    /// See `expected_md5`.
    pub expected_sha256: Option<String>,
    /// Bytes from the start that are durable.
    pub durable_bytes: u64,
    /// The image, once committed.
    pub image: Option<ImageId>,
    /// Stable code, sentence for people: why it failed.
    pub failure: Option<JobFailure>,
    /// When it began.
    pub create_time: Micros,
    /// When bytes last became durable.
    pub update_time: Micros,
    /// When it is given up.
    pub expire_time: Micros,
}

/// A stored image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// Id.
    pub id: ImageId,
    /// Owner.
    pub tenant: Tenant,
    /// Label.
    pub label: Label,
    /// State.
    pub state: ImageState,
    /// Format by content, in the engine's spelling.
    pub format: String,
    /// Length of the stored file.
    pub size_bytes: u64,
    /// Size that the guest sees.
    pub virtual_size_bytes: Option<u64>,
    /// Digest of the stored bytes, lower-case hexadecimal.
    pub md5: String,
    /// Digest of the stored bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Store that holds the bytes.
    pub store: StoreId,
    /// Key of the bytes in that store.
    pub blob: String,
    /// Image that this one was made from.
    pub derived_from: Option<ImageId>,
    /// What people say of it.
    pub details: ImageDetails,
    /// Whether its bytes are handed out.
    pub enabled: bool,
    /// Grows with every change; 1 at first.
    pub revision: u64,
    /// When the record was made.
    pub create_time: Micros,
    /// When it last changed.
    pub update_time: Micros,
    /// When it was deleted, in state trashed.
    pub trash_time: Option<Micros>,
    /// When it goes for good, in state trashed.
    pub purge_time: Option<Micros>,
}

/// An access key. The secret itself is not kept, and its digest is not shown.
#[derive(Clone, PartialEq)]
pub struct KeyRow {
    /// Id.
    pub id: KeyId,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// Tenant that the key acts for.
    pub tenant: Tenant,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Label.
    pub label: Label,
    /// When it was made.
    pub create_time: Micros,
    /// When it was revoked.
    pub revoke_time: Option<Micros>,
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyRow")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("scopes", &self.scopes)
            .field("label", &self.label)
            .field("create_time", &self.create_time)
            .field("revoke_time", &self.revoke_time)
            .finish_non_exhaustive()
    }
}

/// The catalogue.
///
/// Every method is one transaction, unless it says otherwise. Errors: [`Error::NotFound`] for rows that do not exist for
/// the tenant, [`Error::Conflict`] for an id or request id that stands for something else, [`Error::State`] for an event
/// that cannot happen in the row's state, [`Error::Stale`] when the row is no longer the one that was read,
/// [`Error::Protected`] for an image that refuses to be deleted, [`Error::Fenced`] for a worker that lost its lease, [`Error::QueueFull`],
/// [`Error::OutOfRange`] for a figure that no row can hold, [`Error::Unavailable`] when the database does not answer
/// (locked, gone), [`Error::NoSpace`] when its disk is full. A call whose future is dropped happened whole or not at all.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// Adds a job in state queued, unless `queue_limit` jobs of all tenants are queued or running already; or in state
    /// failed, when it carries a failure: such a one takes no place. A request key that is known answers the job it made,
    /// whatever the queue.
    async fn create_job(&self, job: NewJob, queue_limit: u64) -> Result<Created<JobRow>>;

    /// The job that a request made before, when there is one; [`Error::Conflict`] when the key stands for another request.
    async fn find_job(&self, tenant: &Tenant, request: RequestKey) -> Result<Option<JobRow>>;

    /// A job.
    async fn get_job(&self, tenant: &Tenant, id: JobId) -> Result<JobRow>;

    /// Jobs, newest first, in one of `states` and of one of `kinds`; an empty list means all.
    async fn list_jobs(
        &self,
        tenant: &Tenant,
        states: &[JobState],
        kinds: &[JobKind],
        page: Page,
    ) -> Result<Vec<JobRow>>;

    /// Takes up the oldest job that is queued, or running with a lease that ended before `now`: state running, attempt
    /// plus one, revision plus 1,000,000 (so that revisions of an earlier attempt, which may not all have been written,
    /// are below), lease until `lease_until`. One whose cancellation was asked for is cancelled instead, and a running one
    /// whose attempts, without those that were released, have reached `attempts_max` is failed with `WORKER_CRASHED`; the
    /// search goes on behind it.
    async fn claim_job(
        &self,
        worker: Uuid,
        now: Micros,
        lease_until: Micros,
        attempts_max: u32,
    ) -> Result<Option<JobRow>>;

    /// Extends the lease and stores progress and revision; neither the percentage nor the revision ever falls.
    /// [`Error::Fenced`] unless the job is running with `attempt`; also after its lease has ended, until someone claims it.
    async fn heartbeat_job(
        &self,
        id: JobId,
        attempt: u32,
        progress: &JobProgress,
        revision: u64,
        now: Micros,
        lease_until: Micros,
    ) -> Result<Heartbeat>;

    /// Ends a job; `revision` is its last one, or the one after the row's where that is higher. A fenced worker changes
    /// nothing. With success the progress becomes 100 %.
    async fn finish_job(
        &self,
        id: JobId,
        attempt: u32,
        outcome: JobOutcome,
        revision: u64,
        now: Micros,
    ) -> Result<JobRow>;

    /// Gives a running job back to the queue, at shutdown. The attempt does not count as a crash; its number stays used,
    /// since it is the fencing number. A wish to cancel stays, and is met by the next claim.
    async fn release_job(&self, id: JobId, attempt: u32, revision: u64, now: Micros) -> Result<()>;

    /// Asks to cancel: a queued job is cancelled at once, a running one is marked. [`Error::State`] when it has ended.
    async fn cancel_job(&self, tenant: &Tenant, id: JobId, now: Micros) -> Result<JobRow>;

    /// Forgets a job that has ended; [`Error::State`] when it has not.
    async fn delete_job(&self, tenant: &Tenant, id: JobId) -> Result<()>;

    /// Forgets jobs that ended before `before`; how many. Done in several transactions when there are many.
    async fn expire_jobs(&self, before: Micros) -> Result<u64>;

    /// Ends all leases: called once at start by a server that has the data directory for itself (reliability 4.5). How
    /// many. The jobs stay running, without worker and lease, until they are claimed; their attempts count as crashes.
    async fn free_leases(&self, now: Micros) -> Result<u64>;

    /// Number of jobs queued and of jobs running, over all tenants.
    async fn count_jobs(&self) -> Result<(u64, u64)>;

    /// Adds an upload in state open. An id that is known answers its row when tenant, label, format, size and digests are
    /// the same, else [`Error::Conflict`].
    async fn create_upload(&self, upload: UploadRow) -> Result<Created<UploadRow>>;

    /// An upload.
    async fn get_upload(&self, tenant: &Tenant, id: UploadId) -> Result<UploadRow>;

    /// Uploads, newest first, in one of `states`; an empty list means all.
    async fn list_uploads(
        &self,
        tenant: &Tenant,
        states: &[UploadState],
        page: Page,
    ) -> Result<Vec<UploadRow>>;

    /// Records that bytes up to `durable_bytes` are durable; never takes the number back. [`Error::State`] unless open.
    async fn extend_upload(
        &self,
        id: UploadId,
        durable_bytes: u64,
        now: Micros,
        expire_time: Micros,
    ) -> Result<()>;

    /// Makes the image: upload committed and image row added, in one transaction. [`Error::State`] unless open,
    /// [`Error::Conflict`] when the image's id is taken or its tenant is not the upload's.
    async fn commit_upload(&self, id: UploadId, image: ImageRow, now: Micros) -> Result<UploadRow>;

    /// Gives an upload up. Aborting an aborted or failed one changes nothing; [`Error::State`] when committed.
    async fn abort_upload(&self, tenant: &Tenant, id: UploadId, now: Micros) -> Result<UploadRow>;

    /// Refuses an upload: state failed, with the reason. [`Error::State`] unless open.
    async fn fail_upload(&self, id: UploadId, failure: JobFailure, now: Micros) -> Result<UploadRow>;

    /// Aborts open uploads that expired before `now` and forgets ended ones that ended before `forget_before`; the ids of
    /// those aborted, at most 1,000 a call.
    async fn expire_uploads(&self, now: Micros, forget_before: Micros) -> Result<Vec<UploadId>>;

    /// Whether the staged bytes of an upload are still wanted: it is open.
    async fn is_upload_open(&self, id: UploadId) -> Result<bool>;

    /// An image.
    async fn get_image(&self, tenant: &Tenant, id: ImageId) -> Result<ImageRow>;

    /// Images that `filter` wants, in the order of `page`.
    async fn list_images(
        &self,
        tenant: &Tenant,
        filter: &ImageFilter,
        page: ImagePage,
    ) -> Result<Vec<ImageRow>>;

    /// Changes what people say of an image. With `expected_revision` only when the row still has that revision. A change
    /// that changes nothing leaves revision and time as they are.
    async fn update_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        change: ImageChange,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Puts an active image into the trash, from which it goes for good at `purge_time`. One that is there already stays as
    /// it is. [`Error::Protected`] when it is.
    async fn trash_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        expected_revision: Option<u64>,
        now: Micros,
        purge_time: Micros,
    ) -> Result<ImageRow>;

    /// Takes an image out of the trash. One that is not there stays as it is.
    async fn restore_image(&self, tenant: &Tenant, id: ImageId, now: Micros) -> Result<ImageRow>;

    /// Removes an image that lies in the trash, for good; its id is never given again. The row as it was: its bytes are the
    /// caller's to remove, after this. [`Error::State`] when it is not in the trash.
    async fn purge_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Removes what has lain in the trash for its time, of all tenants, as [`Catalogue::purge_image`] does; at most 100 a
    /// call.
    async fn purge_expired_images(&self, now: Micros) -> Result<Vec<ImageRow>>;

    /// Whether a row names these bytes.
    async fn is_blob_referenced(&self, store: StoreId, blob: &str) -> Result<bool>;

    /// Adds a key.
    async fn create_key(&self, key: KeyRow) -> Result<()>;

    /// Keys, newest first, revoked ones too.
    async fn list_keys(&self) -> Result<Vec<KeyRow>>;

    /// The key that is not revoked and whose secret has this digest.
    async fn find_key(&self, secret_sha256: &[u8; 32]) -> Result<Option<KeyRow>>;

    /// Revokes a key; revoking twice changes nothing.
    async fn revoke_key(&self, id: KeyId, now: Micros) -> Result<KeyRow>;

    /// Whether the database answers, and would take a write.
    async fn ping(&self) -> Result<()>;

    /// Writes what is pending and closes the database.
    async fn close(&self);
}
