//! Bytes that several images are, and bytes that none is any more.

use super::*;
use crate::{ImageOrder, Result};

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

/// Commits an upload of `image`, which names the blobs of `shares`.
async fn commit_shared(
    catalogue: &impl Catalogue,
    image: &ImageRow,
    shares: Option<ImageId>,
) -> Result<crate::Committed> {
    let upload = UploadRow { tenant: image.tenant.clone(), ..upload_row(at(0)) };
    let upload = new_row(catalogue.create_upload(upload).await.unwrap());
    catalogue.commit_upload(upload.id, image.clone(), shares, None, at(1)).await
}

/// Another image with the bytes of `image`, in the same blob.
fn shared(image: &ImageRow) -> ImageRow {
    ImageRow { replicas: image.replicas.clone(), ..same_bytes(image) }
}

async fn find_same(catalogue: &impl Catalogue, image: &ImageRow) -> Option<ImageId> {
    let store = image.replicas[0].store;
    let same = catalogue.find_same(&image.tenant, &image.sha256, image.size_bytes, store).await.unwrap();
    same.map(|(image, _)| image)
}

pub(crate) async fn equal_bytes_are_stored_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = added(&catalogue, image_row(tenant())).await;
    let store = first.replicas[0].store;
    let same = catalogue.find_same(&tenant(), &first.sha256, first.size_bytes, store).await.unwrap();
    assert_eq!(same, Some((first.id, blob(&first).to_owned())));
    let second = commit_shared(&catalogue, &shared(&first), Some(first.id)).await.unwrap().image;
    assert_eq!(blob(&second), blob(&first));
    // Each costs its owner what it is.
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.images, usage.bytes), (2, 2 * first.size_bytes));
    // The bytes go with the last one.
    catalogue.purge_image(&tenant(), first.id, None, true, at(3)).await.unwrap();
    assert_eq!(doomed(&catalogue).await, [""; 0]);
    assert!(catalogue.is_blob_referenced(store, blob(&second)).await.unwrap());
    assert_eq!(find_same(&catalogue, &first).await, Some(second.id));
    // Asked for by store: one that is away holds up no other.
    catalogue.purge_image(&tenant(), second.id, None, true, at(4)).await.unwrap();
    assert_eq!(doomed(&catalogue).await, [blob(&first)]);
    assert_eq!(catalogue.list_doomed(StoreId(Uuid::from_u128(6)), 100).await.unwrap(), [""; 0]);
    assert_eq!(find_same(&catalogue, &first).await, None);
    // Another store, another length, another digest: other bytes.
    let third = added(&catalogue, image_row(tenant())).await;
    let mut elsewhere = same_bytes(&third);
    elsewhere.replicas[0].store = StoreId(Uuid::from_u128(6));
    let longer = ImageRow { size_bytes: third.size_bytes + 1, ..same_bytes(&third) };
    for other in [elsewhere, longer, image_row(tenant())] {
        assert_eq!(find_same(&catalogue, &other).await, None);
    }
    assert_sound::<D>(&catalogue).await;
}

/// Bytes that went meanwhile, or are others, are not named: not even when nobody remembers that they were doomed.
pub(crate) async fn bytes_that_went_are_not_shared<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = added(&catalogue, image_row(tenant())).await;
    let other = added(&catalogue, image_row(tenant())).await;
    let longer = ImageRow { size_bytes: first.size_bytes + 1, ..shared(&first) };
    for (image, shares) in [(shared(&first), other.id), (same_bytes(&first), first.id), (longer, first.id)] {
        let refused = commit_shared(&catalogue, &image, Some(shares)).await;
        assert_error!(refused, Error::Conflict { what: "blob" });
    }
    let late = shared(&first);
    catalogue.purge_image(&tenant(), first.id, None, true, at(3)).await.unwrap();
    catalogue.forget_doomed(first.replicas[0].store, &[blob(&first).to_owned()]).await.unwrap();
    let refused = commit_shared(&catalogue, &late, Some(first.id)).await;
    assert_error!(refused, Error::Conflict { what: "blob" });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn sec_29_bytes_are_never_shared_across_tenants<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let own = added(&catalogue, image_row(tenant())).await;
    let theirs = ImageRow { tenant: other_tenant(), ..same_bytes(&own) };
    assert_eq!(find_same(&catalogue, &theirs).await, None);
    let stolen = ImageRow { tenant: other_tenant(), ..shared(&own) };
    let refused = commit_shared(&catalogue, &stolen, Some(own.id)).await;
    assert_error!(refused, Error::Conflict { what: "blob" });
    let theirs = added(&catalogue, theirs).await;
    assert_eq!(find_same(&catalogue, &theirs).await, Some(theirs.id));
    assert_eq!(find_same(&catalogue, &own).await, Some(own.id));
    assert_eq!(catalogue.find_conversion(&other_tenant(), "any").await.unwrap(), None);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn bytes_that_are_not_trusted_are_not_shared<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let bad = added(&catalogue, image_row(tenant())).await;
    catalogue.quarantine_image(&tenant(), bad.id, failure(), at(2)).await.unwrap();
    assert_eq!(find_same(&catalogue, &bad).await, None);
    let refused = commit_shared(&catalogue, &shared(&bad), Some(bad.id)).await;
    assert_error!(refused, Error::Conflict { what: "blob" });
    let fresh = added(&catalogue, same_bytes(&bad)).await;
    assert_eq!(find_same(&catalogue, &bad).await, Some(fresh.id));
    // What comes corrupt does not become the bytes of a good one.
    let corrupt = ImageRow { state: ImageState::Quarantined, quarantine: Some(failure()), ..shared(&fresh) };
    let refused = commit_shared(&catalogue, &corrupt, Some(fresh.id)).await;
    assert_error!(refused, Error::Conflict { what: "blob" });
    catalogue.mark_damaged(fresh.replicas[0].store, blob(&fresh), failure(), at(3)).await.unwrap();
    assert_eq!(find_same(&catalogue, &fresh).await, None);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn doomed_bytes_are_never_named_again<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    catalogue.purge_image(&tenant(), image.id, None, true, at(2)).await.unwrap();
    let upload = new_row(catalogue.create_upload(upload_row(at(3))).await.unwrap()).id;
    let named = ImageRow { replicas: image.replicas.clone(), size_bytes: 1000, ..image_row(tenant()) };
    let refused = catalogue.commit_upload(upload, named.clone(), None, None, at(4)).await;
    assert_error!(refused, Error::Conflict { what: "blob" });
    // Once they are gone the key may come again.
    catalogue.forget_doomed(image.replicas[0].store, &[blob(&image).to_owned()]).await.unwrap();
    catalogue.commit_upload(upload, named, None, None, at(5)).await.unwrap();
    let page = crate::ImagePage { order: ImageOrder::Newest, limit: 10, after: None };
    assert_eq!(catalogue.list_images(&tenant(), &Default::default(), page).await.unwrap().len(), 1);
    assert_sound::<D>(&catalogue).await;
}
