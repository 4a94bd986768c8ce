//! A server whose images lie in a bucket.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CheckRequest, CompressRequest, DeleteImageRequest, JobState, RemoveReplicaRequest, ReplicaState,
};
use support::http::{get, request};
use support::images::{have, qemu_img};
use support::jobs::{download, image, write_busy_disk};
use support::object_store::ObjectStore;
use support::stores::{copies, copy, store};
use support::upload::{Stream, checked_digests, digests, metadata, upload};
use support::{Service, names_in, wait_for};

/// A bucket and a server that keeps its images there, by the name `bucket`.
fn start() -> Option<(ObjectStore, Service)> {
    let bucket = ObjectStore::start()?;
    let address = bucket.address;
    let service = Service::start_changed(|setup| ObjectStore::serve(setup, "bucket", address));
    Some((bucket, service))
}

/// A qcow2 image as `qemu-img` writes it, and the disk in it.
fn disk(service: &Service) -> (Vec<u8>, Vec<u8>) {
    let (raw, qcow2) = (service.scratch().join("disk.raw"), service.scratch().join("disk.qcow2"));
    write_busy_disk(&raw, 24 << 20);
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()];
    assert!(qemu_img(arguments).status.success());
    (std::fs::read(qcow2).unwrap(), std::fs::read(raw).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_in_a_bucket_are_served_like_all_others() {
    let Some((bucket, mut service)) = start() else { return };
    if !have("qemu-img") {
        return;
    }
    let (data, raw) = disk(&service);
    let client = service.client();
    let stored = upload(&client, &data).await;
    let held = copies(&service, &stored).await;
    assert_eq!(held, [("bucket".to_owned(), ReplicaState::Ready)]);
    assert_eq!((bucket.blobs().len(), service.blobs().len()), (1, 0), "no byte of it lies here");

    // All of it, a range of it, and what a conversion makes of it.
    assert!(download(&client, &stored.name).await == data);
    let path = format!("/v1/{}", stored.name);
    let range = ("range", "bytes=1000000-2999999");
    let part = request(service.http(), "GET", &format!("{path}/content"), &[range], &[]);
    assert_eq!((part.status, &part.body[..]), (206, &data[1_000_000..3_000_000]));
    assert!(get(service.http(), &format!("{path}/content?format=raw")).body == raw);

    // A check and a compression read it where it lies; what is made goes there as well.
    let check =
        client.check(CheckRequest { source: image(&stored.name), ..Default::default() }).await.unwrap();
    let check = wait_for(&client, &check.name, JobState::Succeeded).await;
    let Some(JobResult::Check(result)) = check.result else { panic!("{check:?}") };
    assert_eq!(result.digests, Some(checked_digests(&data)));
    let compress = CompressRequest { source: image(&stored.name), ..CompressRequest::default() };
    let compress = client.compress(compress).await.unwrap();
    let compress = wait_for(&client, &compress.name, JobState::Succeeded).await;
    let Some(JobResult::Compress(made)) = compress.result else { panic!("{compress:?}") };
    let bytes = download(&client, &made.output_image).await;
    assert_eq!(made.digests, Some(digests(&bytes)));
    assert_eq!((bucket.blobs().len(), service.blobs().len()), (3, 0));

    // A server that dies and comes back finds all of it.
    service.restart();
    let client = service.client();
    assert!(download(&client, &stored.name).await == data);

    // What goes, goes from the bucket.
    for name in [stored.name, made.output_image] {
        let delete = DeleteImageRequest { name, purge: true, ..DeleteImageRequest::default() };
        client.images().delete_image(delete).await.unwrap();
    }
    assert_eq!(bucket.blobs(), [""; 0]);
    assert_eq!(store(&service, "bucket").await.images, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_moves_between_a_bucket_and_a_directory() {
    let Some((bucket, service)) = start() else { return };
    let client = service.client();
    let data = support::random::Random::new("moves").bytes(20 << 20);
    let stored = upload(&client, &data).await;
    for (to, from, left) in [("default", "bucket", (0, 1)), ("bucket", "default", (1, 0))] {
        let job = copy(&client, &stored.name, to).await;
        wait_for(&client, &job.name, JobState::Succeeded).await;
        let remove =
            RemoveReplicaRequest { name: stored.name.clone(), store: from.to_owned(), ..Default::default() };
        client.images().remove_replica(remove).await.unwrap();
        assert_eq!((bucket.blobs().len(), service.blobs().len()), left);
        assert!(download(&client, &stored.name).await == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_a_bucket_outlives_a_kill() {
    let Some((bucket, mut service)) = start() else { return };
    let data = support::random::Random::new("outlives").bytes(12 << 20);
    let metadata = metadata("goes on");
    let stream = Stream::begin(&service.client(), &metadata).await;
    stream.chunks(0, &data[..8 << 20]).await;
    let durable_bytes = stream.close().await.unwrap().upload.unwrap().durable_bytes;
    assert_eq!(durable_bytes, 8 << 20);
    service.restart();
    let name = support::upload::name_of(&metadata);
    let stream = Stream::resume(&service.client(), &name, durable_bytes).await;
    stream.chunks(durable_bytes, &data).await;
    let stored = stream.commit(support::upload::commit_of(&data)).await.unwrap().image.unwrap();
    assert!(download(&service.client(), &stored.name).await == data);
    assert_eq!(bucket.blobs().len(), 1);
    // What was staged for it is gone.
    assert_eq!(names_in(&service.data_dir().join("staging/bucket/staging")), [""; 0]);
}
