//! Images.

use super::*;

pub(crate) async fn blobs_are_referenced_by_store_and_key<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let upload = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap());
    let image = ImageRow { virtual_size_bytes: None, derived_from: None, ..image_row(tenant()) };
    assert!(!catalogue.is_blob_referenced(image.store, &image.blob).await.unwrap());
    catalogue.commit_upload(upload.id, image.clone(), at(1)).await.unwrap();
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), image);
    assert!(catalogue.is_blob_referenced(image.store, &image.blob).await.unwrap());
    assert!(!catalogue.is_blob_referenced(StoreId(Uuid::new_v4()), &image.blob).await.unwrap());
    assert!(!catalogue.is_blob_referenced(image.store, "another").await.unwrap());
    let missing = ImageId(Uuid::new_v4());
    assert_error!(catalogue.get_image(&tenant(), missing).await, Error::NotFound { what: "image" });
}
