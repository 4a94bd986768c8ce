//! What every catalogue must do, run for each implementation by [`catalogue_suite`].
#![allow(clippy::unwrap_used)]

use std::future::Future;

use imageops_model::{
    Archive, CheckSpec, ImageDetails, ImageId, ImageState, JobFailure, JobId, JobProgress, JobSpec, JobState,
    Label, Lane, Micros, ReplicaState, Source, StoreId, Tenant, UploadId, UploadState, UploadWishes,
};
use uuid::Uuid;

use crate::{Catalogue, Created, Error, ImageRow, JobRow, Lease, NewJob, Replica, RequestKey, UploadRow};

pub(crate) mod against_model;
pub(crate) mod companions;
pub(crate) mod fetched;
pub(crate) mod images;
pub(crate) mod imports;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod last_jobs;
pub(crate) mod leases;
pub(crate) mod migration;
pub(crate) mod random;
pub(crate) mod records;
pub(crate) mod removal;
pub(crate) mod replicas;
pub(crate) mod sessions;
pub(crate) mod sharing;
pub(crate) mod stores;
pub(crate) mod uploads;
pub(crate) mod usage;

/// A database to be filled: each value is another one, empty at first.
pub(crate) trait Database: Send + Sync + 'static {
    /// What is tested.
    type Catalogue: Catalogue;

    /// Why there is none to test with; `None` when there is.
    fn missing() -> Option<&'static str> {
        None
    }

    /// A new, empty database.
    fn new() -> Self;

    /// Another handle on this database.
    fn open(&self) -> impl Future<Output = Self::Catalogue> + Send;

    /// Gives the database the schema of the first three migrations, and runs statements on it.
    fn fill_old(&self, statements: &'static [&'static str]) -> impl Future<Output = ()> + Send;

    /// Those of some queries that find something.
    fn finding(
        catalogue: &Self::Catalogue,
        queries: &'static [&'static str],
    ) -> impl Future<Output = Vec<&'static str>> + Send;
}

/// Each finds rows that contradict others.
const CONTRADICTIONS: &[&str] = &[
    "SELECT tenant FROM (SELECT tenant, CASE WHEN companion_of IS NULL THEN 1 ELSE 0 END AS images, \
     charged_bytes AS bytes, 0 AS reserved_images, 0 AS reserved_bytes FROM images \
     UNION ALL SELECT tenant, 0, 0, reserved_images, reserved_bytes FROM uploads \
     UNION ALL SELECT tenant, 0, 0, reserved_images, reserved_bytes FROM jobs \
     UNION ALL SELECT tenant, -images, -bytes, -reserved_images, -reserved_bytes FROM usage) AS counted \
     GROUP BY tenant HAVING SUM(images) <> 0 OR SUM(bytes) <> 0 OR SUM(reserved_images) <> 0 OR SUM(reserved_bytes) <> 0",
    "SELECT id FROM images WHERE charged_bytes <> CASE WHEN companion_kind = 'conversion' THEN 0 ELSE size_bytes END",
    "SELECT id FROM uploads WHERE state NOT IN ('open', 'stored') AND (reserved_images <> 0 OR reserved_bytes <> 0)",
    "SELECT id FROM uploads WHERE state = 'open' \
     AND reserved_images <> CASE WHEN part IS NULL AND record IS NULL AND wishes NOT LIKE '%\"becomes_part\":true%' \
     THEN 1 ELSE 0 END",
    "SELECT id FROM jobs WHERE state NOT IN ('queued', 'running') AND (reserved_images <> 0 OR reserved_bytes <> 0)",
    "SELECT id FROM images WHERE state = 'uploading' AND NOT EXISTS \
     (SELECT 1 FROM uploads WHERE uploads.id = images.upload AND uploads.state = 'open' AND record = images.id)",
    "SELECT id FROM images WHERE state <> 'uploading' AND upload IS NOT NULL",
    "SELECT id FROM images WHERE state = 'active' AND NOT EXISTS \
     (SELECT 1 FROM image_replicas WHERE image = images.id AND image_replicas.state = 'ready')",
    "SELECT id FROM images WHERE state = 'quarantined' AND quarantine IS NULL",
    "SELECT id FROM images WHERE companion_of IS NOT NULL AND companion_of NOT IN (SELECT id FROM images)",
    "SELECT id FROM images WHERE slim_image IS NOT NULL AND slim_image NOT IN (SELECT id FROM images)",
    "SELECT blob FROM doomed_blobs WHERE EXISTS (SELECT 1 FROM image_replicas \
     WHERE image_replicas.store = doomed_blobs.store AND image_replicas.blob = doomed_blobs.blob)",
    "SELECT session FROM upload_sessions WHERE composing IS NOT NULL AND composing NOT IN \
     (SELECT id FROM uploads WHERE state = 'open')",
    "SELECT id FROM uploads WHERE state = 'open' AND session IS NOT NULL AND part IS NULL AND id NOT IN \
     (SELECT composing FROM upload_sessions WHERE composing IS NOT NULL)",
    "SELECT id FROM uploads WHERE state IN ('open', 'stored') AND session IS NOT NULL AND session NOT IN \
     (SELECT session FROM upload_sessions WHERE upload_sessions.tenant = uploads.tenant)",
];

/// Asserts that no row contradicts another one: above all, that what tenants have is the sum of their rows.
pub(crate) async fn assert_sound<D: Database>(catalogue: &D::Catalogue) {
    assert_eq!(D::finding(catalogue, CONTRADICTIONS).await, [""; 0]);
}

/// Makes a test of each function of the suite for a [`Database`].
macro_rules! catalogue_suite {
    ($database:ty) => {
        $crate::suite::catalogue_suite! { $database =>
            jobs::a_job_reads_back,
            jobs::a_job_that_failed_at_once_takes_no_place,
            jobs::the_same_request_is_the_same_job,
            jobs::the_queue_limit_holds_under_concurrency,
            jobs::checks_that_come_unasked_take_no_other_tenants_place,
            jobs::one_request_at_many_places_makes_one_job,
            jobs::pages_are_stable_under_inserts,
            jobs::lists_are_filtered,
            jobs::other_tenants_see_no_job,
            jobs::cancel_depends_on_the_state,
            jobs::only_ended_jobs_are_deleted,
            jobs::old_jobs_expire,
            jobs::numbers_out_of_range_are_refused,
            leases::the_oldest_job_is_claimed_first,
            leases::a_lane_does_not_wait_for_another,
            leases::a_lease_is_not_stolen_before_its_end,
            leases::a_lease_has_a_clock_of_its_own,
            leases::tenants_take_turns,
            leases::imports_of_one_tenant_leave_room,
            leases::nobody_fills_the_queue_for_others,
            leases::claimers_never_share_a_job,
            leases::a_late_worker_changes_nothing,
            leases::a_heartbeat_extends_and_tells,
            leases::progress_never_falls,
            leases::a_job_ends_once,
            leases::success_brings_the_image,
            leases::a_taken_image_id_undoes_the_success,
            leases::attempts_run_out,
            leases::a_released_attempt_does_not_count,
            leases::a_wish_to_cancel_outlives_the_worker,
            leases::freed_leases_are_claimable_at_once,
            uploads::an_upload_reads_back,
            uploads::the_same_id_is_the_same_upload,
            uploads::a_length_is_told_once,
            uploads::durable_bytes_never_shrink,
            uploads::a_commit_makes_the_image,
            fetched::an_import_brings_its_upload,
            fetched::an_import_that_ends_without_an_image_ends_its_upload,
            fetched::an_import_that_was_committed_is_not_undone,
            fetched::who_purges_the_record_of_an_import_ends_it,
            uploads::a_failed_commit_changes_nothing,
            uploads::an_upload_ends_once,
            uploads::one_of_many_commits_wins,
            uploads::uploads_expire_and_are_forgotten,
            uploads::lists_are_filtered_and_paged,
            uploads::other_tenants_see_no_upload,
            images::blobs_are_referenced_by_store_and_key,
            images::what_is_said_of_an_image_reads_back,
            images::a_stale_change_changes_nothing,
            images::an_image_goes_through_the_trash,
            images::a_protected_image_is_not_deleted,
            images::the_id_of_a_purged_image_stays_taken,
            images::the_trash_is_emptied_in_time,
            images::image_lists_are_ordered_and_paged,
            images::images_of_one_label_are_ordered_and_paged,
            images::image_lists_are_filtered,
            images::other_tenants_see_no_image,
            usage::a_quota_of_its_own_replaces_the_default,
            usage::sec_14_a_quota_fits_ten_of_many_uploads,
            usage::what_an_upload_holds_becomes_what_the_image_costs,
            usage::what_was_promised_is_kept_when_the_quota_shrinks,
            usage::a_job_holds_what_its_output_may_need,
            usage::sec_14_an_image_that_is_deleted_during_its_upload_costs_nothing,
            usage::the_trash_counts_until_it_is_emptied,
            sessions::parts_are_joined_in_order,
            sessions::a_part_takes_the_place_of_the_one_before,
            sessions::a_part_can_be_named_behind_its_bytes,
            sessions::only_plain_uploads_become_parts,
            sessions::rel_28_one_of_many_compositions_wins,
            sessions::rel_28_nothing_changes_a_session_that_is_composed,
            sessions::a_session_of_many_parts_is_given_up_to_the_last,
            sessions::rel_28_a_session_can_be_given_up_while_it_is_composed,
            sessions::a_composition_that_nobody_goes_on_with_frees_its_session,
            sessions::parts_need_the_quota_once,
            sessions::sessions_expire_with_their_parts,
            sessions::what_expires_goes_in_one_call,
            sessions::sec_29_sessions_of_two_tenants_are_two,
            records::an_upload_fills_a_record,
            records::a_record_is_queued_again_when_its_upload_ends,
            records::one_of_many_uploads_fills_a_record,
            records::an_id_is_retaken_by_its_owner_alone,
            records::what_came_corrupt_goes_into_quarantine,
            sharing::equal_bytes_are_stored_once,
            sharing::bytes_that_went_are_not_shared,
            sharing::sec_29_bytes_are_never_shared_across_tenants,
            sharing::bytes_that_are_not_trusted_are_not_shared,
            sharing::doomed_bytes_are_never_named_again,
            removal::an_image_takes_its_companions_and_jobs_along,
            removal::bytes_that_cannot_be_removed_keep_no_others_waiting,
            removal::what_goes_at_once_and_what_does_not,
            removal::quarantine_outlives_the_trash,
            companions::a_slim_companion_takes_the_place_of_the_one_before,
            companions::companions_are_hidden_and_move_with_their_image,
            companions::conversions_are_found_used_and_evicted,
            companions::a_companion_of_an_image_that_is_gone_is_refused,
            last_jobs::a_result_stays_until_the_next_check_ends,
            last_jobs::every_end_of_a_check_is_told,
            last_jobs::a_check_is_queued_with_the_image,
            last_jobs::a_living_job_is_the_same_job,
            last_jobs::which_living_job_is_joined,
            last_jobs::an_alias_is_unique_for_its_tenant,
            replicas::copies_come_and_go,
            replicas::a_job_brings_a_copy,
            replicas::copies_are_listed_by_store,
            replicas::bytes_are_verified_in_turn,
            replicas::damaged_bytes_put_images_into_quarantine,
            stores::a_store_reads_back_and_changes,
            stores::names_and_ids_of_stores_are_unique,
            stores::a_store_in_use_is_not_removed,
            migration::a_database_of_before_is_carried_over,
            random::random_operations_leave_no_contradiction,
            imports::an_upload_brings_a_slim_companion,
            imports::the_id_of_a_purged_image_is_known_to_be_taken,
            keys::a_key_is_found_by_its_digest,
            keys::a_key_opens_until_its_time_is_over,
            keys::a_certificate_is_no_secret,
            keys::ids_and_digests_are_unique,
            keys::keys_are_listed_newest_first,
            keys::other_tenants_see_no_key,
            reopening_keeps_everything,
            ping_and_close,
            against_model::random_operations_agree_with_a_model,
        }
    };
    ($database:ty => $($($test:ident)::+),+ $(,)?) => {
        $($crate::suite::catalogue_test! { $database, $($test)::+ })+
    };
}

/// One test, named by the last part of its path.
macro_rules! catalogue_test {
    ($database:ty, $test:ident) => {
        $crate::suite::catalogue_test! { $database, $test, $crate::suite::$test::<$database>() }
    };
    ($database:ty, $module:ident :: $test:ident) => {
        $crate::suite::catalogue_test! { $database, $test, $crate::suite::$module::$test::<$database>() }
    };
    ($database:ty, $test:ident, $run:expr) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            match <$database as $crate::suite::Database>::missing() {
                // `cargo xtask test` counts these lines.
                Some(reason) => eprintln!("SKIPPED: {reason}"),
                None => $run.await,
            }
        }
    };
}

pub(crate) use {catalogue_suite, catalogue_test};

/// A moment that is `seconds` after the beginning of the tests' time.
pub(crate) fn at(seconds: i64) -> Micros {
    Micros(1_700_000_000_000_000 + seconds * 1_000_000)
}

pub(crate) fn tenant() -> Tenant {
    Tenant::built_in()
}

pub(crate) fn other_tenant() -> Tenant {
    Tenant::new("other").unwrap()
}

pub(crate) fn check_spec(file: &str) -> JobSpec {
    JobSpec::Check(CheckSpec { source: Source::File(file.to_owned()), md5: true, sha256: true })
}

pub(crate) fn new_job(create_time: Micros) -> NewJob {
    NewJob {
        id: JobId(Uuid::new_v4()),
        tenant: tenant(),
        spec: check_spec("disk.img"),
        request: None,
        coalesce_key: None,
        join: crate::Join::Any,
        alias: None,
        reserve_bytes: 0,
        failure: None,
        upload: None,
        create_time,
    }
}

pub(crate) fn request(id: u128, content: u8) -> Option<RequestKey> {
    Some(RequestKey { id: Uuid::from_u128(id), fingerprint: [content; 32] })
}

pub(crate) fn failure() -> JobFailure {
    JobFailure { code: 9, reason: "NOT_GOOD".to_owned(), message: "it is not good".to_owned() }
}

pub(crate) fn replica(blob: String) -> Replica {
    Replica {
        store: StoreId(Uuid::from_u128(5)),
        blob,
        state: ReplicaState::Ready,
        create_time: at(1),
        update_time: at(1),
        verify_time: None,
    }
}

/// An image whose bytes no other one has.
pub(crate) fn image_row(owner: Tenant) -> ImageRow {
    let id = Uuid::new_v4();
    ImageRow {
        id: ImageId(id),
        tenant: owner,
        label: Label::new("Debian 13 – “trixie”").unwrap(),
        state: ImageState::Active,
        format: "qcow2".to_owned(),
        size_bytes: 1 << 40,
        virtual_size_bytes: Some(1 << 41),
        md5: "0".repeat(32),
        sha256: format!("{:064x}", id.as_u128()),
        sha512: Some("4".repeat(128)),
        crc32: Some(u32::MAX),
        replicas: vec![replica(id.to_string())],
        companion: None,
        use_time: None,
        quarantine: None,
        check: None,
        slim: None,
        upload: None,
        derived_from: Some(ImageId(Uuid::from_u128(6))),
        details: ImageDetails::default(),
        enabled: true,
        revision: 1,
        create_time: at(1),
        update_time: at(2),
        trash_time: None,
        purge_time: None,
    }
}

pub(crate) fn upload_row(create_time: Micros) -> UploadRow {
    UploadRow {
        id: UploadId(Uuid::new_v4()),
        tenant: tenant(),
        state: UploadState::Open,
        label: Label::new("disk").unwrap(),
        details: ImageDetails { tags: ["golden".to_owned()].into(), ..ImageDetails::default() },
        declared_format: Some("raw".to_owned()),
        size_bytes: Some(1000),
        expected_md5: None,
        expected_sha256: Some("2".repeat(64)),
        store: Some(StoreId(Uuid::from_u128(5))),
        part: None,
        composes: None,
        record: None,
        archive: Some(Archive::Zip),
        wishes: UploadWishes {
            accept_corrupt: true,
            check: Some(false),
            sha512: true,
            becomes_part: false,
            import: false,
            expected_sha512: Some("5".repeat(128)),
            expected_crc32: Some(7),
        },
        durable_bytes: 0,
        reserved_bytes: 1000,
        image: None,
        failure: None,
        create_time,
        update_time: create_time,
        expire_time: create_time.plus_ms(60_000),
    }
}

/// Adds an image as an upload does, with the blob that its tenant has of the same bytes.
pub(crate) async fn added(catalogue: &impl Catalogue, mut image: ImageRow) -> ImageRow {
    let upload =
        UploadRow { tenant: image.tenant.clone(), size_bytes: Some(image.size_bytes), ..upload_row(at(0)) };
    let upload = new_row(catalogue.create_upload(upload).await.unwrap());
    let store = image.replicas[0].store;
    let same = catalogue.find_same(&image.tenant, &image.sha256, image.size_bytes, store).await.unwrap();
    let shares = same.map(|(shares, blob)| {
        image.replicas[0].blob = blob;
        shares
    });
    catalogue.commit_upload(upload.id, image, shares, None, at(1)).await.unwrap().image
}

pub(crate) fn missing_image() -> ImageId {
    ImageId(Uuid::new_v4())
}

pub(crate) fn worker() -> Uuid {
    Uuid::from_u128(77)
}

pub(crate) fn lease(now: Micros, until: Micros) -> Lease {
    Lease { now, until }
}

/// Adds a job and claims it with a lease of 30 s.
pub(crate) async fn claimed(catalogue: &impl Catalogue, now: Micros) -> JobRow {
    catalogue.create_job(new_job(now), 1000).await.unwrap();
    catalogue.claim_job(worker(), Lane::Work, lease(now, now.plus_ms(30_000)), now, 3).await.unwrap().unwrap()
}

pub(crate) fn progress(percent: f64) -> JobProgress {
    JobProgress { done_bytes: 5, total_bytes: 10, percent, ..JobProgress::default() }
}

pub(crate) fn new_row<T>(created: Created<T>) -> T {
    match created {
        Created::New(row) => row,
        Created::Existing(_) => panic!("a new row was expected"),
    }
}

pub(crate) fn existing_row<T>(created: Created<T>) -> T {
    match created {
        Created::Existing(row) => row,
        Created::New(_) => panic!("the row of before was expected"),
    }
}

/// Asserts that a call failed, and how.
macro_rules! assert_error {
    ($result:expr, $error:pat) => {
        match $result {
            Err($error) => {}
            Err(error) => panic!("failed otherwise: {error:?}"),
            Ok(answer) => panic!("did not fail: {answer:?}"),
        }
    };
}
pub(crate) use assert_error;

pub(crate) async fn reopening_keeps_everything<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    let image = image_row(tenant());
    let finished = crate::JobOutcome::Succeeded {
        result: "{\"a\":1}".to_owned(),
        image: Some(image.clone()),
        replica: None,
    };
    let job = catalogue.finish_job(job.id, job.attempt, finished, 7, at(1)).await.unwrap();
    let upload = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap());
    // Dropped, not closed: as after a crash of the process.
    drop(catalogue);
    let catalogue = database.open().await;
    assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap(), job);
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), image);
    assert_eq!(catalogue.get_upload(&tenant(), upload.id).await.unwrap(), upload);
    catalogue.close().await;
    let catalogue = database.open().await;
    assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap().state, JobState::Succeeded);
}

pub(crate) async fn ping_and_close<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    catalogue.ping().await.unwrap();
    catalogue.close().await;
    assert_error!(catalogue.ping().await, Error::Unavailable(_));
}
