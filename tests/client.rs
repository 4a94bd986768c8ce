//! The Rust client on calls that the other tests do not make with it: parts, records, stores, quotas.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Cursor;

use imageops::v1::{
    Archive, ConvertRequest, DirectoryPlace, Image, ImageFormat, ImageState, Job, JobState, SetQuotaRequest,
    Store, UpdateStoreRequest, UploadMetadata, UploadState, store,
};
use imageops_client::{Client, UploadOptions};
use support::jobs::{download, ended, image};
use support::{Service, fixtures};

/// The job at its end, which must be a good one.
async fn succeeded(client: &Client, job: &Job) -> Job {
    let job = ended(client, &job.name).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    job
}

#[tokio::test]
async fn parts_are_uploaded_and_composed() {
    let service = Service::start();
    let client = service.client();
    let data = fixtures::raw("parts of a client");
    for (number, part) in (1..).zip(data.chunks(30_000)) {
        let mut source = Cursor::new(part);
        let options = UploadOptions { id: Some(uuid::Uuid::new_v4()), ..UploadOptions::default() };
        // The second time it is there already, as after a lost answer.
        for _ in 0..2 {
            let part = client.upload_part(&mut source, "s", number, &options, |_| {}).await.unwrap();
            assert_eq!((part.state(), part.part), (UploadState::Stored, number));
        }
    }
    assert_eq!(client.list_parts("s").await.unwrap().len(), 3);
    let wished = UploadMetadata {
        session: "s".to_owned(),
        request_id: uuid::Uuid::new_v4().to_string(),
        display_name: "composed".to_owned(),
        ..UploadMetadata::default()
    };
    let composed = client.compose_image(wished.clone()).await.unwrap().image.unwrap();
    assert_eq!(download(&client, &composed.name).await, data);
    assert_eq!(client.compose_image(wished).await.unwrap().image.unwrap().name, composed.name, "asked again");
    let mut source = Cursor::new(b"x");
    client.upload_part(&mut source, "t", 1, &UploadOptions::default(), |_| {}).await.unwrap();
    assert_eq!(client.abort_session("t").await.unwrap(), 1);
    assert_eq!(client.abort_session("t").await.unwrap(), 0);
}

#[tokio::test]
async fn records_are_made_filled_converted_and_gone() {
    let service = Service::start();
    let client = service.client();
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let Some(zip) = fixtures::zip(service.scratch(), &[("disk.qcow2", &good)]) else { return };
    let record =
        client.create_image(Image { display_name: "later".to_owned(), ..Image::default() }).await.unwrap();
    assert_eq!(record.state(), ImageState::Queued);
    let options = UploadOptions {
        record: record.name.clone(),
        archive: Archive::Zip,
        check: Some(true),
        sha512: true,
        ..UploadOptions::default()
    };
    let uploaded = client.upload(&mut Cursor::new(zip), &options, |_| {}).await.unwrap();
    assert_eq!((&uploaded.image.name, uploaded.image.display_name.as_str()), (&record.name, "later"));
    assert_eq!(uploaded.image.digests.unwrap().sha512.len(), 128);
    assert_eq!(download(&client, &record.name).await, good);
    let check = client.get_image_work(&record.name).await.unwrap().check.unwrap();
    ended(&client, &check.job).await;

    let request = ConvertRequest {
        source: image(&record.name),
        format: ImageFormat::Raw.into(),
        ..ConvertRequest::default()
    };
    succeeded(&client, &client.convert(request).await.unwrap()).await;
    client.delete_image_for_good(&record.name, "").await.unwrap();
    let gone = client.get_image(&record.name).await.unwrap_err();
    assert_eq!(gone.reason(), "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn stores_and_quotas() {
    let roots = tempfile::tempdir().unwrap();
    let service = Service::start_with(&["--store-roots", roots.path().to_str().unwrap()]);
    let client = service.client();
    let path = roots.path().join("fast").to_str().unwrap().to_owned();
    let fast = Store {
        display_name: "fast".to_owned(),
        place: Some(store::Place::Directory(DirectoryPlace { path })),
        ..Store::default()
    };
    let fast = client.register_store(fast).await.unwrap();
    let change = Store { name: fast.name.clone(), description: "hot".to_owned(), ..Store::default() };
    let request = UpdateStoreRequest { store: Some(change), update_mask: None };
    assert_eq!(client.update_store(request).await.unwrap().description, "hot");
    assert_eq!(client.list_stores().await.unwrap().len(), 2);

    let options = UploadOptions { store: "fast".to_owned(), ..UploadOptions::default() };
    let mut source = Cursor::new(fixtures::raw("in a store"));
    let uploaded = client.upload(&mut source, &options, |_| {}).await.unwrap().image;
    assert_eq!(uploaded.replicas[0].store, fast.name);
    succeeded(&client, &client.scrub_store("fast").await.unwrap()).await;
    succeeded(&client, &client.copy_image(&uploaded.name, "").await.unwrap()).await;
    let left = client.remove_replica(&uploaded.name, "fast", "").await.unwrap();
    assert!(left.replicas.len() == 1 && left.replicas[0].store != fast.name);
    succeeded(&client, &client.drain_store("fast").await.unwrap()).await;
    client.remove_store("fast").await.unwrap();
    assert_eq!(client.get_store("fast").await.unwrap_err().reason(), "STORE_NOT_FOUND");

    let usage = client.get_usage("").await.unwrap();
    assert_eq!((usage.images, usage.bytes), (1, 65_536));
    let quota = SetQuotaRequest { tenant: usage.tenant, images_max: Some(5), bytes_max: None };
    assert_eq!(client.set_quota(quota).await.unwrap().unwrap().images_max, Some(5));
    assert_eq!(client.set_quota(SetQuotaRequest::default()).await.unwrap(), None);
}
