//! What tenants have and may have.

use std::sync::Arc;

use imageops_model::{CompressSpec, CompressionChoice};

use super::*;
use crate::{JobOutcome, Quota, Usage};

fn bytes_max(bytes_max: u64) -> Option<Quota> {
    Some(Quota { images_max: None, bytes_max: Some(bytes_max) })
}

fn images_max(images_max: u64) -> Option<Quota> {
    Some(Quota { images_max: Some(images_max), bytes_max: None })
}

async fn usage(catalogue: &impl Catalogue) -> Usage {
    Usage { quota: Quota::default(), ..catalogue.get_usage(&tenant()).await.unwrap() }
}

fn counted(images: u64, bytes: u64, reserved_images: u64, reserved_bytes: u64) -> Usage {
    Usage { images, bytes, reserved_images, reserved_bytes, quota: Quota::default() }
}

fn sized(size_bytes: u64) -> ImageRow {
    ImageRow { size_bytes, ..image_row(tenant()) }
}

pub(crate) async fn a_quota_of_its_own_replaces_the_default<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let quota = async |of: &Tenant| catalogue.get_usage(of).await.unwrap().quota;
    assert_eq!(quota(&tenant()).await, Quota::default());
    catalogue.set_quota(None, bytes_max(1000)).await.unwrap();
    catalogue.set_quota(Some(&other_tenant()), images_max(2)).await.unwrap();
    assert_eq!(Some(quota(&tenant()).await), bytes_max(1000));
    assert_eq!(Some(quota(&other_tenant()).await), images_max(2));
    // The default no longer holds for it: its own has no limit of bytes.
    let upload = UploadRow { tenant: other_tenant(), size_bytes: Some(5000), ..upload_row(at(0)) };
    catalogue.create_upload(upload).await.unwrap();
    let refused = catalogue.create_upload(UploadRow { size_bytes: Some(1001), ..upload_row(at(0)) }).await;
    assert_error!(refused, Error::QuotaExceeded { what: "bytes", limit: 1000, used: 0 });
    catalogue.set_quota(Some(&other_tenant()), None).await.unwrap();
    assert_eq!(Some(quota(&other_tenant()).await), bytes_max(1000));
    catalogue.set_quota(None, bytes_max(2000)).await.unwrap();
    assert_eq!(Some(quota(&tenant()).await), bytes_max(2000));
    let too_large = catalogue.set_quota(None, bytes_max(u64::MAX)).await;
    assert_error!(too_large, Error::OutOfRange { .. });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn sec_14_a_quota_fits_ten_of_many_uploads<D: Database>() {
    for quota in [bytes_max(10_999), images_max(10)] {
        let database = D::new();
        let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
        handles[0].set_quota(None, quota).await.unwrap();
        let tasks: Vec<_> = (0..64)
            .map(|n| {
                let catalogue = Arc::clone(&handles[n % 2]);
                tokio::spawn(async move { catalogue.create_upload(upload_row(at(0))).await })
            })
            .collect();
        let mut passed = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(created) => passed.push(new_row(created).id),
                Err(Error::QuotaExceeded { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(passed.len(), 10);
        // What passed can be committed, and what is given up makes room.
        for id in &passed[1..] {
            handles[1].commit_upload(*id, sized(1000), None, None, at(1)).await.unwrap();
        }
        assert_error!(handles[1].create_upload(upload_row(at(2))).await, Error::QuotaExceeded { .. });
        handles[0].abort_upload(&tenant(), passed[0], at(3)).await.unwrap();
        handles[1].create_upload(upload_row(at(4))).await.unwrap();
        assert_eq!(usage(&*handles[0]).await, counted(9, 9000, 1, 1000));
        assert_sound::<D>(&handles[0]).await;
    }
}

pub(crate) async fn what_an_upload_holds_becomes_what_the_image_costs<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    catalogue.set_quota(None, bytes_max(3000)).await.unwrap();
    let undeclared = UploadRow { size_bytes: None, ..upload_row(at(0)) };
    let undeclared = new_row(catalogue.create_upload(undeclared).await.unwrap()).id;
    assert_eq!(usage(&catalogue).await, counted(0, 0, 1, 0));
    assert_eq!(catalogue.reserve_upload(undeclared, 1..=800, at(1)).await.unwrap(), 800);
    assert_eq!(catalogue.reserve_upload(undeclared, 1..=500, at(1)).await.unwrap(), 800);
    let declared = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap());
    assert_eq!(declared.reserved_bytes, 1000);
    // No more than there is, and nothing where that is too little.
    assert_eq!(catalogue.reserve_upload(undeclared, 2001..=9000, at(2)).await.unwrap(), 800);
    assert_eq!(catalogue.reserve_upload(undeclared, 1..=9000, at(2)).await.unwrap(), 2000);
    assert_eq!(usage(&catalogue).await, counted(0, 0, 2, 3000));
    // A length that lied is found at the end, and the upload stays as it is.
    let lie = catalogue.commit_upload(declared.id, sized(1001), None, None, at(3)).await;
    assert_error!(lie, Error::QuotaExceeded { what: "bytes", limit: 3000, used: 2000 });
    assert_eq!(catalogue.get_upload(&tenant(), declared.id).await.unwrap(), declared);
    catalogue.commit_upload(undeclared, sized(1200), None, None, at(4)).await.unwrap();
    catalogue.commit_upload(declared.id, sized(1800), None, None, at(5)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(2, 3000, 0, 0));
    assert_error!(catalogue.reserve_upload(declared.id, 1..=1, at(6)).await, Error::State { what: "upload" });
    let failed = UploadRow { size_bytes: Some(0), ..upload_row(at(7)) };
    let failed = new_row(catalogue.create_upload(failed).await.unwrap()).id;
    assert_eq!(catalogue.reserve_upload(failed, 1..=1, at(7)).await.unwrap(), 0);
    catalogue.fail_upload(failed, failure(), at(8)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(2, 3000, 0, 0));
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn what_was_promised_is_kept_when_the_quota_shrinks<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let upload = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap()).id;
    let none = Some(Quota { images_max: Some(0), bytes_max: Some(0) });
    catalogue.set_quota(None, none).await.unwrap();
    assert_error!(
        catalogue.create_upload(UploadRow { size_bytes: None, ..upload_row(at(1)) }).await,
        Error::QuotaExceeded { what: "images", limit: 0, used: 1 }
    );
    let more = catalogue.commit_upload(upload, sized(1001), None, None, at(2)).await;
    assert_error!(more, Error::QuotaExceeded { what: "bytes", limit: 0, used: 0 });
    catalogue.commit_upload(upload, sized(1000), None, None, at(3)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(1, 1000, 0, 0));
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_job_holds_what_its_output_may_need<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let source = added(&catalogue, sized(1000)).await;
    catalogue.set_quota(None, Some(Quota { images_max: Some(2), bytes_max: Some(2000) })).await.unwrap();
    let spec = JobSpec::Compress(CompressSpec {
        source: Source::Image(source.id),
        output_file: None,
        output_image: Some(missing_image()),
        output_label: Label::default(),
        companion: false,
        compression: CompressionChoice::default(),
    });
    let job = |time| NewJob { spec: spec.clone(), reserve_bytes: 600, ..new_job(time) };
    catalogue.create_job(job(at(0)), 10).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(1, 1000, 1, 600));
    let refused = catalogue.create_job(job(at(1)), 10).await;
    assert_error!(refused, Error::QuotaExceeded { what: "images", limit: 2, used: 2 });
    let claim = async |now: Micros| {
        catalogue
            .claim_job(worker(), Lane::Work, lease(now, now.plus_ms(30_000)), now, 3)
            .await
            .unwrap()
            .unwrap()
    };
    // Without success nothing is held any more; neither after a crash too many.
    let running = claim(at(2)).await;
    catalogue.finish_job(running.id, 1, JobOutcome::Failed(failure()), 0, at(3)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(1, 1000, 0, 0));
    let crashed = new_row(catalogue.create_job(job(at(4)), 10).await.unwrap());
    claim(at(5)).await;
    assert!(
        catalogue.claim_job(worker(), Lane::Work, lease(at(50), at(80)), at(50), 1).await.unwrap().is_none()
    );
    assert_eq!(catalogue.get_job(&tenant(), crashed.id).await.unwrap().state, JobState::Failed);
    assert_eq!(usage(&catalogue).await, counted(1, 1000, 0, 0));
    // A job that failed before it began never held any.
    let failed = NewJob { failure: Some(failure()), ..job(at(51)) };
    catalogue.create_job(failed, 10).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(1, 1000, 0, 0));
    // What is larger than promised must fit; else the job goes on, and ends otherwise.
    catalogue.create_job(job(at(60)), 10).await.unwrap();
    let running = claim(at(61)).await;
    let made = |size_bytes| JobOutcome::Succeeded {
        result: "{}".to_owned(),
        image: Some(sized(size_bytes)),
        replica: None,
    };
    let refused = catalogue.finish_job(running.id, 1, made(1001), 0, at(62)).await;
    assert_error!(refused, Error::QuotaExceeded { what: "bytes", limit: 2000, used: 1000 });
    assert_eq!(usage(&catalogue).await, counted(1, 1000, 1, 600));
    catalogue.finish_job(running.id, 1, made(700), 0, at(63)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(2, 1700, 0, 0));
    assert_sound::<D>(&catalogue).await;
}

/// CVE-2014-5356, CVE-2015-5286: a quota was escaped by deleting the image while it was uploaded.
pub(crate) async fn sec_14_an_image_that_is_deleted_during_its_upload_costs_nothing<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    for n in 0..20 {
        let record = ImageRow { state: ImageState::Queued, replicas: Vec::new(), ..sized(0) };
        let record = new_row(catalogue.create_image(record, false).await.unwrap());
        assert_eq!(usage(&catalogue).await, counted(1, 0, 0, 0));
        let upload = UploadRow { record: Some(record.id), ..upload_row(at(0)) };
        let upload = new_row(catalogue.create_upload(upload).await.unwrap());
        assert_eq!(usage(&catalogue).await, counted(1, 0, 0, 1000));
        let filled = ImageRow { id: record.id, ..sized(1000) };
        if n % 2 == 0 {
            let purged = catalogue.purge_image(&tenant(), record.id, None, true, at(1)).await.unwrap();
            assert_eq!(purged.upload, Some(upload.id));
            let late = catalogue.commit_upload(upload.id, filled, None, None, at(2)).await;
            assert_error!(late, Error::State { what: "upload" });
            assert_error!(catalogue.extend_upload(upload.id, 1, at(2), at(3)).await, Error::State { .. });
        } else {
            catalogue.commit_upload(upload.id, filled, None, None, at(1)).await.unwrap();
            assert_eq!(usage(&catalogue).await, counted(1, 1000, 0, 0));
            catalogue.purge_image(&tenant(), record.id, None, true, at(2)).await.unwrap();
        }
        assert_eq!(usage(&catalogue).await, counted(0, 0, 0, 0));
    }
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn the_trash_counts_until_it_is_emptied<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, sized(700)).await;
    catalogue.trash_image(&tenant(), image.id, None, at(2), at(20)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(1, 700, 0, 0));
    catalogue.purge_expired_images(at(30)).await.unwrap();
    assert_eq!(usage(&catalogue).await, counted(0, 0, 0, 0));
    assert_sound::<D>(&catalogue).await;
}
