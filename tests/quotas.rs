//! What a tenant may have is kept, whoever comes by whatever road at the same time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use imageops::v1::{
    CompressRequest, CreateImageRequest, DeleteImageRequest, GetUsageRequest, Image, ImageState, JobState,
    ListImagesRequest, SetQuotaRequest, Usage,
};
use imageops_client::Client;
use tonic::Code;

use support::Service;
use support::jobs::{ended, failed, image};
use support::random::Random;
use support::status::{assert_status, detail};
use support::upload::{metadata, try_upload, upload};

/// The tenant of everyone without keys.
const BUILT_IN: &str = "36c27e8ff05c4780bf6d2fa65700f22e";

async fn set(client: &Client, images_max: Option<u64>, bytes_max: Option<u64>) -> Usage {
    let request = SetQuotaRequest { tenant: BUILT_IN.to_owned(), images_max, bytes_max };
    client.images().set_quota(request).await.unwrap().into_inner().usage.unwrap()
}

async fn usage(client: &Client) -> Usage {
    client.images().get_usage(GetUsageRequest::default()).await.unwrap().into_inner().usage.unwrap()
}

fn record(name: &str) -> CreateImageRequest {
    let image = Image { display_name: name.to_owned(), ..Image::default() };
    CreateImageRequest { image: Some(image) }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_14_of_many_at_once_as_many_pass_as_fit() {
    let service = Service::start();
    let client = service.client();
    assert_eq!(set(&client, Some(10), None).await.images_max, Some(10));
    let all = (0..32).map(|number| {
        let client = client.clone();
        async move { client.images().create_image(record(&number.to_string())).await }
    });
    let (passed, refused): (Vec<_>, Vec<_>) =
        futures::future::join_all(all).await.into_iter().partition(Result::is_ok);
    assert_eq!((passed.len(), refused.len()), (10, 22));
    for refused in refused {
        let refused = refused.unwrap_err();
        assert_status(&refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
        assert_eq!(detail(&refused, "limit").as_deref(), Some("10"));
    }
    assert_eq!(usage(&client).await.images, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_14_bytes_are_held_before_they_come_and_freed_when_they_go() {
    let service = Service::start();
    let client = service.client();
    set(&client, None, Some(250_000)).await;
    let stored = upload(&client, &vec![1; 100_000]).await;
    let used = usage(&client).await;
    assert_eq!((used.images, used.bytes, used.bytes_max), (1, 100_000, Some(250_000)));

    // What is declared is refused before a byte comes.
    let mut large = metadata("too large");
    large.size_bytes = Some(150_001);
    let refused = try_upload(&client, &large, &[]).await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert_eq!(usage(&client).await.reserved_bytes, 0);

    let delete = DeleteImageRequest { name: stored.name, purge: true, ..Default::default() };
    client.images().delete_image(delete).await.unwrap();
    assert_eq!((usage(&client).await.images, usage(&client).await.bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_14_uploads_of_unknown_length_hold_what_came() {
    let service = Service::start();
    let client = service.client();
    set(&client, None, Some(10 * 100_000)).await;
    let all = (0..64_u8).map(|number| {
        let client = client.clone();
        async move {
            let mut metadata = metadata("of unknown length");
            metadata.size_bytes = None;
            try_upload(&client, &metadata, &[number; 100_000]).await
        }
    });
    let (passed, refused): (Vec<_>, Vec<_>) =
        futures::future::join_all(all).await.into_iter().partition(Result::is_ok);
    for refused in &refused {
        assert_status(refused.as_ref().unwrap_err(), Code::ResourceExhausted, "QUOTA_EXCEEDED");
    }
    let used = usage(&client).await;
    assert_eq!((passed.len(), refused.len(), used.bytes), (10, 54, 10 * 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_14_what_a_job_makes_counts_and_nothing_stays_of_what_is_too_much() {
    let service = Service::start();
    let client = service.client();
    // Noise: compressed it is longer than it was, by the tables of its container.
    let stored = upload(&client, &Random::new("quotas").bytes(1 << 20)).await;
    let compress = || CompressRequest { source: image(&stored.name), ..CompressRequest::default() };

    // The job itself is refused where its output would find no room.
    set(&client, None, Some((2 << 20) - 1)).await;
    let refused = client.stub().compress(compress()).await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    set(&client, Some(1), None).await;
    let refused = client.stub().compress(compress()).await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");

    // What it made is refused where it is longer than was held for it.
    set(&client, None, Some(2 << 20)).await;
    let job = client.compress(compress()).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, "QUOTA_EXCEEDED");
    assert_eq!((service.blobs().len(), service.staged().len()), (1, 0));
    let used = usage(&client).await;
    assert_eq!((used.images, used.bytes, used.reserved_bytes), (1, 1 << 20, 0));

    set(&client, None, None).await;
    let job = ended(&client, &client.compress(compress()).await.unwrap().name).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    let used = usage(&client).await;
    assert_eq!((used.images, used.reserved_bytes), (2, 0));
    assert!(used.bytes > 2 << 20);
}

#[tokio::test]
async fn a_record_waits_for_its_bytes() {
    let service = Service::start();
    let client = service.client();
    let wanted = format!("images/{}", uuid::Uuid::new_v4());
    let mut request = record("to be");
    request.image.as_mut().unwrap().name.clone_from(&wanted);
    let made = client.images().create_image(request.clone()).await.unwrap().into_inner().image.unwrap();
    assert_eq!((&made.name, made.state(), made.size_bytes), (&wanted, ImageState::Queued, 0));
    let again = client.images().create_image(request.clone()).await.unwrap().into_inner().image.unwrap();
    assert_eq!(again, made);
    request.image.as_mut().unwrap().display_name = "another".to_owned();
    let refused = client.images().create_image(request).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "IMAGE_EXISTS");
    let listed = client.list_images(ListImagesRequest::default()).await.unwrap().images;
    assert_eq!(listed, std::slice::from_ref(&made));

    // An upload fills it; what was said of it stays.
    let mut metadata = metadata("");
    metadata.image.clone_from(&wanted);
    let filled = try_upload(&client, &metadata, &[9; 5_000]).await.unwrap();
    assert_eq!((&filled.name, filled.state(), filled.size_bytes), (&wanted, ImageState::Active, 5_000));
    assert_eq!(filled.display_name, "to be");

    let hidden = ListImagesRequest { hidden: Some(true), ..ListImagesRequest::default() };
    assert_eq!(client.list_images(hidden).await.unwrap().images, []);

    let delete = DeleteImageRequest { name: wanted.clone(), purge: true, ..Default::default() };
    client.images().delete_image(delete).await.unwrap();
    let mut request = record("to be");
    request.image.as_mut().unwrap().name = wanted;
    let gone = client.images().create_image(request).await.unwrap_err();
    assert_status(&gone, Code::AlreadyExists, "IMAGE_EXISTS");
}
