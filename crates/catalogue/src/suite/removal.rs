//! Images that go for good.

use imageops_model::CompanionKind;

use super::companions::{accompanied, slim_spec};
use super::records::record_row;
use super::*;
use crate::ImageChange;

const WHAT: &str = "image";

pub(crate) async fn an_image_takes_its_companions_and_jobs_along<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let slim = accompanied(&catalogue, image.id, CompanionKind::Slim, None).await;
    let other = added(&catalogue, image_row(tenant())).await;
    let check = |id| {
        let spec = CheckSpec { source: Source::Image(id), md5: true, sha256: true };
        NewJob { spec: JobSpec::Check(spec), reserve_bytes: 7, ..new_job(at(2)) }
    };
    let running = new_row(catalogue.create_job(check(image.id), 10).await.unwrap()).id;
    catalogue.claim_job(worker(), Lane::Work, lease(at(3), at(33)), at(3), 3).await.unwrap().unwrap();
    let queued = new_row(catalogue.create_job(check(image.id), 10).await.unwrap()).id;
    let of_companion = new_row(catalogue.create_job(check(slim.id), 10).await.unwrap()).id;
    let of_other = new_row(catalogue.create_job(check(other.id), 10).await.unwrap()).id;
    catalogue.purge_image(&tenant(), image.id, None, true, at(4)).await.unwrap();
    let job = async |id| {
        let row = catalogue.get_job(&tenant(), id).await.unwrap();
        (row.state, row.cancel_requested)
    };
    assert_eq!(job(running).await, (JobState::Running, true));
    assert_eq!(job(queued).await, (JobState::Cancelled, true));
    assert_eq!(job(of_companion).await, (JobState::Cancelled, true));
    assert_eq!(job(of_other).await, (JobState::Queued, false));
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().reserved_bytes, 14);
    assert_error!(catalogue.get_image(&tenant(), slim.id).await, Error::NotFound { what: WHAT });
    let mut doomed = catalogue.list_doomed(image.replicas[0].store, 10).await.unwrap();
    doomed.sort();
    let mut expected = [image.replicas[0].blob.clone(), slim.replicas[0].blob.clone()];
    expected.sort();
    assert_eq!(doomed, expected);
    // A job that comes too late is told by its worker's first look at the image.
    let late = NewJob { spec: slim_spec(image.id, missing_image()), ..new_job(at(5)) };
    new_row(catalogue.create_job(late, 10).await.unwrap());
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn bytes_that_cannot_be_removed_keep_no_others_waiting<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let store = replica(String::new()).store;
    let mut blobs = Vec::new();
    for seconds in 0..4 {
        let image = added(&catalogue, image_row(tenant())).await;
        catalogue.purge_image(&tenant(), image.id, None, true, at(seconds)).await.unwrap();
        blobs.push(image.replicas[0].blob.clone());
    }
    let [a, b, c, d] = blobs.clone().try_into().unwrap();
    let doomed = async |limit| catalogue.list_doomed(store, limit).await.unwrap();
    assert_eq!(doomed(2).await, [a.clone(), b.clone()]);
    catalogue.postpone_doomed(store, &[a.clone(), "unknown".to_owned()], at(9)).await.unwrap();
    catalogue.postpone_doomed(StoreId(Uuid::from_u128(6)), std::slice::from_ref(&c), at(9)).await.unwrap();
    catalogue.postpone_doomed(store, &[], at(9)).await.unwrap();
    assert_eq!(doomed(9).await, [b.clone(), c.clone(), d.clone(), a.clone()]);
    catalogue.postpone_doomed(store, &[b.clone(), c.clone()], at(10)).await.unwrap();
    assert_eq!(doomed(2).await, [d.clone(), a.clone()]);
    catalogue.forget_doomed(store, std::slice::from_ref(&d)).await.unwrap();
    // They are nobody's, but they are known: all but those that were forgotten.
    assert_eq!(catalogue.list_unreferenced(store, &blobs).await.unwrap(), [d]);
    assert!(!catalogue.is_blob_referenced(store, &a).await.unwrap());
    assert_eq!(catalogue.list_unreferenced(StoreId(Uuid::from_u128(6)), &blobs).await.unwrap(), blobs);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn what_goes_at_once_and_what_does_not<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let active = added(&catalogue, image_row(tenant())).await;
    let purge =
        async |id, from_any_state| catalogue.purge_image(&tenant(), id, None, from_any_state, at(5)).await;
    assert_error!(purge(active.id, false).await, Error::State { what: WHAT });
    let stale = catalogue.purge_image(&tenant(), active.id, Some(9), true, at(5)).await;
    assert_error!(stale, Error::Stale { what: WHAT });
    let protect = |protected| ImageChange { protected: Some(protected), ..ImageChange::default() };
    catalogue.update_image(&tenant(), active.id, protect(true), None, at(2)).await.unwrap();
    assert_error!(purge(active.id, true).await, Error::Protected);
    catalogue.update_image(&tenant(), active.id, protect(false), None, at(3)).await.unwrap();
    purge(active.id, true).await.unwrap();

    // Protected in the trash: it was deleted before.
    let trashed = added(&catalogue, image_row(tenant())).await;
    catalogue.trash_image(&tenant(), trashed.id, None, at(3), at(9)).await.unwrap();
    catalogue.update_image(&tenant(), trashed.id, protect(true), None, at(4)).await.unwrap();
    purge(trashed.id, false).await.unwrap();

    let quarantined = added(&catalogue, image_row(tenant())).await;
    catalogue.quarantine_image(&tenant(), quarantined.id, failure(), at(3)).await.unwrap();
    assert_error!(purge(quarantined.id, false).await, Error::State { what: WHAT });
    purge(quarantined.id, true).await.unwrap();

    let uploading = new_row(catalogue.create_image(record_row(tenant()), false).await.unwrap());
    let upload = UploadRow { record: Some(uploading.id), ..upload_row(at(2)) };
    catalogue.create_upload(upload).await.unwrap();
    assert_error!(purge(uploading.id, false).await, Error::State { what: WHAT });
    purge(uploading.id, true).await.unwrap();
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap(), crate::Usage::default());
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn quarantine_outlives_the_trash<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let id = image.id;
    let quarantined = catalogue.quarantine_image(&tenant(), id, failure(), at(2)).await.unwrap();
    assert_eq!((quarantined.state, quarantined.revision), (ImageState::Quarantined, 2));
    let other = JobFailure { reason: "OTHER".to_owned(), ..failure() };
    let again = catalogue.quarantine_image(&tenant(), id, other, at(3)).await.unwrap();
    assert_eq!(again, quarantined);
    catalogue.trash_image(&tenant(), id, None, at(4), at(40)).await.unwrap();
    let wrong = catalogue.quarantine_image(&tenant(), id, failure(), at(5)).await;
    assert_error!(wrong, Error::State { what: WHAT });
    assert_error!(catalogue.release_image(&tenant(), id, at(5)).await, Error::State { what: WHAT });
    let restored = catalogue.restore_image(&tenant(), id, at(6)).await.unwrap();
    assert_eq!((restored.state, restored.quarantine.clone()), (ImageState::Quarantined, Some(failure())));
    assert_eq!(catalogue.restore_image(&tenant(), id, at(7)).await.unwrap(), restored);
    let released = catalogue.release_image(&tenant(), id, at(8)).await.unwrap();
    assert_eq!((released.state, released.quarantine.clone()), (ImageState::Active, None));
    assert_eq!(catalogue.release_image(&tenant(), id, at(9)).await.unwrap(), released);
    let foreign = catalogue.quarantine_image(&other_tenant(), id, failure(), at(9)).await;
    assert_error!(foreign, Error::NotFound { what: WHAT });
    let record = new_row(catalogue.create_image(record_row(tenant()), false).await.unwrap()).id;
    let empty = catalogue.quarantine_image(&tenant(), record, failure(), at(9)).await;
    assert_error!(empty, Error::State { what: WHAT });
    assert_sound::<D>(&catalogue).await;
}
