//! Conversions: the same disk in another format, as a file, as an image, and on its way out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use imageops::v1::download_image_response::Message;
use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    ConvertRequest, ConvertResult, DeleteImageRequest, DownloadHeader, DownloadImageRequest, Image,
    ImageFormat, Job, JobKind, JobState, ListImagesRequest, ListJobsRequest,
};
use imageops_client::Client;
use tonic::Code;

use support::images::{assert_same_content, have, qemu_img};
use support::jobs::{download, failed, file, image};
use support::random::Random;
use support::status::assert_status;
use support::upload::{digests, upload};
use support::{Service, names_in, wait_for};

/// A raw disk of 8 MiB of which a quarter is stored, and the same as qcow2.
fn disks(directory: &Path) -> (PathBuf, PathBuf) {
    let (raw, qcow2) = (directory.join("disk.raw"), directory.join("disk.qcow2"));
    let mut bytes = vec![0; 8 << 20];
    bytes[1 << 20..3 << 20].copy_from_slice(&Random::new("conversions").bytes(2 << 20));
    fs::write(&raw, bytes).unwrap();
    let output = qemu_img([
        "convert".as_ref(),
        "-f".as_ref(),
        "raw".as_ref(),
        "-O".as_ref(),
        "qcow2".as_ref(),
        raw.as_os_str(),
        qcow2.as_os_str(),
    ]);
    assert!(output.status.success(), "{output:?}");
    (raw, qcow2)
}

async fn convert(client: &Client, request: ConvertRequest) -> Job {
    client.stub().convert(request).await.unwrap().into_inner().job.unwrap()
}

async fn converted(client: &Client, request: ConvertRequest) -> ConvertResult {
    let job = convert(client, request).await;
    assert_eq!(job.kind(), JobKind::Convert);
    match wait_for(client, &job.name, JobState::Succeeded).await.result {
        Some(JobResult::Convert(result)) => result,
        other => panic!("{other:?}"),
    }
}

/// A whole download: its header, its bytes, and how many of them were told as holes.
async fn fetch(client: &Client, request: DownloadImageRequest) -> (DownloadHeader, Vec<u8>, u64) {
    let mut messages = client.stub().download_image(request).await.unwrap().into_inner();
    let Some(Message::Header(header)) = messages.message().await.unwrap().unwrap().message else {
        panic!("a header comes first")
    };
    let (mut bytes, mut holes) = (Vec::new(), 0);
    while let Some(message) = messages.message().await.unwrap() {
        match message.message.unwrap() {
            Message::Chunk(chunk) => {
                assert_eq!(chunk.offset_bytes, header.offset_bytes + bytes.len() as u64);
                bytes.extend_from_slice(&chunk.data);
            }
            Message::Hole(hole) => {
                assert_eq!(hole.offset_bytes, header.offset_bytes + bytes.len() as u64);
                assert!(hole.length_bytes > 0);
                holes += hole.length_bytes;
                bytes.resize(bytes.len() + usize::try_from(hole.length_bytes).unwrap(), 0);
            }
            Message::Header(again) => panic!("{again:?}"),
        }
    }
    assert_eq!(header.length_bytes, bytes.len() as u64);
    (header, bytes, holes)
}

fn as_raw(image: &Image) -> DownloadImageRequest {
    DownloadImageRequest {
        image: image.name.clone(),
        format: ImageFormat::Raw.into(),
        ..DownloadImageRequest::default()
    }
}

async fn conversions(client: &Client) -> Vec<Job> {
    let request = ListJobsRequest { kinds: vec![JobKind::Convert.into()], ..ListJobsRequest::default() };
    client.list_jobs(request).await.unwrap().jobs
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_converted_both_ways() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let (raw, qcow2) = disks(service.scratch());
    service.place(&raw, "in.raw");
    service.place(&qcow2, "in.qcow2");
    for (source, output, format) in [
        ("in.qcow2", "out.raw", ImageFormat::Raw),
        ("in.raw", "out.qcow2", ImageFormat::Qcow2),
        ("in.qcow2", "again.qcow2", ImageFormat::Qcow2),
    ] {
        let request = ConvertRequest {
            source: file(source),
            format: format.into(),
            output_file: output.to_owned(),
            ..ConvertRequest::default()
        };
        let result = converted(&client, request).await;
        assert_eq!((result.output_file.as_str(), result.format()), (output, format));
        assert_eq!((result.virtual_size_bytes, result.verified, &result.digests), (8 << 20, true, &None));
        let path = service.image_path().join(output);
        assert_eq!(result.output_bytes, fs::metadata(&path).unwrap().len());
        assert!(result.allocated_bytes < 4 << 20, "{result:?}");
        assert_same_content(&raw, &path);
    }
    let refused = ConvertRequest { source: file("in.raw"), output_file: "x".into(), ..Default::default() };
    let refused = client.stub().convert(refused).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_becomes_another_image() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let (raw, qcow2) = disks(service.scratch());
    let stored = upload(&client, &fs::read(&qcow2).unwrap()).await;
    let request = ConvertRequest {
        source: image(&stored.name),
        format: ImageFormat::Raw.into(),
        output_display_name: "raw one".into(),
        ..ConvertRequest::default()
    };
    let result = converted(&client, request).await;
    let made = client.get_image(&result.output_image).await.unwrap();
    assert_eq!((made.format(), made.size_bytes), (ImageFormat::Raw, 8 << 20));
    assert_eq!((made.display_name.as_str(), &made.derived_from), ("raw one", &stored.name));
    let bytes = download(&client, &made.name).await;
    assert!(bytes == fs::read(&raw).unwrap());
    let told = result.digests.unwrap();
    assert_eq!((&told.md5, &told.sha256), (&digests(&bytes).md5, &digests(&bytes).sha256));
    assert_eq!(client.list_images(ListImagesRequest::default()).await.unwrap().images.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_42_eight_who_ask_for_the_same_get_one_job() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let (raw, qcow2) = disks(service.scratch());
    let stored = upload(&client, &fs::read(&qcow2).unwrap()).await;
    let wanted = fs::read(&raw).unwrap();

    let all = (0..8).map(|_| {
        let (client, request) = (service.client(), as_raw(&stored));
        async move { fetch(&client, request).await }
    });
    for (header, bytes, holes) in futures::future::join_all(all).await {
        let image = header.image.unwrap();
        assert_eq!((image.format(), image.size_bytes), (ImageFormat::Raw, wanted.len() as u64));
        assert_eq!(image.digests.unwrap().sha256, digests(&wanted).sha256);
        assert_eq!(image.companion_of, stored.name);
        assert!(bytes == wanted && holes == 0);
    }
    assert_eq!(conversions(&client).await.len(), 1);

    // What is kept is kept: ranges of it, holes of it, and no second job. It is no image of its own.
    let range = DownloadImageRequest { offset_bytes: 1 << 20, length_bytes: Some(5), ..as_raw(&stored) };
    assert!(fetch(&client, range).await.1 == wanted[1 << 20..(1 << 20) + 5]);
    let sparse = DownloadImageRequest { sparse: true, ..as_raw(&stored) };
    let (_, bytes, holes) = fetch(&client, sparse).await;
    assert!(bytes == wanted && holes == 6 << 20, "{holes}");
    assert_eq!(conversions(&client).await.len(), 1);
    assert_eq!(client.list_images(ListImagesRequest::default()).await.unwrap().images.len(), 1);
    let past = DownloadImageRequest { offset_bytes: (8 << 20) + 1, ..as_raw(&stored) };
    let past = client.stub().download_image(past).await.unwrap_err();
    assert_status(&past, Code::OutOfRange, "RANGE_NOT_SATISFIABLE");

    // The format that it has needs no work.
    let same = DownloadImageRequest { format: ImageFormat::Qcow2.into(), ..as_raw(&stored) };
    assert!(fetch(&client, same).await.1 == fs::read(&qcow2).unwrap());
    let vmdk = DownloadImageRequest { format: ImageFormat::Vmdk.into(), ..as_raw(&stored) };
    let refused = client.stub().download_image(vmdk).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(conversions(&client).await.len(), 1);

    // It goes with its image.
    assert_eq!(service.blobs().len(), 2);
    let delete = DeleteImageRequest { name: stored.name.clone(), purge: true, ..Default::default() };
    client.images().delete_image(delete).await.unwrap();
    assert_eq!(service.blobs(), [""; 0]);
    assert_eq!(names_in(&service.data_dir().join("store/staging")), [""; 0]);
}

/// A few kilobytes that promise more than any image may have are not written out.
#[tokio::test(flavor = "multi_thread")]
async fn sec_14_no_raw_image_is_longer_than_an_upload_may_be() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start_with(&["--upload-max-bytes", "4194304"]);
    let client = service.client();
    let (_, qcow2) = disks(service.scratch());
    let stored = upload(&client, &fs::read(qcow2).unwrap()).await;
    let raw = DownloadImageRequest {
        image: stored.name.clone(),
        format: ImageFormat::Raw.into(),
        ..DownloadImageRequest::default()
    };
    let refused = client.stub().download_image(raw).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "TOO_LARGE");
    assert_eq!(conversions(&client).await, []);
    let request = ConvertRequest {
        source: image(&stored.name),
        format: ImageFormat::Raw.into(),
        ..ConvertRequest::default()
    };
    assert_eq!(failed(&client, &convert(&client, request).await.name).await, "TOO_LARGE");
}

/// A guest that writes a container's header onto its own disk must not make the service hand out that container.
#[tokio::test(flavor = "multi_thread")]
async fn sec_27_a_disk_that_looks_like_a_container_is_not_made_an_image() {
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let (_, inner) = disks(service.scratch());
    let outer = service.scratch().join("outer.qcow2");
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", inner.to_str().unwrap(), outer.to_str().unwrap()];
    assert!(qemu_img(arguments).status.success());
    let stored = upload(&client, &fs::read(&outer).unwrap()).await;
    let request = ConvertRequest {
        source: image(&stored.name),
        format: ImageFormat::Raw.into(),
        ..ConvertRequest::default()
    };
    let job = convert(&client, request).await;
    assert_eq!(failed(&client, &job.name).await, "INVALID_FORMAT_MISMATCH");
    let refused = client.stub().download_image(as_raw(&stored)).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "INVALID_FORMAT_MISMATCH");
    assert_eq!(service.blobs().len(), 1);
    assert_eq!(service.staged(), [""; 0]);
}
