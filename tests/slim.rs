//! Slim companions: a compressed copy that stands beside its image, is not listed, was checked, and goes with it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use imageops::v1::{
    CheckOutcome, CompressRequest, DeleteImageRequest, DownloadImageRequest, GetImageRequest, Image,
    ImageSlim, ImageWork, ImageWorkState, Job, JobState, ListImagesRequest, UpdateImageRequest,
};
use imageops_client::Client;
use tonic::{Code, Status};

use support::http;
use support::images::{assert_same_content, have, qemu_img};
use support::jobs::{download, image, write_busy_disk};
use support::status::assert_status;
use support::upload::upload;
use support::{Service, wait_for};

fn slim_request(name: &str) -> CompressRequest {
    CompressRequest { source: image(name), companion: true, ..CompressRequest::default() }
}

async fn make_slim(client: &Client, name: &str) -> Result<Job, Status> {
    client.stub().compress(slim_request(name)).await.map(|answer| answer.into_inner().job.unwrap())
}

async fn work(client: &Client, name: &str) -> ImageWork {
    let request = GetImageRequest { name: name.to_owned() };
    client.images().get_image(request).await.unwrap().into_inner().work.unwrap()
}

async fn slim(client: &Client, name: &str) -> ImageSlim {
    work(client, name).await.slim.unwrap()
}

/// An uncompressed qcow2 image of a disk that takes its time, and its bytes.
fn qcow2(service: &Service) -> Vec<u8> {
    let (raw, qcow2) = (service.scratch().join("disk.raw"), service.scratch().join("disk.qcow2"));
    write_busy_disk(&raw, 16 << 20);
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()];
    assert!(qemu_img(arguments).status.success());
    fs::read(qcow2).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_one_slim_companion_and_takes_it_along() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let stored = upload(&client, &qcow2(&service)).await;
    assert_eq!(work(&client, &stored.name).await.slim, None);

    let job = make_slim(&client, &stored.name).await.unwrap();
    assert_eq!(slim(&client, &stored.name).await.state(), ImageWorkState::InProgress);
    let second = make_slim(&client, &stored.name).await.unwrap_err();
    assert_status(&second, Code::AlreadyExists, "SLIM_IN_PROGRESS");
    wait_for(&client, &job.name, JobState::Succeeded).await;
    let made = slim(&client, &stored.name).await;
    assert_eq!(
        (made.state(), &made.job, made.end_time.is_some()),
        (ImageWorkState::Succeeded, &job.name, true)
    );
    let third = make_slim(&client, &stored.name).await.unwrap_err();
    assert_status(&third, Code::AlreadyExists, "SLIM_EXISTS");

    let companion = client.get_image(&made.image).await.unwrap();
    assert_eq!((&companion.companion_of, &companion.derived_from), (&stored.name, &stored.name));
    assert!(companion.size_bytes < stored.size_bytes);
    let path = service.scratch().join("slim.qcow2");
    fs::write(&path, download(&client, &made.image).await).unwrap();
    assert_same_content(&service.scratch().join("disk.raw"), &path);
    let check = work(&client, &made.image).await.check.unwrap();
    let result = check.result.unwrap();
    assert_eq!((check.job, result.outcome()), (job.name.clone(), CheckOutcome::Consistent));
    assert_eq!(result.digests.unwrap().sha256, companion.digests.as_ref().unwrap().sha256);

    // It is not listed but on request, and not changed or deleted by itself.
    let listed = |request| async { client.list_images(request).await.unwrap() };
    assert_eq!(listed(ListImagesRequest::default()).await.images.len(), 1);
    let companions = ListImagesRequest { slim_companions: true, with_work: true, ..Default::default() };
    let companions = listed(companions).await;
    assert_eq!(companions.images, std::slice::from_ref(&companion));
    assert!(companions.works[0].check.as_ref().unwrap().result.is_some());
    let with_work = listed(ListImagesRequest { with_work: true, ..Default::default() }).await;
    assert_eq!(with_work.works[0].slim.as_ref().unwrap().image, made.image);
    let renamed =
        imageops::v1::Image { name: made.image.clone(), tags: vec!["x".into()], ..Default::default() };
    let request = UpdateImageRequest { image: Some(renamed), update_mask: None };
    let refused = client.images().update_image(request).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_IS_COMPANION");
    let delete =
        |name: &str, purge| DeleteImageRequest { name: name.to_owned(), purge, ..Default::default() };
    for purge in [false, true] {
        let refused = client.images().delete_image(delete(&made.image, purge)).await.unwrap_err();
        assert_status(&refused, Code::FailedPrecondition, "IMAGE_IS_COMPANION");
    }
    let refused = make_slim(&client, &made.image).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_IS_COMPANION");

    client.images().delete_image(delete(&stored.name, true)).await.unwrap();
    assert_eq!(service.blobs(), [""; 0]);
    let gone = client.images().get_image(GetImageRequest { name: made.image }).await.unwrap_err();
    assert_status(&gone, Code::NotFound, "IMAGE_NOT_FOUND");
}

#[tokio::test]
async fn what_cannot_be_slim_says_so_and_is_remembered() {
    let service = Service::start();
    let client = service.client();
    let stored = upload(&client, &vec![7; 100_000]).await;
    let only_asked = CompressRequest { validate_only: true, ..slim_request(&stored.name) };
    let refused = client.stub().compress(only_asked).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "SLIM_NOT_SUPPORTED");
    assert_eq!(work(&client, &stored.name).await.slim, None);

    let refused = make_slim(&client, &stored.name).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "SLIM_NOT_SUPPORTED");
    let slim = slim(&client, &stored.name).await;
    assert_eq!(
        (slim.state(), slim.error.unwrap().reason),
        (ImageWorkState::Failed, "SLIM_NOT_SUPPORTED".into())
    );

    service.place(&service.data_dir().join("worker-id"), "disk.raw");
    let of_a_file = CompressRequest {
        output_file: "out.qcow2".into(),
        source: support::jobs::file("disk.raw"),
        ..slim_request("")
    };
    let refused = client.stub().compress(of_a_file).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_slimming_can_be_asked_for_again() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start_with(&["--workers", "1", "--job-threads", "1"]);
    let client = service.client();
    let stored = upload(&client, &qcow2(&service)).await;
    let slow = CompressRequest { level: Some(12), ..slim_request(&stored.name) };
    let job = client.compress(slow).await.unwrap();
    wait_for(&client, &job.name, JobState::Running).await;
    client.cancel_job(&job.name).await.unwrap();
    wait_for(&client, &job.name, JobState::Cancelled).await;
    let slim = slim(&client, &stored.name).await;
    assert_eq!((slim.state(), slim.error.unwrap().reason), (ImageWorkState::Failed, "CANCELLED".into()));
    assert_eq!((service.blobs().len(), service.staged().len()), (1, 0));

    let job = make_slim(&client, &stored.name).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
    assert_eq!(service.blobs().len(), 2);
}

/// The same disk: what an image withholds its companions withhold as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_companion_is_as_closed_as_its_image() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let stored = upload(&client, &qcow2(&service)).await;
    let job = make_slim(&client, &stored.name).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
    let slim = slim(&client, &stored.name).await.image;
    let read = async || {
        let request = DownloadImageRequest { image: slim.clone(), ..DownloadImageRequest::default() };
        client.stub().download_image(request).await.map(drop)
    };
    read().await.unwrap();
    // In another format too, although a companion has no companion of its own.
    let raw = http::get(service.http(), &format!("/v1/{slim}/content?format=raw"));
    assert!(raw.status == 200 && raw.body == fs::read(service.scratch().join("disk.raw")).unwrap());
    let disabled = Image { name: stored.name.clone(), disabled: true, ..Image::default() };
    let update_mask = Some(imageops::FieldMask { paths: vec!["disabled".to_owned()] });
    let request = UpdateImageRequest { image: Some(disabled), update_mask };
    client.images().update_image(request).await.unwrap();
    assert_status(&read().await.unwrap_err(), Code::FailedPrecondition, "IMAGE_DISABLED");
}
