//! Jobs that make and move images survive a server that is killed: each ends once, with one output, and leaves nothing
//! behind.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CompressRequest, ConvertRequest, GetImageRequest, Image, ImageFormat, JobState, ListImagesRequest,
};
use imageops_client::Client;
use uuid::Uuid;

use support::images::{assert_same_content, have, qemu_img};
use support::jobs::{download, ended, image, write_busy_disk};
use support::random::Random;
use support::stores::{blobs_of, copy, drain, scrub, start_with_stores};
use support::upload::{digests, upload};
use support::{Service, names_in};

const DISK_BYTES: u64 = 8 << 20;
/// No job is given up here, however often the server dies with it.
const MANY_ATTEMPTS: [&str; 2] = ["--job-attempts", "20"];

/// An image that takes its time to be worked on.
async fn upload_disk(service: &Service, client: &Client) -> Image {
    let (raw, qcow2) = (service.scratch().join("disk.raw"), service.scratch().join("disk.qcow2"));
    write_busy_disk(&raw, DISK_BYTES);
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()];
    assert!(qemu_img(arguments).status.success());
    upload(client, &fs::read(&qcow2).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_02_conversions_and_companions_end_once() {
    if !have("qemu-img") {
        return;
    }
    let mut service = Service::start_with(&MANY_ATTEMPTS);
    let mut random = Random::new("rel_02_conversions_and_companions_end_once");
    let stored = upload_disk(&service, &service.client()).await;
    let mut jobs = Vec::new();
    for round in 0..9 {
        let client = service.client();
        let source = image(&stored.name);
        let job = match round {
            0 => {
                let request =
                    CompressRequest { source, companion: true, level: Some(9), ..Default::default() };
                client.compress(request).await.unwrap()
            }
            _ => {
                let format = if round % 2 == 0 { ImageFormat::Raw } else { ImageFormat::Qcow2 };
                let level = (format == ImageFormat::Qcow2).then_some(9);
                // Each is work of its own.
                let request_id = Uuid::new_v4().to_string();
                let request =
                    ConvertRequest { source, format: format.into(), level, request_id, ..Default::default() };
                client.stub().convert(request).await.unwrap().into_inner().job.unwrap()
            }
        };
        jobs.push(job.name);
        // The instant of the kill is what is drawn here.
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        service.restart();
    }
    let client = service.client();
    let mut made = BTreeSet::from([stored.name.clone()]);
    for job in &jobs {
        let job = ended(&client, job).await;
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        let (output, told) = match job.result.unwrap() {
            JobResult::Convert(result) => (result.output_image, result.digests),
            JobResult::Compress(result) => (result.output_image, result.digests),
            other => panic!("{other:?}"),
        };
        let bytes = download(&client, &output).await;
        assert_eq!(told, Some(digests(&bytes)));
        let path = service.scratch().join("made");
        fs::write(&path, bytes).unwrap();
        assert_same_content(&service.scratch().join("disk.raw"), &path);
        assert!(made.insert(output));
    }
    let request = GetImageRequest { name: stored.name.clone() };
    let slim = client.images().get_image(request).await.unwrap().into_inner().work.unwrap().slim.unwrap();
    assert!(made.contains(&slim.image) && slim.job == jobs[0]);
    assert_eq!(client.list_images(ListImagesRequest::default()).await.unwrap().images.len(), made.len() - 1);
    assert_eq!((service.blobs().len(), service.staged()), (made.len(), vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_02_copies_scrubs_and_drains_go_on() {
    let mut service = start_with_stores(&["one", "two"], &MANY_ATTEMPTS);
    let mut random = Random::new("rel_02_copies_scrubs_and_drains_go_on");
    let mut uploaded = Vec::new();
    for _ in 0..4 {
        let bytes = random.bytes(6 << 20);
        uploaded.push((upload(&service.client(), &bytes).await.name, bytes));
    }
    let mut jobs = vec![copy(&service.client(), &uploaded[0].0, "two").await.name];
    for _ in 0..3 {
        jobs.push(scrub(&service, "one").await.name);
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        service.restart();
    }
    jobs.push(drain(&service, "one").await.name);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        service.restart();
    }
    let client = service.client();
    for job in &jobs {
        let job = ended(&client, job).await;
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    }
    for (name, bytes) in &uploaded {
        assert!(download(&client, name).await == *bytes);
        let image = client.get_image(name).await.unwrap();
        assert_eq!(image.replicas.len(), 1, "{image:?}");
    }
    // What an attempt had published before it died went with the start of the next server.
    assert_eq!(names_in(&blobs_of(&service, "one")), [""; 0]);
    assert_eq!(names_in(&blobs_of(&service, "two")).len(), 4);
    for store in ["one", "two"] {
        assert_eq!(names_in(&blobs_of(&service, store).with_file_name("staging")), [""; 0]);
    }
}
