//! Records of images, and the uploads that fill them.

use std::sync::Arc;

use super::*;

const WHAT: &str = "image";

/// The record of an image to be.
pub(crate) fn record_row(owner: Tenant) -> ImageRow {
    ImageRow {
        state: ImageState::Queued,
        label: Label::new("to be filled").unwrap(),
        format: String::new(),
        size_bytes: 0,
        virtual_size_bytes: None,
        md5: String::new(),
        sha256: String::new(),
        sha512: None,
        crc32: None,
        replicas: Vec::new(),
        derived_from: None,
        details: ImageDetails { description: "said before".to_owned(), ..ImageDetails::default() },
        ..image_row(owner)
    }
}

async fn recorded(catalogue: &impl Catalogue) -> ImageRow {
    new_row(catalogue.create_image(record_row(tenant()), false).await.unwrap())
}

fn filling(record: ImageId) -> UploadRow {
    UploadRow { record: Some(record), ..upload_row(at(2)) }
}

pub(crate) async fn an_upload_fills_a_record<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let asked = record_row(tenant());
    let record = new_row(catalogue.create_image(asked.clone(), false).await.unwrap());
    assert_eq!(record, asked);
    assert_eq!(existing_row(catalogue.create_image(asked.clone(), false).await.unwrap()), record);
    for other in [
        ImageRow { label: Label::default(), ..asked.clone() },
        ImageRow { details: ImageDetails::default(), ..asked.clone() },
        ImageRow { tenant: other_tenant(), ..asked.clone() },
    ] {
        assert_error!(catalogue.create_image(other, true).await, Error::Conflict { what: WHAT });
    }
    let upload = new_row(catalogue.create_upload(filling(record.id)).await.unwrap());
    let uploading = catalogue.get_image(&tenant(), record.id).await.unwrap();
    assert_eq!((uploading.state, uploading.upload), (ImageState::Uploading, Some(upload.id)));
    assert_eq!((uploading.revision, uploading.update_time), (2, at(2)));
    let second = catalogue.create_upload(filling(record.id)).await;
    assert_error!(second, Error::State { what: WHAT });
    // What is said of it can be changed meanwhile.
    let change = crate::ImageChange { enabled: Some(false), ..Default::default() };
    catalogue.update_image(&tenant(), record.id, change, None, at(3)).await.unwrap();
    let other = catalogue.commit_upload(upload.id, image_row(tenant()), None, None, at(4)).await;
    assert_error!(other, Error::Conflict { what: WHAT });
    let bytes = ImageRow { id: record.id, ..image_row(tenant()) };
    let committed = catalogue.commit_upload(upload.id, bytes.clone(), None, None, at(4)).await.unwrap();
    let expected = ImageRow {
        label: asked.label.clone(),
        details: asked.details.clone(),
        enabled: false,
        create_time: asked.create_time,
        revision: 4,
        update_time: at(4),
        ..bytes
    };
    assert_eq!(committed.image, expected);
    assert_eq!(catalogue.get_image(&tenant(), record.id).await.unwrap(), expected);
    assert_eq!(committed.upload.image, Some(record.id));
    let third = catalogue.create_upload(filling(record.id)).await;
    assert_error!(third, Error::State { what: WHAT });
    // No longer a record: the same request is another one now.
    assert_error!(catalogue.create_image(asked, false).await, Error::Conflict { what: WHAT });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_record_is_queued_again_when_its_upload_ends<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let record = recorded(&catalogue).await;
    for n in 0..3 {
        let upload = new_row(catalogue.create_upload(filling(record.id)).await.unwrap()).id;
        match n {
            0 => drop(catalogue.abort_upload(&tenant(), upload, at(3)).await.unwrap()),
            1 => drop(catalogue.fail_upload(upload, failure(), at(3)).await.unwrap()),
            _ => assert_eq!(catalogue.expire_uploads(at(100), at(0)).await.unwrap(), [upload]),
        }
        let again = catalogue.get_image(&tenant(), record.id).await.unwrap();
        assert_eq!((again.state, again.upload), (ImageState::Queued, None));
    }
    let missing = catalogue.create_upload(filling(missing_image())).await;
    assert_error!(missing, Error::NotFound { what: WHAT });
    let foreign = UploadRow { tenant: other_tenant(), ..filling(record.id) };
    assert_error!(catalogue.create_upload(foreign).await, Error::NotFound { what: WHAT });
    let state = catalogue.trash_image(&tenant(), record.id, None, at(4), at(5)).await;
    assert_error!(state, Error::State { what: WHAT });
    // There is nothing to be restored, so it goes at once.
    catalogue.purge_image(&tenant(), record.id, None, false, at(4)).await.unwrap();
    assert_error!(catalogue.get_image(&tenant(), record.id).await, Error::NotFound { what: WHAT });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn one_of_many_uploads_fills_a_record<D: Database>() {
    let database = D::new();
    let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let record = recorded(&*handles[0]).await.id;
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let catalogue = Arc::clone(&handles[n % 2]);
            tokio::spawn(async move { catalogue.create_upload(filling(record)).await })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(created) => winners.push(new_row(created).id),
            Err(Error::State { what: WHAT }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    let image = handles[1].get_image(&tenant(), record).await.unwrap();
    assert_eq!(winners, [image.upload.unwrap()]);
    assert_sound::<D>(&handles[0]).await;
}

pub(crate) async fn an_id_is_retaken_by_its_owner_alone<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let record = recorded(&catalogue).await;
    catalogue.purge_image(&tenant(), record.id, None, false, at(2)).await.unwrap();
    let again = ImageRow { id: record.id, ..record_row(tenant()) };
    assert_error!(catalogue.create_image(again.clone(), false).await, Error::Conflict { what: WHAT });
    let foreign = ImageRow { id: record.id, ..record_row(other_tenant()) };
    assert_error!(catalogue.create_image(foreign, true).await, Error::Conflict { what: WHAT });
    assert_eq!(new_row(catalogue.create_image(again.clone(), true).await.unwrap()), again);
    // And gone once more.
    catalogue.purge_image(&tenant(), record.id, None, false, at(3)).await.unwrap();
    assert_error!(catalogue.create_image(again, false).await, Error::Conflict { what: WHAT });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn what_came_corrupt_goes_into_quarantine<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let record = recorded(&catalogue).await;
    let upload = new_row(catalogue.create_upload(filling(record.id)).await.unwrap()).id;
    let corrupt = ImageRow {
        id: record.id,
        state: ImageState::Quarantined,
        quarantine: Some(failure()),
        ..image_row(tenant())
    };
    let filled = catalogue.commit_upload(upload, corrupt, None, None, at(4)).await.unwrap().image;
    assert_eq!((filled.state, filled.quarantine), (ImageState::Quarantined, Some(failure())));
    let corrupt =
        ImageRow { state: ImageState::Quarantined, quarantine: Some(failure()), ..image_row(tenant()) };
    let made = added(&catalogue, corrupt.clone()).await;
    assert_eq!(made, corrupt);
    let released = catalogue.release_image(&tenant(), made.id, at(5)).await.unwrap();
    assert_eq!((released.state, released.quarantine, released.revision), (ImageState::Active, None, 2));
    assert_sound::<D>(&catalogue).await;
}
