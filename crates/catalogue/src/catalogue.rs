//! The one door to the rows.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use imageops_model::{
    ImageId, JobFailure, JobId, JobKind, JobProgress, JobState, KeyId, Lane, Micros, StoreId, Tenant,
    UploadId, UploadState,
};
use uuid::Uuid;

#[cfg(doc)]
use crate::Error;
use crate::{
    BlobToVerify, Committed, Conversions, Created, Damage, Heartbeat, ImageChange, ImageFilter, ImagePage,
    ImageRow, JobCounts, JobOutcome, JobRow, KeyProof, KeyRow, Lease, NewJob, Page, Quota, Replica,
    RequestKey, Result, StoreChange, StoreRow, StoreUsage, UploadPart, UploadRow, Usage,
};

/// The catalogue.
///
/// Every method is one transaction, unless it says otherwise. Errors: [`Error::NotFound`] for rows that do not exist for
/// the tenant, [`Error::Conflict`] for an id or request id that stands for something else, [`Error::State`] for an event
/// that cannot happen in the row's state, [`Error::Stale`] when the row is no longer the one that was read,
/// [`Error::Protected`] for an image that refuses to be deleted, [`Error::Fenced`] for a worker that lost its lease,
/// [`Error::QueueFull`], [`Error::QuotaExceeded`] for a row that would give the tenant more than it may have,
/// [`Error::OutOfRange`] for a figure that no row can hold, [`Error::Unavailable`] when the database does not answer
/// (locked, gone), [`Error::NoSpace`] when its disk is full. A call whose future is dropped happened whole or not at all.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// Adds a job in state queued, unless `queue_limit` jobs of the tenant are queued or running already, or ten times as many
    /// of all tenants: nobody fills the queue for the others (SEC-42). Or in state
    /// failed, when it carries a failure: such a one takes no place. A request key that is known answers the job it made,
    /// whatever the queue; so does the coalescing key of a job that lives. An alias that is known is [`Error::Conflict`].
    ///
    /// The job holds `reserve_bytes` of the quota, and a place for the image that it makes, until it ends. A check of an
    /// image becomes the image's newest check, a slimming its newest slimming. The upload of an import is added with it, as by
    /// [`Catalogue::create_upload`], and whenever the job ends without an image it ends too: failed like the job, or
    /// aborted.
    async fn create_job(&self, job: NewJob, queue_limit: u64) -> Result<Created<JobRow>>;

    /// The job that a request made before, when there is one; [`Error::Conflict`] when the key stands for another request.
    async fn find_job(&self, tenant: &Tenant, request: RequestKey) -> Result<Option<JobRow>>;

    /// The job with a client's own id, when there is one.
    async fn find_job_by_alias(&self, tenant: &Tenant, alias: &str) -> Result<Option<JobRow>>;

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

    /// Takes up a job of a lane that is queued, or running with a lease that ended before `lease` begins: of the lanes of work
    /// and imports the oldest of the next tenant, by name, behind the one whose job this handle claimed last, so that nobody waits longer
    /// than a round for what many others of another tenant wait for (SEC-42). State running, attempt plus one, revision plus
    /// 1,000,000 (so that revisions of an earlier attempt, which may not all have been written,
    /// are below), with this lease. One whose cancellation was asked for is cancelled instead, and a running one
    /// whose attempts, without those that were released, have reached `attempts_max` is failed with `WORKER_CRASHED`; the
    /// search goes on behind it.
    async fn claim_job(
        &self,
        worker: Uuid,
        lane: Lane,
        lease: Lease,
        now: Micros,
        attempts_max: u32,
    ) -> Result<Option<JobRow>>;

    /// From now on [`Self::claim_job`] passes over the imports of tenants, but the built-in one, of whom so many run: how long
    /// one takes is its source's to say, and turns alone would let them hold all workers. Of this handle and its clones; not
    /// stored.
    fn limit_imports(&self, tenant_max: u32);

    /// Extends the lease, by its own clock, and stores progress and revision; neither the percentage nor the revision ever falls.
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
    ///
    /// An image that was made becomes the tenant's in the same transaction, with the check that it brings:
    /// [`Error::QuotaExceeded`] when it is larger than what the job holds and the quota; [`Error::NotFound`] when it is the
    /// companion of an image that is gone, and [`Error::Conflict`] when its key is taken. A slim companion takes the place of
    /// the one before. A copy that was made becomes a copy of its image as by [`Catalogue::add_replica`]. After any of these
    /// errors the job still runs: its worker ends it otherwise. The end of an image's newest check or slimming is written into
    /// the image, whatever it was.
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

    /// Ends the leases of a worker: called once at start by a server for the id that it had in its former life (reliability
    /// 4.5). How many. The jobs stay running, without a lease, until they are claimed; their attempts count as
    /// crashes.
    async fn free_leases(&self, worker: Uuid, now: Micros) -> Result<u64>;

    /// Jobs that have not ended, over all tenants.
    async fn count_jobs(&self) -> Result<JobCounts>;

    /// Adds an upload in state open. An id that is known answers its row when all that was asked for is the same, else
    /// [`Error::Conflict`].
    ///
    /// It holds its declared length of the quota, and a place for an image unless it is a part or fills a record. A record
    /// must be queued, else [`Error::State`] of the image; it becomes uploading. A part makes or extends its session, which
    /// must not be being composed: else [`Error::State`] of the session.
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

    /// Lets an upload hold as many bytes of the quota in all as there are within `bytes`; how many it holds now, with those of
    /// the parts that it joins. Nothing changes when it holds as many already, or when there are too few. What is missing, [`Catalogue::get_usage`] tells. [`Error::State`]
    /// unless open.
    async fn reserve_upload(&self, id: UploadId, bytes: RangeInclusive<u64>, now: Micros) -> Result<u64>;

    /// Sets the length of an open upload that has none and as many durable bytes at most, and answers the row; any other
    /// stays as it is. It holds so many bytes of the quota from then on. [`Error::State`] unless open,
    /// [`Error::QuotaExceeded`] when the quota has no room for them.
    async fn declare_upload_size(&self, id: UploadId, size_bytes: u64, now: Micros) -> Result<UploadRow>;

    /// Makes the image: upload committed and image row added, or the record filled that the upload named, in one
    /// transaction. [`Error::State`] unless open, [`Error::Conflict`] when the image's id is taken or its tenant is not the
    /// upload's, [`Error::QuotaExceeded`] when more came than the upload holds and the quota allows.
    ///
    /// Of a record, what is said of it, its label and its age stay. An image that says so becomes the companion of another
    /// one, as by [`Catalogue::finish_job`]: its source remembers a job with the upload's id. The check is queued whatever
    /// the queue. When the upload joins parts, they are committed as well, what is still open of the session is aborted, and
    /// the session is gone.
    ///
    /// The blob that the image names is its own, or with `shares` that of another image, as [`Catalogue::find_same`] told:
    /// [`Error::Conflict`] of the blob when that has it no more.
    async fn commit_upload(
        &self,
        id: UploadId,
        image: ImageRow,
        shares: Option<ImageId>,
        check_job: Option<NewJob>,
        now: Micros,
    ) -> Result<Committed>;

    /// Marks an open upload as the whole part at this place: state stored. The ids of those that it replaces, whose staged
    /// bytes can go: they had the same number and are aborted. [`Error::State`] of the upload when it is not open, or has
    /// another place, fills a record, is an archive or composes; of the session while that is composed. It holds exactly its
    /// durable bytes of the quota from now on.
    async fn store_part(&self, id: UploadId, part: &UploadPart, now: Micros) -> Result<Vec<UploadId>>;

    /// Stored parts of a session, by number; none when there is no such session.
    async fn list_parts(&self, tenant: &Tenant, session: &str) -> Result<Vec<UploadRow>>;

    /// Adds an upload that joins the stored parts of a session, and answers these by number; as long as it is open nothing
    /// else changes the session. What the parts hold of the quota counts for it. An id that is known answers as
    /// [`Catalogue::create_upload`] does. [`Error::NotFound`] of the session when it has no stored part, [`Error::State`] of
    /// the session while another upload composes it. Ended without success, the upload leaves the session as it was.
    async fn begin_compose(
        &self,
        upload: UploadRow,
        session: &str,
        now: Micros,
    ) -> Result<(Created<UploadRow>, Vec<UploadRow>)>;

    /// Gives up all parts of a session, and the upload that composes it; their ids. None when there is no such session.
    async fn abort_session(&self, tenant: &Tenant, session: &str, now: Micros) -> Result<Vec<UploadId>>;

    /// Gives an upload up that joins a session, where it is open; whether it was. For whoever finds that nobody goes on with
    /// it: the session can be composed again.
    async fn abort_composition(&self, id: UploadId, now: Micros) -> Result<bool>;

    /// Gives an upload up, stored parts too. Aborting an aborted or failed one changes nothing; [`Error::State`] when
    /// committed; of the session when it is a stored part of one that is being composed. What it held of the quota is free,
    /// and the record that it filled is queued again.
    async fn abort_upload(&self, tenant: &Tenant, id: UploadId, now: Micros) -> Result<UploadRow>;

    /// Refuses an upload: state failed, with the reason. [`Error::State`] unless open. Frees what [`Catalogue::abort_upload`]
    /// does.
    async fn fail_upload(&self, id: UploadId, failure: JobFailure, now: Micros) -> Result<UploadRow>;

    /// Aborts open uploads and sessions that expired before `now` and forgets uploads that ended before `forget_before`; the
    /// ids of those aborted, of at most 1,000 uploads and 100 sessions a call. A session expires with its last upload, but not
    /// before a day has passed since its last part came. Done in several transactions when there are many; an error is told
    /// when nothing was aborted before it.
    async fn expire_uploads(&self, now: Micros, forget_before: Micros) -> Result<Vec<UploadId>>;

    /// Whether the staged bytes of an upload are still wanted: it is open, or a stored part.
    async fn is_upload_open(&self, id: UploadId) -> Result<bool>;

    /// Adds the record of an image without bytes, under the caller's id: state queued. An id that is known answers its row
    /// while that is queued and the same is said of it, else [`Error::Conflict`]; so does the id of an image that is gone
    /// for good, unless it may be taken again and was the same tenant's.
    async fn create_image(&self, image: ImageRow, may_retake: bool) -> Result<Created<ImageRow>>;

    /// Whether an image of the tenant is gone for good, and its id stays taken.
    async fn is_image_retired(&self, tenant: &Tenant, id: ImageId) -> Result<bool>;

    /// An image, also one that is a companion.
    async fn get_image(&self, tenant: &Tenant, id: ImageId) -> Result<ImageRow>;

    /// Images that `filter` wants, in the order of `page`.
    async fn list_images(
        &self,
        tenant: &Tenant,
        filter: &ImageFilter,
        page: ImagePage,
    ) -> Result<Vec<ImageRow>>;

    /// Changes what people say of an image. With `expected_revision` only when the row still has that revision. A change
    /// that changes nothing leaves revision and time as they are. [`Error::State`] for a companion.
    async fn update_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        change: ImageChange,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Puts an image with bytes into the trash, from which it goes for good at `purge_time`. One that is there already stays
    /// as it is. [`Error::Protected`] when it is; [`Error::State`] for a companion.
    async fn trash_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        expected_revision: Option<u64>,
        now: Micros,
        purge_time: Micros,
    ) -> Result<ImageRow>;

    /// Takes an image out of the trash; into quarantine where it was in quarantine. One that is not there stays as it is.
    async fn restore_image(&self, tenant: &Tenant, id: ImageId, now: Micros) -> Result<ImageRow>;

    /// Puts an image into quarantine: its bytes are not handed out. One that is there keeps its reason.
    async fn quarantine_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        failure: JobFailure,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Takes an image out of quarantine. [`Error::State`] when it has no ready copy.
    async fn release_image(&self, tenant: &Tenant, id: ImageId, now: Micros) -> Result<ImageRow>;

    /// Removes an image that lies in the trash or never had bytes, or with `from_any_state` any; for good: its id is never
    /// given again. Its companions go with it, its live jobs are asked to cancel, the upload that fills it is aborted. The
    /// row as it was; bytes that no row names any more are doomed. [`Error::State`] when it is in another state, or a
    /// companion; [`Error::Protected`] when it is, unless it lies in the trash.
    async fn purge_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        expected_revision: Option<u64>,
        from_any_state: bool,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Removes what has lain in the trash for its time, of all tenants, as [`Catalogue::purge_image`] does; at most 100 a
    /// call.
    async fn purge_expired_images(&self, now: Micros) -> Result<Vec<ImageRow>>;

    /// The id of this catalogue, made when it is asked for the first time.
    async fn identity(&self) -> Result<Uuid>;

    /// The oldest image of the tenant with these bytes in this store, and their blob there. Never one whose bytes are not to
    /// be trusted, or of another tenant (SEC-29).
    async fn find_same(
        &self,
        tenant: &Tenant,
        sha256: &str,
        size_bytes: u64,
        store: StoreId,
    ) -> Result<Option<(ImageId, String)>>;

    /// Whether a row names these bytes.
    async fn is_blob_referenced(&self, store: StoreId, blob: &str) -> Result<bool>;

    /// Those of these bytes that no row names and that are not doomed: nobody knows them. Doomed ones are told by
    /// [`Self::list_doomed`].
    async fn list_unreferenced(&self, store: StoreId, blobs: &[String]) -> Result<Vec<String>>;

    /// Bytes of a store that no row names any more and none ever will, those doomed first first; at most `limit`. Whoever
    /// removes them needs no lock.
    async fn list_doomed(&self, store: StoreId, limit: u32) -> Result<Vec<String>>;

    /// Puts doomed bytes behind those that were doomed before `now`, where they could not be removed: else they would be
    /// listed first for ever, and keep all others waiting.
    async fn postpone_doomed(&self, store: StoreId, blobs: &[String], now: Micros) -> Result<()>;

    /// Forgets doomed bytes, once they are removed.
    async fn forget_doomed(&self, store: StoreId, blobs: &[String]) -> Result<()>;

    /// Adds a copy of an active image. One in the same store that is not ready is replaced; [`Error::Conflict`] of the
    /// replica when it is ready, and of the blob when these bytes are doomed, or not those of the image `shares` any more,
    /// whose bytes must be equal.
    async fn add_replica(
        &self,
        tenant: &Tenant,
        image: ImageId,
        replica: Replica,
        shares: Option<ImageId>,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Removes a copy of an image; its bytes are doomed where no other row names them. [`Error::State`] of the replica when
    /// no other copy is ready.
    async fn remove_replica(
        &self,
        tenant: &Tenant,
        image: ImageId,
        store: StoreId,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow>;

    /// Images of all tenants with a copy in a store, companions too, by id, behind `after`; at most `limit`.
    async fn list_replicas(
        &self,
        store: StoreId,
        after: Option<ImageId>,
        limit: u32,
    ) -> Result<Vec<ImageRow>>;

    /// Ready bytes of a store that came, and were last read, before `verified_before`, the longest ago first; at most
    /// `limit`.
    async fn list_blobs_to_verify(
        &self,
        store: StoreId,
        verified_before: Micros,
        limit: u32,
    ) -> Result<Vec<BlobToVerify>>;

    /// Records that bytes have their digest. Copies that were damaged are ready again; images stay in quarantine.
    async fn mark_verified(&self, store: StoreId, blob: &str, now: Micros) -> Result<()>;

    /// Records that bytes do not have their digest: all copies that they are, are damaged, and images without another ready
    /// copy go into quarantine. The images that name them.
    async fn mark_damaged(
        &self,
        store: StoreId,
        blob: &str,
        failure: JobFailure,
        now: Micros,
    ) -> Result<Vec<ImageRow>>;

    /// How much of all that is stored is damaged now.
    async fn count_damage(&self) -> Result<Damage>;

    /// The active conversion with this key, when there is one.
    async fn find_conversion(&self, tenant: &Tenant, key: &str) -> Result<Option<ImageRow>>;

    /// Records a use of a conversion; at most once a minute.
    async fn touch_image(&self, id: ImageId, now: Micros) -> Result<()>;

    /// Conversions of all tenants, at most `limit`, and how many bytes all of them have.
    async fn list_conversions_by_use(&self, limit: u32) -> Result<Conversions>;

    /// Removes a companion, for good. [`Error::State`] when the image is none.
    async fn purge_companion(&self, id: ImageId, now: Micros) -> Result<()>;

    /// Adds a store. Where its id and name are known, its row, with the kind brought up to date; [`Error::Conflict`] when
    /// either stands for another one.
    async fn register_store(&self, store: StoreRow) -> Result<Created<StoreRow>>;

    /// A store.
    async fn get_store(&self, id: StoreId) -> Result<StoreRow>;

    /// The store of a name, when there is one.
    async fn find_store(&self, name: &str) -> Result<Option<StoreRow>>;

    /// All stores, the highest weight first, then by name.
    async fn list_stores(&self) -> Result<Vec<StoreRow>>;

    /// Changes a store, as [`Catalogue::update_image`] does an image.
    async fn update_store(
        &self,
        id: StoreId,
        change: StoreChange,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<StoreRow>;

    /// Forgets a store, and which of its bytes were doomed. [`Error::State`] while an image has a copy there, or an upload
    /// goes there.
    async fn remove_store(&self, id: StoreId) -> Result<()>;

    /// What a store holds. Reads a row for each copy in it.
    async fn store_usage(&self, id: StoreId) -> Result<StoreUsage>;

    /// Sets what a tenant may have, or without a tenant what all may have that have no quota of their own; `None` takes it
    /// away. What is there already stays.
    async fn set_quota(&self, tenant: Option<&Tenant>, quota: Option<Quota>) -> Result<()>;

    /// What a tenant has and may have.
    async fn get_usage(&self, tenant: &Tenant) -> Result<Usage>;

    /// Adds a key. [`Error::Conflict`] when its id or its digest is known.
    async fn create_key(&self, key: KeyRow) -> Result<()>;

    /// A key, of a tenant or of any.
    async fn get_key(&self, tenant: Option<&Tenant>, id: KeyId) -> Result<KeyRow>;

    /// Keys of a tenant or of all, newest first, revoked and expired ones too.
    async fn list_keys(&self, tenant: Option<&Tenant>, page: Page) -> Result<Vec<KeyRow>>;

    /// The key that is neither revoked nor expired and whose proof has this digest.
    async fn find_key(&self, proof: KeyProof, sha256: &[u8; 32], now: Micros) -> Result<Option<KeyRow>>;

    /// Revokes a key, of a tenant or of any; revoking twice changes nothing.
    async fn revoke_key(&self, tenant: Option<&Tenant>, id: KeyId, now: Micros) -> Result<KeyRow>;

    /// Whether the database answers, and would take a write.
    async fn ping(&self) -> Result<()>;

    /// Writes what is pending and closes the database.
    async fn close(&self);
}
