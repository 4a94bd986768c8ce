//! The catalogue over the steps of the modules beside: which run in a transaction, and which only read.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use imageops_model::{
    ImageId, JobFailure, JobId, JobKind, JobProgress, JobState, KeyId, Lane, Micros, StoreId, Tenant,
    UploadId, UploadState,
};
use uuid::Uuid;

use super::{
    Handle, commit, companions, doomed, images, jobs, keys, leases, records, replicas, sessions, sharing,
    stores, trash, uploads, usage,
};
use crate::{
    BlobToVerify, Catalogue, Committed, Conversions, Created, Damage, Heartbeat, ImageChange, ImageFilter,
    ImagePage, ImageRow, JobCounts, JobOutcome, JobRow, KeyProof, KeyRow, Lease, NewJob, Page, Quota,
    Replica, RequestKey, Result, StoreChange, StoreRow, StoreUsage, UploadPart, UploadRow, Usage,
};

/// Jobs or uploads that one transaction forgets at most: other writers go between two of them.
const FORGET_BATCH: u64 = 1_000;
/// Uploads that one transaction gives up at most. Each takes several statements, more than a row that is forgotten.
const ABORT_BATCH: usize = 100;
/// Uploads that one call of [`Catalogue::expire_uploads`] gives up at most, beside those of sessions.
const ABORT_MAX: usize = 1_000;
/// Sessions that it gives up at most; one with more uploads than a transaction gives up counts more than once.
const SESSIONS_MAX: usize = 100;

impl Handle {
    /// Gives up what has expired, and tells it as it goes: what is committed stays so if a later transaction fails.
    async fn abort_expired(&self, now: Micros, aborted: &mut Vec<UploadId>) -> Result<()> {
        for _ in 0..ABORT_MAX / ABORT_BATCH {
            let batch: Result<Vec<UploadId>> = in_transaction!(self, uploads::expire, now, ABORT_BATCH);
            let batch = batch?;
            aborted.extend(&batch);
            if batch.len() < ABORT_BATCH {
                break;
            }
        }
        for _ in 0..SESSIONS_MAX {
            let parts: Result<Option<Vec<UploadId>>> =
                in_transaction!(self, sessions::expire, now, ABORT_BATCH);
            match parts? {
                Some(parts) => aborted.extend(parts),
                None => break,
            }
        }
        Ok(())
    }

    async fn forget_uploads(&self, before: Micros) -> Result<()> {
        loop {
            let batch: Result<u64> = in_transaction!(self, uploads::forget, before, FORGET_BATCH);
            if batch? < FORGET_BATCH {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl Catalogue for Handle {
    async fn create_job(&self, job: NewJob, queue_limit: u64) -> Result<Created<JobRow>> {
        on_reader!(self, jobs::refuse_surplus, &job, queue_limit)?;
        in_transaction!(self, jobs::create, job, queue_limit)
    }

    async fn find_job(&self, tenant: &Tenant, request: RequestKey) -> Result<Option<JobRow>> {
        on_reader!(self, jobs::find, tenant, request)
    }

    async fn find_job_by_alias(&self, tenant: &Tenant, alias: &str) -> Result<Option<JobRow>> {
        on_reader!(self, jobs::find_by_alias, tenant, alias)
    }

    async fn get_job(&self, tenant: &Tenant, id: JobId) -> Result<JobRow> {
        on_reader!(self, jobs::get, tenant, id)
    }

    async fn list_jobs(
        &self,
        tenant: &Tenant,
        states: &[JobState],
        kinds: &[JobKind],
        page: Page,
    ) -> Result<Vec<JobRow>> {
        on_reader!(self, jobs::list, tenant, states, kinds, page)
    }

    async fn claim_job(
        &self,
        worker: Uuid,
        lane: Lane,
        lease: Lease,
        now: Micros,
        attempts_max: u32,
    ) -> Result<Option<JobRow>> {
        // Idle workers ask often: without work they must not take the writer's place.
        let imports_max = self.turn.imports_max();
        if !on_reader!(self, leases::is_any_claimable, lane, lease, imports_max)? {
            return Ok(None);
        }
        let turn = leases::Turn { last: self.turn.last(lane), imports_max };
        let claimed: Result<_> =
            in_transaction!(self, leases::claim, worker, lane, lease, now, attempts_max, &turn);
        let claimed = claimed?;
        if let Some(job) = &claimed {
            self.turn.taken_by(lane, &job.tenant);
        }
        Ok(claimed)
    }

    fn limit_imports(&self, tenant_max: u32) {
        self.turn.set_imports_max(tenant_max);
    }

    async fn heartbeat_job(
        &self,
        id: JobId,
        attempt: u32,
        progress: &JobProgress,
        revision: u64,
        now: Micros,
        lease_until: Micros,
    ) -> Result<Heartbeat> {
        in_transaction!(self, leases::heartbeat, id, attempt, progress, revision, now, lease_until)
    }

    async fn finish_job(
        &self,
        id: JobId,
        attempt: u32,
        outcome: JobOutcome,
        revision: u64,
        now: Micros,
    ) -> Result<JobRow> {
        in_transaction!(self, leases::finish, id, attempt, outcome, revision, now)
    }

    async fn release_job(&self, id: JobId, attempt: u32, revision: u64, now: Micros) -> Result<()> {
        in_transaction!(self, leases::release, id, attempt, revision, now)
    }

    async fn cancel_job(&self, tenant: &Tenant, id: JobId, now: Micros) -> Result<JobRow> {
        in_transaction!(self, jobs::cancel, tenant, id, now)
    }

    async fn delete_job(&self, tenant: &Tenant, id: JobId) -> Result<()> {
        in_transaction!(self, jobs::delete, tenant, id)
    }

    async fn expire_jobs(&self, before: Micros) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let batch: Result<u64> = in_transaction!(self, jobs::expire, before, FORGET_BATCH);
            let batch = batch?;
            forgotten += batch;
            if batch < FORGET_BATCH {
                return Ok(forgotten);
            }
        }
    }

    async fn free_leases(&self, worker: Uuid, now: Micros) -> Result<u64> {
        in_transaction!(self, leases::free_leases, worker, now)
    }

    async fn count_jobs(&self) -> Result<JobCounts> {
        on_reader!(self, jobs::count)
    }

    async fn create_upload(&self, upload: UploadRow) -> Result<Created<UploadRow>> {
        in_transaction!(self, uploads::create, upload)
    }

    async fn get_upload(&self, tenant: &Tenant, id: UploadId) -> Result<UploadRow> {
        on_reader!(self, uploads::get, tenant, id)
    }

    async fn list_uploads(
        &self,
        tenant: &Tenant,
        states: &[UploadState],
        page: Page,
    ) -> Result<Vec<UploadRow>> {
        on_reader!(self, uploads::list, tenant, states, page)
    }

    async fn extend_upload(
        &self,
        id: UploadId,
        durable_bytes: u64,
        now: Micros,
        expire_time: Micros,
    ) -> Result<()> {
        in_transaction!(self, uploads::extend, id, durable_bytes, now, expire_time)
    }

    async fn reserve_upload(&self, id: UploadId, bytes: RangeInclusive<u64>, now: Micros) -> Result<u64> {
        in_transaction!(self, uploads::reserve, id, &bytes, now)
    }

    async fn commit_upload(
        &self,
        id: UploadId,
        image: ImageRow,
        shares: Option<ImageId>,
        check_job: Option<NewJob>,
        now: Micros,
    ) -> Result<Committed> {
        in_transaction!(self, commit::commit, id, &image, shares, &check_job, now)
    }

    async fn declare_upload_size(&self, id: UploadId, size_bytes: u64, now: Micros) -> Result<UploadRow> {
        in_transaction!(self, uploads::declare_size, id, size_bytes, now)
    }

    async fn store_part(&self, id: UploadId, part: &UploadPart, now: Micros) -> Result<Vec<UploadId>> {
        in_transaction!(self, sessions::store_part, id, part, now)
    }

    async fn list_parts(&self, tenant: &Tenant, session: &str) -> Result<Vec<UploadRow>> {
        on_reader!(self, sessions::list_parts, tenant, session)
    }

    async fn begin_compose(
        &self,
        upload: UploadRow,
        session: &str,
        now: Micros,
    ) -> Result<(Created<UploadRow>, Vec<UploadRow>)> {
        in_transaction!(self, sessions::begin_compose, upload, session, now)
    }

    async fn abort_session(&self, tenant: &Tenant, session: &str, now: Micros) -> Result<Vec<UploadId>> {
        // A session of very many parts would hold the writer for seconds.
        let mut aborted = Vec::new();
        loop {
            let batch: Result<Vec<UploadId>> =
                in_transaction!(self, sessions::abort, tenant, session, now, ABORT_BATCH);
            let batch = batch?;
            aborted.extend(&batch);
            if batch.len() < ABORT_BATCH {
                return Ok(aborted);
            }
        }
    }

    async fn abort_composition(&self, id: UploadId, now: Micros) -> Result<bool> {
        in_transaction!(self, sessions::abort_composition, id, now)
    }

    async fn abort_upload(&self, tenant: &Tenant, id: UploadId, now: Micros) -> Result<UploadRow> {
        in_transaction!(self, uploads::abort, tenant, id, now)
    }

    async fn fail_upload(&self, id: UploadId, failure: JobFailure, now: Micros) -> Result<UploadRow> {
        in_transaction!(self, uploads::fail, id, failure, now)
    }

    async fn expire_uploads(&self, now: Micros, forget_before: Micros) -> Result<Vec<UploadId>> {
        let mut aborted = Vec::new();
        let mut ended = self.abort_expired(now, &mut aborted).await;
        if ended.is_ok() {
            ended = self.forget_uploads(forget_before).await;
        }
        match ended {
            Err(error) if aborted.is_empty() => Err(error),
            // Their bytes can go, and only this answer tells them; the next call meets the same error.
            Err(error) => {
                tracing::warn!(%error, "some expired uploads wait for the next call");
                Ok(aborted)
            }
            Ok(()) => Ok(aborted),
        }
    }

    async fn is_upload_open(&self, id: UploadId) -> Result<bool> {
        on_reader!(self, uploads::is_open, id)
    }

    async fn create_image(&self, image: ImageRow, may_retake: bool) -> Result<Created<ImageRow>> {
        in_transaction!(self, records::create, &image, may_retake)
    }

    async fn is_image_retired(&self, tenant: &Tenant, id: ImageId) -> Result<bool> {
        on_reader!(self, records::is_retired, tenant, id)
    }

    async fn get_image(&self, tenant: &Tenant, id: ImageId) -> Result<ImageRow> {
        on_reader!(self, images::get, tenant, id)
    }

    async fn list_images(
        &self,
        tenant: &Tenant,
        filter: &ImageFilter,
        page: ImagePage,
    ) -> Result<Vec<ImageRow>> {
        let _place = self.searches.enter(filter).await?;
        on_reader!(self, images::list, tenant, filter, page)
    }

    async fn update_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        change: ImageChange,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow> {
        in_transaction!(self, images::update, tenant, id, change, expected_revision, now)
    }

    async fn trash_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        expected_revision: Option<u64>,
        now: Micros,
        purge_time: Micros,
    ) -> Result<ImageRow> {
        in_transaction!(self, trash::trash, tenant, id, expected_revision, now, purge_time)
    }

    async fn restore_image(&self, tenant: &Tenant, id: ImageId, now: Micros) -> Result<ImageRow> {
        in_transaction!(self, trash::restore, tenant, id, now)
    }

    async fn quarantine_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        failure: JobFailure,
        now: Micros,
    ) -> Result<ImageRow> {
        in_transaction!(self, trash::quarantine, tenant, id, failure, now)
    }

    async fn release_image(&self, tenant: &Tenant, id: ImageId, now: Micros) -> Result<ImageRow> {
        in_transaction!(self, trash::release, tenant, id, now)
    }

    async fn purge_image(
        &self,
        tenant: &Tenant,
        id: ImageId,
        expected_revision: Option<u64>,
        from_any_state: bool,
        now: Micros,
    ) -> Result<ImageRow> {
        in_transaction!(self, trash::purge, tenant, id, expected_revision, from_any_state, now)
    }

    async fn purge_expired_images(&self, now: Micros) -> Result<Vec<ImageRow>> {
        in_transaction!(self, trash::purge_expired, now)
    }

    async fn identity(&self) -> Result<Uuid> {
        in_transaction!(self, stores::identity)
    }

    async fn find_same(
        &self,
        tenant: &Tenant,
        sha256: &str,
        size_bytes: u64,
        store: StoreId,
    ) -> Result<Option<(ImageId, String)>> {
        on_reader!(self, sharing::find_same, tenant, sha256, size_bytes, store)
    }

    async fn is_blob_referenced(&self, store: StoreId, blob: &str) -> Result<bool> {
        on_reader!(self, images::is_blob_referenced, store, blob)
    }

    async fn list_unreferenced(&self, store: StoreId, blobs: &[String]) -> Result<Vec<String>> {
        on_reader!(self, images::list_unreferenced, store, blobs)
    }

    async fn list_doomed(&self, store: StoreId, limit: u32) -> Result<Vec<String>> {
        on_reader!(self, doomed::list, store, limit)
    }

    async fn postpone_doomed(&self, store: StoreId, blobs: &[String], now: Micros) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        in_transaction!(self, doomed::postpone, store, blobs, now)
    }

    async fn forget_doomed(&self, store: StoreId, blobs: &[String]) -> Result<()> {
        if blobs.is_empty() {
            return Ok(());
        }
        in_transaction!(self, doomed::forget, store, blobs)
    }

    async fn add_replica(
        &self,
        tenant: &Tenant,
        image: ImageId,
        replica: Replica,
        shares: Option<ImageId>,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow> {
        in_transaction!(self, replicas::add, tenant, image, &replica, shares, expected_revision, now)
    }

    async fn remove_replica(
        &self,
        tenant: &Tenant,
        image: ImageId,
        store: StoreId,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<ImageRow> {
        in_transaction!(self, replicas::remove, tenant, image, store, expected_revision, now)
    }

    async fn list_replicas(
        &self,
        store: StoreId,
        after: Option<ImageId>,
        limit: u32,
    ) -> Result<Vec<ImageRow>> {
        on_reader!(self, replicas::list, store, after, limit)
    }

    async fn list_blobs_to_verify(
        &self,
        store: StoreId,
        verified_before: Micros,
        limit: u32,
    ) -> Result<Vec<BlobToVerify>> {
        on_reader!(self, replicas::list_to_verify, store, verified_before, limit)
    }

    async fn mark_verified(&self, store: StoreId, blob: &str, now: Micros) -> Result<()> {
        in_transaction!(self, replicas::mark_verified, store, blob, now)
    }

    async fn mark_damaged(
        &self,
        store: StoreId,
        blob: &str,
        failure: JobFailure,
        now: Micros,
    ) -> Result<Vec<ImageRow>> {
        in_transaction!(self, replicas::mark_damaged, store, blob, failure, now)
    }

    async fn count_damage(&self) -> Result<Damage> {
        on_reader!(self, replicas::count_damage)
    }

    async fn find_conversion(&self, tenant: &Tenant, key: &str) -> Result<Option<ImageRow>> {
        on_reader!(self, companions::find_conversion, tenant, key)
    }

    async fn touch_image(&self, id: ImageId, now: Micros) -> Result<()> {
        if !on_reader!(self, companions::is_touch_due, id, now)? {
            return Ok(());
        }
        in_transaction!(self, companions::touch, id, now)
    }

    async fn list_conversions_by_use(&self, limit: u32) -> Result<Conversions> {
        in_transaction!(self, companions::list_by_use, limit)
    }

    async fn purge_companion(&self, id: ImageId, now: Micros) -> Result<()> {
        in_transaction!(self, companions::purge, id, now)
    }

    async fn register_store(&self, store: StoreRow) -> Result<Created<StoreRow>> {
        in_transaction!(self, stores::register, store)
    }

    async fn get_store(&self, id: StoreId) -> Result<StoreRow> {
        on_reader!(self, stores::get, id)
    }

    async fn find_store(&self, name: &str) -> Result<Option<StoreRow>> {
        on_reader!(self, stores::find, name)
    }

    async fn list_stores(&self) -> Result<Vec<StoreRow>> {
        on_reader!(self, stores::list)
    }

    async fn update_store(
        &self,
        id: StoreId,
        change: StoreChange,
        expected_revision: Option<u64>,
        now: Micros,
    ) -> Result<StoreRow> {
        in_transaction!(self, stores::update, id, change, expected_revision, now)
    }

    async fn remove_store(&self, id: StoreId) -> Result<()> {
        in_transaction!(self, stores::remove, id)
    }

    async fn store_usage(&self, id: StoreId) -> Result<StoreUsage> {
        on_reader!(self, stores::usage, id)
    }

    async fn set_quota(&self, tenant: Option<&Tenant>, quota: Option<Quota>) -> Result<()> {
        in_transaction!(self, usage::set_quota, tenant, quota)
    }

    async fn get_usage(&self, tenant: &Tenant) -> Result<Usage> {
        on_reader!(self, usage::get, tenant)
    }

    async fn create_key(&self, key: KeyRow) -> Result<()> {
        in_transaction!(self, keys::create, &key)
    }

    async fn get_key(&self, tenant: Option<&Tenant>, id: KeyId) -> Result<KeyRow> {
        on_reader!(self, keys::get, tenant, id)
    }

    async fn list_keys(&self, tenant: Option<&Tenant>, page: Page) -> Result<Vec<KeyRow>> {
        on_reader!(self, keys::list, tenant, page)
    }

    async fn find_key(&self, proof: KeyProof, sha256: &[u8; 32], now: Micros) -> Result<Option<KeyRow>> {
        on_reader!(self, keys::find, proof, sha256, now)
    }

    async fn revoke_key(&self, tenant: Option<&Tenant>, id: KeyId, now: Micros) -> Result<KeyRow> {
        in_transaction!(self, keys::revoke, tenant, id, now)
    }

    async fn ping(&self) -> Result<()> {
        self.try_to_write().await
    }

    async fn close(&self) {
        self.shut().await;
    }
}
