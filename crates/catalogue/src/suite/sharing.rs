//! Bytes that several images are, and bytes that none is any more.

use imageops_model::CompanionKind;

use super::companions::accompanied;
use super::*;
use crate::{Companion, ImageOrder, JobOutcome};

/// Another image with the bytes of `image`, which came under a key of their own.
fn same_bytes(image: &ImageRow) -> ImageRow {
    ImageRow { sha256: image.sha256.clone(), size_bytes: image.size_bytes, ..image_row(image.tenant.clone()) }
}

fn blob(image: &ImageRow) -> &str {
    &image.replicas[0].blob
}

async fn doomed(catalogue: &impl Catalogue) -> Vec<String> {
    catalogue.list_doomed(replica(String::new()).store, 100).await.unwrap()
}

pub(crate) async fn equal_bytes_are_stored_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = added(&catalogue, image_row(tenant())).await;
    let came = same_bytes(&first);
    let second = added(&catalogue, came.clone()).await;
    assert_eq!(blob(&second), blob(&first));
    assert_eq!(doomed(&catalogue).await, [blob(&came)]);
    // Asked for by store: one that is away holds up no other.
    assert_eq!(catalogue.list_doomed(StoreId(Uuid::from_u128(6)), 100).await.unwrap(), [""; 0]);
    assert!(!catalogue.is_blob_referenced(came.replicas[0].store, blob(&came)).await.unwrap());
    // Each costs its owner what it is.
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.images, usage.bytes), (2, 2 * first.size_bytes));
    catalogue.forget_doomed(came.replicas[0].store, blob(&came)).await.unwrap();
    assert_eq!(doomed(&catalogue).await, [""; 0]);
    // The bytes go with the last one.
    catalogue.purge_image(&tenant(), first.id, None, true, at(3)).await.unwrap();
    assert_eq!(doomed(&catalogue).await, [""; 0]);
    assert!(catalogue.is_blob_referenced(second.replicas[0].store, blob(&second)).await.unwrap());
    catalogue.purge_image(&tenant(), second.id, None, true, at(4)).await.unwrap();
    assert_eq!(doomed(&catalogue).await, [blob(&first)]);
    // Another store, another length, another digest: other bytes.
    let third = added(&catalogue, image_row(tenant())).await;
    let mut elsewhere = same_bytes(&third);
    elsewhere.replicas[0].store = StoreId(Uuid::from_u128(6));
    let longer = ImageRow { size_bytes: third.size_bytes + 1, ..same_bytes(&third) };
    for other in [elsewhere, longer] {
        assert_eq!(added(&catalogue, other.clone()).await, other);
    }
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn what_jobs_make_is_stored_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = added(&catalogue, image_row(tenant())).await;
    let made = same_bytes(&first);
    let job = claimed(&catalogue, at(1)).await;
    let outcome = |image: &ImageRow| JobOutcome::Succeeded {
        result: "{}".into(),
        image: Some(image.clone()),
        replica: None,
    };
    catalogue.finish_job(job.id, 1, outcome(&made), 0, at(2)).await.unwrap();
    let second = catalogue.get_image(&tenant(), made.id).await.unwrap();
    assert_eq!((blob(&second), second.size_bytes), (blob(&first), made.size_bytes));
    assert_eq!(doomed(&catalogue).await, [blob(&made)]);
    for kind in [CompanionKind::Slim, CompanionKind::Conversion] {
        let companion = Companion { of: first.id, kind, key: None };
        let made = ImageRow { companion: Some(companion), ..same_bytes(&first) };
        let job = claimed(&catalogue, at(3)).await;
        catalogue.finish_job(job.id, 1, outcome(&made), 0, at(4)).await.unwrap();
        let companion = catalogue.get_image(&tenant(), made.id).await.unwrap();
        assert_eq!(blob(&companion), blob(&first), "{kind:?}");
        assert!(doomed(&catalogue).await.contains(&blob(&made).to_owned()), "{kind:?}");
    }
    assert_sound::<D>(&catalogue).await;
}

/// What takes another's place does not share what goes with that.
pub(crate) async fn equal_bytes_in_the_place_of_others_stay<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let source = added(&catalogue, image_row(tenant())).await;
    let first = accompanied(&catalogue, source.id, CompanionKind::Slim, None).await;
    let companion = first.companion.clone();
    let second = ImageRow { companion, ..same_bytes(&first) };
    let job = claimed(&catalogue, at(5)).await;
    let outcome = JobOutcome::Succeeded { result: "{}".into(), image: Some(second.clone()), replica: None };
    catalogue.finish_job(job.id, 1, outcome, 0, at(6)).await.unwrap();
    assert_eq!(catalogue.get_image(&tenant(), second.id).await.unwrap(), second);
    assert_eq!(doomed(&catalogue).await, [blob(&first)]);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn sec_29_bytes_are_never_shared_across_tenants<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let own = added(&catalogue, image_row(tenant())).await;
    let theirs = ImageRow { tenant: other_tenant(), ..same_bytes(&own) };
    assert_eq!(added(&catalogue, theirs.clone()).await, theirs);
    assert_eq!(doomed(&catalogue).await, [""; 0]);
    let again = ImageRow { tenant: other_tenant(), ..same_bytes(&own) };
    assert_eq!(blob(&added(&catalogue, again).await), blob(&theirs));
    assert_eq!(catalogue.find_conversion(&other_tenant(), "any").await.unwrap(), None);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn bytes_that_are_not_trusted_are_not_shared<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let bad = added(&catalogue, image_row(tenant())).await;
    catalogue.quarantine_image(&tenant(), bad.id, failure(), at(2)).await.unwrap();
    let fresh = same_bytes(&bad);
    assert_eq!(added(&catalogue, fresh.clone()).await, fresh);
    // Now there are good ones; what comes corrupt does not become them.
    let corrupt =
        ImageRow { state: ImageState::Quarantined, quarantine: Some(failure()), ..same_bytes(&bad) };
    assert_eq!(added(&catalogue, corrupt.clone()).await, corrupt);
    let store = fresh.replicas[0].store;
    catalogue.mark_damaged(store, blob(&fresh), failure(), at(3)).await.unwrap();
    let fresher = same_bytes(&bad);
    assert_eq!(added(&catalogue, fresher.clone()).await, fresher);
    assert_eq!(doomed(&catalogue).await, [""; 0]);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn doomed_bytes_are_never_named_again<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    catalogue.purge_image(&tenant(), image.id, None, true, at(2)).await.unwrap();
    let upload = new_row(catalogue.create_upload(upload_row(at(3))).await.unwrap()).id;
    let named = ImageRow { replicas: image.replicas.clone(), size_bytes: 1000, ..image_row(tenant()) };
    let refused = catalogue.commit_upload(upload, named.clone(), None, at(4)).await;
    assert_error!(refused, Error::Conflict { what: "blob" });
    // Once they are gone the key may come again.
    catalogue.forget_doomed(image.replicas[0].store, blob(&image)).await.unwrap();
    catalogue.commit_upload(upload, named, None, at(5)).await.unwrap();
    let page = crate::ImagePage { order: ImageOrder::Newest, limit: 10, after: None };
    assert_eq!(catalogue.list_images(&tenant(), &Default::default(), page).await.unwrap().len(), 1);
    assert_sound::<D>(&catalogue).await;
}
