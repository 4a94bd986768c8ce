//! A server whose images lie in a bucket: everything is as with a directory, through a kill too, and nothing stays behind.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CheckRequest, CompressRequest, DownloadImageRequest, Image, JobState, ReplicaState, StoreStatus,
    UploadMetadata, UploadState, download_image_response::Message,
};
use imageops_client::Client;
use support::http::{self, get};
use support::images::{assert_same_content, have};
use support::jobs::{download, image, write_busy_disk};
use support::s3::Bucket;
use support::status::eventually;
use support::stores::{add_store, copies, store};
use support::upload::{
    CHUNK_BYTES, Stream, checked_digests, commit_of, digests, metadata, name_of, try_upload, upload,
};
use support::{Service, names_in, wait_for};

const COLD: &str = "cold";
const DISK: &str = "disk";
/// More than the store puts in one piece.
const LONG_BYTES: u64 = 20 << 20;

/// A server that puts what names no store into a bucket; `None` where there is no S3 server.
fn start() -> Option<(Service, Bucket)> {
    let bucket = Bucket::start()?;
    let service = Service::start_changed(|setup| {
        Bucket::add_store(setup, COLD, bucket.address, 9);
        add_store(setup, DISK, -5);
    });
    Some((service, bucket))
}

/// Bytes of a disk that can be compressed.
fn disk(service: &Service, size_bytes: u64) -> Vec<u8> {
    let path = service.scratch().join("disk.raw");
    write_busy_disk(&path, size_bytes);
    fs::read(path).unwrap()
}

/// Part of an image over gRPC.
async fn range(client: &Client, name: &str, offset_bytes: u64, length_bytes: u64) -> Vec<u8> {
    let request = DownloadImageRequest {
        image: name.to_owned(),
        offset_bytes,
        length_bytes: Some(length_bytes),
        ..DownloadImageRequest::default()
    };
    let mut messages = client.stub().download_image(request).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        if let Some(Message::Chunk(chunk)) = message.message {
            bytes.extend_from_slice(&chunk.data);
        }
    }
    bytes
}

/// Nothing is in the bucket: no object, no part, and no staged file on its way there.
async fn is_empty(service: &Service, bucket: &Bucket) {
    eventually("an empty bucket", || async { bucket.blobs().is_empty().then_some(()) }).await;
    assert_eq!(bucket.incomplete(), [""; 0]);
    let staging = service.data_dir().join("staging").join(COLD).join("staging");
    assert_eq!(names_in(&staging), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_into_a_bucket_and_go_without_a_trace() {
    let Some((service, bucket)) = start() else { return };
    let client = service.client();
    let (long, short) = (disk(&service, LONG_BYTES), disk(&service, 1 << 20));
    let by_grpc = upload(&client, &long).await;
    let created = http::request(service.http(), "POST", "/v1/images", &[], &short);
    assert_eq!(created.status, 201, "{}", created.text());
    let by_rest = created.json()["name"].as_str().unwrap().to_owned();

    let mut found: Vec<_> = bucket.blobs().iter().map(|name| fs::read(bucket.blob(name)).unwrap()).collect();
    found.sort_by_key(Vec::len);
    assert!(found == [short.clone(), long.clone()], "expected two objects with the bytes that were sent");
    assert_eq!((service.blobs(), service.staged()), (Vec::new(), Vec::new()));
    let told = store(&service, COLD).await;
    assert_eq!((told.status(), told.images), (StoreStatus::Connected, 2));
    assert_eq!(told.stored_bytes, LONG_BYTES + (1 << 20));

    for (name, bytes) in [(&by_grpc.name, &long), (&by_rest, &short)] {
        assert!(download(&client, name).await == *bytes, "{name}");
        let path = format!("/v1/{name}/content");
        assert!(get(service.http(), &path).body == *bytes, "{name}");
        // Across the blocks that the store reads.
        let (start, end) = ((1 << 20) - 5, bytes.len().min((1 << 20) + 7));
        let part = http::request(
            service.http(),
            "GET",
            &path,
            &[("range", &format!("bytes={start}-{}", end - 1))],
            &[],
        );
        assert_eq!((part.status, &part.body[..]), (206, &bytes[start..end]), "{name}");
        assert_eq!(
            range(&client, name, start as u64, (end - start) as u64).await,
            bytes[start..end],
            "{name}"
        );
    }
    for name in [by_grpc.name, by_rest] {
        client.delete_image_for_good(&name, "").await.unwrap();
    }
    is_empty(&service, &bucket).await;
}

/// rel_28: an object that is removed is gone for who reads it too; a file is not.
#[tokio::test(flavor = "multi_thread")]
async fn rel_28_who_began_to_read_from_a_bucket_finishes() {
    let Some((service, bucket)) = start() else { return };
    let client = service.client();
    let bytes = disk(&service, 3 * LONG_BYTES);
    let made = upload(&client, &bytes).await;
    let request = DownloadImageRequest { image: made.name.clone(), ..DownloadImageRequest::default() };
    let mut messages = client.stub().download_image(request.clone()).await.unwrap().into_inner();
    let mut read = Vec::new();
    messages.message().await.unwrap().unwrap();
    client.delete_image_for_good(&made.name, "").await.unwrap();
    let refused = client.stub().download_image(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "nobody else begins: {refused}");
    assert_eq!(bucket.blobs().len(), 1, "expected the bytes to stay for their reader");
    while let Some(message) = messages.message().await.unwrap() {
        if let Some(Message::Chunk(chunk)) = message.message {
            let hole = usize::try_from(chunk.offset_bytes).unwrap() - read.len();
            read.extend(std::iter::repeat_n(0, hole));
            read.extend_from_slice(&chunk.data);
        }
    }
    assert!(read == bytes, "expected the old bytes");
    drop(messages);
    is_empty(&service, &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_read_from_a_bucket_and_write_into_it() {
    let Some((service, bucket)) = start() else { return };
    let client = service.client();
    let bytes = disk(&service, LONG_BYTES);
    let stored = upload(&client, &bytes).await;
    let request = CheckRequest { source: image(&stored.name), ..CheckRequest::default() };
    let checked = client.check(request).await.unwrap();
    let checked = wait_for(&client, &checked.name, JobState::Succeeded).await;
    let Some(JobResult::Check(result)) = checked.result else { panic!("{checked:?}") };
    assert_eq!(result.digests, Some(checked_digests(&bytes)));

    let request = CompressRequest { source: image(&stored.name), ..CompressRequest::default() };
    let compressed = client.compress(request).await.unwrap();
    let compressed = wait_for(&client, &compressed.name, JobState::Succeeded).await;
    let Some(JobResult::Compress(result)) = compressed.result else { panic!("{compressed:?}") };
    let small = download(&client, &result.output_image).await;
    assert_eq!((result.verified, result.digests), (true, Some(digests(&small))));
    assert!(small.len() < bytes.len());
    assert_eq!(bucket.blobs().len(), 2);
    if have("qemu-img") {
        let path = service.scratch().join("small.qcow2");
        fs::write(&path, &small).unwrap();
        fs::write(service.scratch().join("disk.raw"), &bytes).unwrap();
        assert_same_content(&service.scratch().join("disk.raw"), &path);
    }

    // The disk of what was compressed, converted on its way out and kept.
    let path = format!("/v1/{}/content?format=raw", result.output_image);
    for _ in 0..2 {
        let raw = get(service.http(), &path);
        assert!(raw.status == 200 && raw.body == bytes, "{}", raw.status);
    }
    assert_eq!(bucket.blobs().len(), 3);

    client.delete_image_for_good(&stored.name, "").await.unwrap();
    assert!(get(service.http(), &path).body == bytes, "the conversion is as good as it was");
    client.delete_image_for_good(&result.output_image, "").await.unwrap();
    is_empty(&service, &bucket).await;
    assert_eq!(service.blobs(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_into_a_bucket_and_comes_back() {
    let Some((service, bucket)) = start() else { return };
    let client = service.client();
    let bytes = disk(&service, LONG_BYTES);
    let metadata = UploadMetadata { store: DISK.to_owned(), ..metadata("moves") };
    let name = try_upload(&client, &metadata, &bytes).await.unwrap().name;
    for (from, to) in [(DISK, COLD), (COLD, DISK)] {
        move_image(&service, &name, from, to).await;
        assert!(download(&client, &name).await == bytes, "from {from} to {to}");
        assert_eq!(bucket.blobs().len(), usize::from(to == COLD));
    }
    is_empty(&service, &bucket).await;
}

/// Copies an image into a store and removes the copy that it came from.
async fn move_image(service: &Service, name: &str, from: &str, to: &str) {
    let client = service.client();
    let job = client.copy_image(name, to).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
    let both: Image = client.get_image(name).await.unwrap();
    let expected = [COLD, DISK].map(|name| (name.to_owned(), ReplicaState::Ready));
    assert_eq!(copies(service, &both).await, expected);
    let left = client.remove_replica(name, from, "").await.unwrap();
    assert_eq!(copies(service, &left).await, [(to.to_owned(), ReplicaState::Ready)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_outlives_a_kill_of_its_server() {
    let Some((mut service, bucket)) = start() else { return };
    let bytes = disk(&service, LONG_BYTES);
    let stored = upload(&service.client(), &bytes).await;
    // One that is half-way.
    let half = LONG_BYTES as usize / 2 + 3;
    let metadata = UploadMetadata { size_bytes: Some(half as u64 + 9), ..metadata("half-way") };
    let other: Vec<u8> = bytes[..half + 9].iter().map(|byte| byte ^ 1).collect();
    let stream = Stream::begin(&service.client(), &metadata).await;
    assert!(stream.chunks(0, &other[..half]).await);
    stream.close().await.unwrap();

    service.kill();
    service.restart();
    let client = service.client();
    assert_eq!(store(&service, COLD).await.status(), StoreStatus::Connected);
    assert!(download(&client, &stored.name).await == bytes);
    assert_eq!(client.get_image(&stored.name).await.unwrap(), stored);
    let upload = client.get_upload(&name_of(&metadata)).await.unwrap();
    assert_eq!(upload.state(), UploadState::Open);
    let durable_bytes = upload.durable_bytes;
    assert!(durable_bytes as usize > half - CHUNK_BYTES, "what was closed in order is durable");
    let stream = Stream::resume(&client, &name_of(&metadata), durable_bytes).await;
    assert!(stream.chunks(durable_bytes, &other).await);
    let made = stream.commit(commit_of(&other)).await.unwrap().image.unwrap();
    assert!(download(&client, &made.name).await == other);
    assert_eq!(bucket.blobs().len(), 2);

    service.restart();
    let client = service.client();
    for name in [stored.name, made.name] {
        client.delete_image_for_good(&name, "").await.unwrap();
    }
    is_empty(&service, &bucket).await;
}
