//! A full disk is an answer, not an accident: nothing half-written stays, and work goes on once there is room.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use imageops::FieldMask;
use imageops::v1::{CompressRequest, Job, JobState, UploadMetadata, UploadState};
use serde_json::json;
use tonic::Code;

use support::http::{get, post_json};
use support::jobs::{check_file, compress_file, ended, failed, image, slow_compress_file, write_busy_disk};
use support::mount::SmallDisk;
use support::random::Random;
use support::status::{assert_status, eventually};
use support::upload::{Stream, commit_of, metadata, name_of, try_upload, upload};
use support::{Service, wait_for};

const MIB: usize = 1 << 20;

fn service_with_data_on(disk: &SmallDisk) -> Service {
    Service::start_changed(|setup| setup.data_dir = disk.path().join("data"))
}

fn service_with_images_on(disk: &SmallDisk) -> Service {
    Service::start_changed(|setup| setup.image_path = disk.path().join("images"))
}

/// rel_10: an upload that does not fit says so, loses nothing that was durable, and goes on after room was made.
#[tokio::test(flavor = "multi_thread")]
async fn rel_10_an_upload_without_room_goes_on_when_there_is_some() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let service = service_with_data_on(&disk);
    let client = service.client();
    let data = Random::new("rel_10").bytes(40 * MIB);
    let first = upload(&client, &data[..MIB]).await;
    // A length that is told and does not fit is refused before the first byte; one that is not told is found out.
    let told = UploadMetadata { size_bytes: Some(data.len() as u64), ..metadata("told to be too large") };
    let stream = Stream::begin(&client, &told).await;
    assert_status(&stream.answer().await.unwrap_err(), Code::ResourceExhausted, "NO_SPACE");
    assert!(client.get_upload(&name_of(&told)).await.is_err(), "nothing was begun");
    let metadata = metadata("too large");
    let name = name_of(&metadata);
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunks(0, &data).await;
    assert_status(&stream.answer().await.unwrap_err(), Code::ResourceExhausted, "NO_SPACE");

    // The server lives and others are served.
    assert_eq!(get(service.http(), "/healthz").status, 200);
    assert!(support::jobs::download(&client, &first.name).await == data[..MIB]);
    let upload = client.get_upload(&name).await.unwrap();
    assert_eq!((upload.state(), upload.image.as_str()), (UploadState::Open, ""));
    assert_eq!(service.blobs().len(), 1, "no partial image");

    disk.resize(128);
    let durable = client.get_upload(&name).await.unwrap().durable_bytes;
    let stream = Stream::resume(&client, &name, durable).await;
    stream.chunks(durable, &data).await;
    let image = stream.commit(commit_of(&data)).await.unwrap().image.unwrap();
    assert!(support::jobs::download(&client, &image.name).await == data);
    assert_eq!(service.staged(), [""; 0]);
}

/// rel_10: on a disk without a free byte images and uploads can still be removed, and that makes room.
#[tokio::test(flavor = "multi_thread")]
async fn rel_10_a_full_disk_lets_go_of_images() {
    let Some(disk) = SmallDisk::mount(48) else { return };
    let service = service_with_data_on(&disk);
    let client = service.client();
    let mut images = Vec::new();
    for number in 0..8 {
        let data = Random::new(&format!("full disk {number}")).bytes(2 * MIB);
        images.push(upload(&client, &data).await.name);
    }
    let begun = metadata("begun");
    let stream = Stream::begin(&client, &begun).await;
    stream.chunks(0, &Random::new("begun").bytes(2 * MIB)).await;
    drop(stream);
    eventually("a durable part", || async {
        let upload = client.get_upload(&name_of(&begun)).await.ok()?;
        (upload.durable_bytes == 2 * MIB as u64).then_some(())
    })
    .await;

    // Whatever the catalogue has in hand is used up by calls that cannot be written.
    disk.fill_but("filler", 0);
    let label = |number: u32| imageops::v1::Image {
        name: images[0].clone(),
        display_name: format!("full {number}"),
        ..imageops::v1::Image::default()
    };
    let mut refused = None;
    for number in 0..10_000 {
        let request = imageops::v1::UpdateImageRequest {
            image: Some(label(number)),
            update_mask: Some(FieldMask { paths: vec!["display_name".to_owned()] }),
        };
        refused = client.images().update_image(request).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert_status(&refused.expect("a full catalogue"), Code::ResourceExhausted, "NO_SPACE");
    let before = disk.free_bytes();
    assert!(before < 1 << 20, "{before}");
    for image in &images {
        client
            .images()
            .delete_image(imageops::v1::DeleteImageRequest {
                name: image.clone(),
                purge: true,
                ..imageops::v1::DeleteImageRequest::default()
            })
            .await
            .unwrap();
    }
    assert_eq!(client.abort_upload(&name_of(&begun)).await.unwrap().state(), UploadState::Aborted);
    assert_eq!((service.blobs(), service.staged()), (vec![], vec![]));
    assert!(!service.data_dir().join("ballast").exists(), "it was not needed: the test shows nothing");
    assert!(disk.free_bytes() > before + 18 * MIB as u64);
}

/// rel_10: giving the upload up gives the room back.
#[tokio::test(flavor = "multi_thread")]
async fn rel_10_an_aborted_upload_gives_its_room_back() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let service = service_with_data_on(&disk);
    let client = service.client();
    let before = disk.free_bytes();
    let data = Random::new("rel_10 abort").bytes(40 * MIB);
    for _ in 0..3 {
        let metadata = metadata("too large");
        let full = try_upload(&client, &metadata, &data).await.unwrap_err();
        assert_status(&full, Code::ResourceExhausted, "NO_SPACE");
        let aborted = eventually("an abort that finds room for its row", || async {
            client.abort_upload(&name_of(&metadata)).await.ok()
        })
        .await;
        assert_eq!(aborted.state(), UploadState::Aborted);
        let lost = before.saturating_sub(disk.free_bytes());
        assert!(lost <= MIB as u64, "{lost} bytes did not come back");
    }
    upload(&client, &data[..4 * MIB]).await;
}

#[tokio::test]
async fn a_compression_that_cannot_fit_is_refused_at_once() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let service = service_with_images_on(&disk);
    let client = service.client();
    let data = Random::new("refused at once").bytes(16 * MIB);
    std::fs::write(service.image_path().join("disk.raw"), &data).unwrap();
    let job = client.compress(compress_file("disk.raw", "out.img")).await.unwrap();
    assert_eq!(job.state(), JobState::Failed);
    let error = job.error.unwrap();
    assert_eq!((error.reason.as_str(), error.code), ("NO_SPACE", Code::ResourceExhausted as i32));
    // It is remembered as such.
    assert_eq!(failed(&client, &job.name).await, "NO_SPACE");

    // The legacy surface has words of its own for it.
    let body = json!({"inputImageName": "disk.raw", "outputImageName": "out.img"});
    let answer = post_json(service.http(), "/api/v1/vmimage/compress", &body);
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["status"], 1);
    assert_eq!(answer["msg"], "Compress Exiting because of No enouth space left");
    let path = format!("/api/v1/vmimage/compress/{}", answer["requestId"].as_str().unwrap());
    let poll = get(service.http(), &path);
    assert_eq!(
        poll.text().trim_end(),
        r#"{"msg":"Compress Exiting because of No enouth space left","rate":0,"status":3}"#
    );
    assert_eq!(service.image_names(), ["disk.raw"]);
}

/// rel_10: the disk fills up while a job writes; the job says so and leaves nothing, and the next one has the room.
#[tokio::test(flavor = "multi_thread")]
async fn rel_10_a_compression_that_runs_out_of_room_leaves_nothing() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let service = service_with_images_on(&disk);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 64 << 20);
    std::fs::write(service.image_path().join("out.img"), "the old output").unwrap();
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    until_under_way(&service, &job).await;
    let filler = disk.fill("filler");
    assert_eq!(failed(&client, &job.name).await, "NO_SPACE");
    assert_eq!(service.image_names(), ["busy.raw", "out.img"]);
    assert_eq!(std::fs::read(service.image_path().join("out.img")).unwrap(), b"the old output");
    let legacy = job.name.replace("jobs/", "/api/v1/vmimage/compress/");
    assert_eq!(get(service.http(), &legacy).json()["status"], 3);

    // Reading goes on with a full disk.
    let check = client.check(check_file("busy.raw")).await.unwrap();
    wait_for(&client, &check.name, JobState::Succeeded).await;
    std::fs::remove_file(filler).unwrap();
    let job = client.compress(compress_file("busy.raw", "out.img")).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
}

/// rel_10: store and catalogue on one full disk: the job's end is told once it can be written.
#[tokio::test(flavor = "multi_thread")]
async fn rel_10_a_full_data_directory_recovers_without_a_restart() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let service = service_with_data_on(&disk);
    let client = service.client();
    let busy = service.scratch().join("busy.raw");
    write_busy_disk(&busy, 48 << 20);
    let source = upload(&client, &std::fs::read(&busy).unwrap()).await;
    let request =
        CompressRequest { source: image(&source.name), level: Some(12), ..CompressRequest::default() };
    let job = client.compress(request.clone()).await.unwrap();
    until_under_way(&service, &job).await;
    let filler = disk.fill("filler");
    eventually("the job's end, or its last attempt to write it", || async {
        let over = client.get_job(&job.name).await.ok()?.state() != JobState::Running;
        (over || service.output().contains("is not stored") || service.staged().is_empty()).then_some(())
    })
    .await;
    assert_eq!(get(service.http(), "/healthz").status, 200);
    std::fs::remove_file(filler).unwrap();
    let ended = ended(&client, &job.name).await;
    match ended.state() {
        JobState::Failed => assert_eq!(ended.error.unwrap().reason, "NO_SPACE"),
        state => assert_eq!(state, JobState::Succeeded, "another attempt had room"),
    }
    assert_eq!(service.staged(), [""; 0]);
    let again = CompressRequest { level: None, ..request };
    let again = client.compress(again).await.unwrap();
    wait_for(&client, &again.name, JobState::Succeeded).await;
}

async fn until_under_way(service: &Service, job: &Job) {
    let client = service.client();
    eventually("a job under way", || async {
        let job = client.get_job(&job.name).await.unwrap();
        assert!(!imageops_client::is_final(job.state()), "{job:?}");
        (job.progress.unwrap_or_default().percent > 2.0).then_some(())
    })
    .await;
}
