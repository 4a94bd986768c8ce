//! What an import of an older installation asks for.

use imageops_model::CompanionKind;

use super::*;
use crate::{Companion, LastSlim, Quota};

/// Commits an image in an upload of its own.
async fn brought(catalogue: &impl Catalogue, image: &ImageRow) -> (UploadId, crate::Result<ImageRow>) {
    let upload = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap());
    let committed = catalogue.commit_upload(upload.id, image.clone(), None, None, at(7)).await;
    (upload.id, committed.map(|committed| committed.image))
}

fn slim_of(of: ImageId) -> ImageRow {
    let companion = Companion { of, kind: CompanionKind::Slim, key: None };
    ImageRow { companion: Some(companion), derived_from: Some(of), size_bytes: 100, ..image_row(tenant()) }
}

pub(crate) async fn an_upload_brings_a_slim_companion<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = ImageRow { size_bytes: 1000, create_time: at(-500), ..image_row(tenant()) };
    brought(&catalogue, &image).await.1.unwrap();
    let slim = slim_of(image.id);
    let (upload, made) = brought(&catalogue, &slim).await;
    assert_eq!(made.unwrap(), slim);
    let remembered =
        LastSlim { job: JobId(upload.0), image: Some(slim.id), failure: None, time: Some(at(7)) };
    let expected = ImageRow { slim: Some(remembered), ..image.clone() };
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), expected);
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.images, usage.bytes), (1, 1100));

    // Another one takes its place; one that does not fit, or stands beside nothing, changes nothing.
    let next = slim_of(image.id);
    brought(&catalogue, &next).await.1.unwrap();
    assert_error!(catalogue.get_image(&tenant(), slim.id).await, Error::NotFound { .. });
    let missing = slim_of(ImageId(Uuid::new_v4()));
    assert_error!(brought(&catalogue, &missing).await.1, Error::NotFound { what: "image" });
    assert_error!(brought(&catalogue, &slim_of(next.id)).await.1, Error::State { what: "image" });
    // Each upload holds 1,000 bytes, those that failed to commit as well.
    let quota = Quota { images_max: None, bytes_max: Some(usage.bytes + 3_000) };
    catalogue.set_quota(Some(&tenant()), Some(quota)).await.unwrap();
    let large = ImageRow { size_bytes: 5_000, ..slim_of(image.id) };
    assert_error!(brought(&catalogue, &large).await.1, Error::QuotaExceeded { what: "bytes", .. });
    let kept = catalogue.get_image(&tenant(), image.id).await.unwrap().slim.unwrap();
    assert_eq!(kept.image, Some(next.id));

    // It goes with its source.
    catalogue.purge_image(&tenant(), image.id, None, true, at(9)).await.unwrap();
    assert_error!(catalogue.get_image(&tenant(), next.id).await, Error::NotFound { .. });
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.images, usage.bytes), (0, 0));
}

pub(crate) async fn the_id_of_a_purged_image_is_known_to_be_taken<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = image_row(tenant());
    brought(&catalogue, &image).await.1.unwrap();
    assert!(!catalogue.is_image_retired(&tenant(), image.id).await.unwrap());
    catalogue.purge_image(&tenant(), image.id, None, true, at(9)).await.unwrap();
    assert!(catalogue.is_image_retired(&tenant(), image.id).await.unwrap());
    assert!(!catalogue.is_image_retired(&other_tenant(), image.id).await.unwrap());
}
