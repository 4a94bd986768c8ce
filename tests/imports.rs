//! Images that the service fetches from URLs, from servers on loopback that are allowed for these tests alone.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    AbortUploadRequest, Archive, CreateImageRequest, Digests, GetUsageRequest, Image, ImageState, Job,
    JobKind, JobPhase, JobState, ListImagesRequest, ListUploadsRequest, Progress, SetQuotaRequest,
    UploadMetadata, UploadState,
};
use imageops_client::Client;
use tonic::Code;

use support::fixtures::zip;
use support::http::{get, post_json};
use support::jobs::{download, ended, failed};
use support::random::Random;
use support::source::{ALLOWED, Reply, Source, import};
use support::status::{assert_status, eventually, reason};
use support::upload::{Stream, digests};
use support::{DEADLINE, Service, binary, wait_for};

fn start(arguments: &[&str]) -> Service {
    Service::start_with(&[&ALLOWED, arguments].concat())
}

/// Bytes of a raw disk.
fn disk(length: usize) -> Vec<u8> {
    let mut bytes = Random::new("imports").bytes(length);
    // No magic of any format.
    bytes[..512].fill(0);
    bytes
}

fn result(job: &Job) -> imageops::v1::ImportResult {
    match &job.result {
        Some(JobResult::Import(result)) => result.clone(),
        other => panic!("{other:?}"),
    }
}

async fn record(client: &Client, name: &str) -> Image {
    let image = Image { display_name: name.to_owned(), ..Image::default() };
    let answer = client.images().create_image(CreateImageRequest { image: Some(image) }).await.unwrap();
    answer.into_inner().image.unwrap()
}

/// Nothing is there and nothing is held: no image but the records that were made, no staged file, no byte of the quota.
async fn assert_nothing_is_left(service: &Service, client: &Client) {
    assert_eq!((service.staged(), service.blobs()), (vec![], vec![]));
    let usage = client.images().get_usage(GetUsageRequest::default()).await.unwrap();
    let usage = usage.into_inner().usage.unwrap();
    assert_eq!((usage.bytes, usage.reserved_bytes), (0, 0), "{usage:?}");
    for image in client.list_images(ListImagesRequest::default()).await.unwrap().images {
        assert_eq!(image.state(), ImageState::Queued, "{image:?}");
    }
    let open = ListUploadsRequest { states: vec![UploadState::Open.into()], ..Default::default() };
    assert!(client.list_uploads(open).await.unwrap().uploads.is_empty());
}

/// Waits until a job has fetched something.
async fn fetching(client: &Client, job: &str) -> Job {
    eventually("progress", || async {
        let job = client.get_job(job).await.unwrap();
        let progress = job.progress.unwrap_or_default();
        (progress.phase() == JobPhase::Fetching && progress.done_bytes > 0).then_some(job)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_makes_an_image() {
    let service = start(&[]);
    let client = service.client();
    let bytes = disk(3 << 20);
    let source = Source::of(bytes.clone());
    let metadata = UploadMetadata {
        size_bytes: Some(3 << 20),
        expected_digests: Some(digests(&bytes)),
        tags: vec!["golden".to_owned()],
        check: Some(true),
        ..UploadMetadata::default()
    };
    let request = import(source.url("/a/debian%2013.raw?token=secret"), metadata);
    let job = client.import_image(request).await.unwrap();
    assert_eq!((job.kind(), job.state()), (JobKind::Import, JobState::Queued));
    assert_eq!(job.source_url, source.url("/a/debian%2013.raw"), "the query is not shown");
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let result = result(&job);
    assert_eq!(result.fetched_bytes, 3 << 20);
    let image = client.get_image(&result.image).await.unwrap();
    assert_eq!((image.state(), image.display_name.as_str()), (ImageState::Active, "debian 13.raw"));
    assert_eq!((image.size_bytes, &image.tags[..]), (3 << 20, &["golden".to_owned()][..]));
    assert!(download(&client, &image.name).await == bytes);
    wait_for(&client, &result.check_job, JobState::Succeeded).await;
    assert!(service.staged().is_empty());
    assert_eq!(source.ranges(), [None]);
    assert!(!service.output().contains("secret"), "{}", service.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_importing_while_its_bytes_come_and_queued_when_they_do_not() {
    let service = start(&[]);
    let client = service.client();
    let bytes = disk(4 << 20);
    let sent = bytes.clone();
    let source = Source::start(move |asked| match asked.path.as_str() {
        "/slow" => Reply::file(&sent, asked, "one").hang_after(3 << 20),
        _ => Reply::unmeasured(&sent),
    });
    let record = record(&client, "to be filled").await;
    let into = UploadMetadata { image: record.name.clone(), ..UploadMetadata::default() };
    let job = client.import_image(import(source.url("/slow"), into.clone())).await.unwrap();
    let running = fetching(&client, &job.name).await;
    let progress = running.progress.unwrap();
    assert_eq!(progress.total_bytes, 4 << 20);
    assert!(progress.percent < 95.0, "{progress:?}");
    assert_eq!(client.get_image(&record.name).await.unwrap().state(), ImageState::Importing);
    // Nobody else fills it meanwhile, and its upload takes no bytes from outside.
    let taken = client.images().import_image(import(source.url("/"), into.clone())).await.unwrap_err();
    assert_status(&taken, Code::FailedPrecondition, "IMAGE_NOT_QUEUED");
    let upload = client.list_uploads(ListUploadsRequest::default()).await.unwrap().uploads.remove(0);
    let stream = Stream::resume(&client, &upload.name, 0).await;
    assert_eq!(reason(&stream.close().await.unwrap_err()), "UPLOAD_SEQUENCE");

    let asked = Instant::now();
    client.cancel_job(&job.name).await.unwrap();
    assert_eq!(ended(&client, &job.name).await.state(), JobState::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(client.get_image(&record.name).await.unwrap().state(), ImageState::Queued);
    assert_nothing_is_left(&service, &client).await;

    let job = client.import_image(import(source.url("/fast"), into)).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    assert_eq!(result(&job).image, record.name);
    let image = client.get_image(&record.name).await.unwrap();
    assert_eq!((image.state(), image.display_name.as_str()), (ImageState::Active, "to be filled"));
    assert!(download(&client, &image.name).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_the_upload_or_the_record_up_ends_the_import() {
    let service = start(&[]);
    let client = service.client();
    let bytes = disk(4 << 20);
    let source = Source::start(move |asked| Reply::file(&bytes, asked, "one").hang_after(3 << 20));
    let job = client.import_image(import(source.url("/"), UploadMetadata::default())).await.unwrap();
    fetching(&client, &job.name).await;
    let upload = client.list_uploads(ListUploadsRequest::default()).await.unwrap().uploads.remove(0);
    client.stub().abort_upload(AbortUploadRequest { name: upload.name }).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, "UPLOAD_ENDED");
    assert_nothing_is_left(&service, &client).await;

    let record = record(&client, "goes").await;
    let into = UploadMetadata { image: record.name.clone(), ..UploadMetadata::default() };
    let job = client.import_image(import(source.url("/"), into)).await.unwrap();
    fetching(&client, &job.name).await;
    let request = imageops::v1::DeleteImageRequest { name: record.name, purge: true, ..Default::default() };
    client.images().delete_image(request).await.unwrap();
    let job = ended(&client, &job.name).await;
    assert!(matches!(job.state(), JobState::Cancelled | JobState::Failed), "{job:?}");
    assert_nothing_is_left(&service, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_breaks_off_is_gone_on_with() {
    let service = start(&[]);
    let client = service.client();
    let bytes = disk(3 << 20);
    let sent = bytes.clone();
    let source = Source::start(move |asked| Reply::file(&sent, asked, "one").cut_after(1_500_000));
    let job = client.import_image(import(source.url("/"), UploadMetadata::default())).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    assert!(download(&client, &result(&job).image).await == bytes);
    let last = (3 << 20) - 1;
    assert_eq!(source.ranges(), [None, Some((1_500_000, last)), Some((3_000_000, last))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_fetched_from_its_first_byte_again() {
    let service = start(&[]);
    let client = service.client();
    let (old, new) = (disk(3 << 20), vec![7; 2 << 20]);
    let now = new.clone();
    let source = Source::start(move |asked| match asked.number {
        0 => Reply::file(&old, asked, "old").cut_after(1_500_000),
        // The part that is asked for is one of a file that is no more.
        1 => Reply::head("200 OK", "content-length: 2097152\r\netag: \"new\"\r\n"),
        _ => Reply::file(&now, asked, "new"),
    });
    let job = client.import_image(import(source.url("/"), UploadMetadata::default())).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    assert!(download(&client, &result(&job).image).await == new);
}

#[test]
fn the_command_line_imports_and_tells_what_failed() {
    let service = start(&[]);
    let bytes = disk(1 << 20);
    let packed = gzip(&bytes);
    let source = Source::start(move |asked| match asked.path.as_str() {
        "/debian.raw.gz" => Reply::file(&packed, asked, "one"),
        _ => Reply::head("404 Not Found", "content-length: 0\r\n"),
    });
    let imageops = |path: &str, more: &[&str]| {
        let output = Command::new(binary("imageops"))
            .args(["--server", &format!("http://{}", service.grpc()), "--output", "json", "import"])
            .arg(source.url(path))
            .args(more)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (status, image, said) = imageops("/debian.raw.gz", &["--label", "team=edge"]);
    assert_eq!(status, Some(0), "{said}");
    let image: serde_json::Value = serde_json::from_str(&image).unwrap();
    assert_eq!(image["displayName"], "debian.raw");
    assert_eq!(image["digests"]["sha256"], digests(&bytes).sha256);
    assert_eq!(image["labels"]["team"], "edge");
    let (status, image, said) = imageops("/missing", &[]);
    assert_eq!((status, image.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("does not hand the file out"), "{said}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What is packed is unpacked, its digests and length being those of what came.
#[tokio::test(flavor = "multi_thread")]
async fn packed_images_are_unpacked() {
    let service = start(&[]);
    let client = service.client();
    let mut bytes = disk(1 << 20);
    bytes.resize(8 << 20, 0);
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&bytes).unwrap();
    let mut packed = vec![
        (Archive::Gzip, gzip(&bytes), "disk.raw"),
        (Archive::Xz, xz.finish().unwrap(), "disk.raw"),
        (Archive::Zstd, zstd::encode_all(&bytes[..], 1).unwrap(), "disk.raw"),
    ];
    // Python makes it, where there is one.
    packed.extend(zip(service.scratch(), &[("in.img", &bytes)]).map(|zip| (Archive::Zip, zip, "in.img")));
    for (archive, file, name) in packed {
        let source = Source::of(file.clone());
        let metadata = UploadMetadata {
            archive: archive.into(),
            size_bytes: Some(file.len() as u64),
            expected_digests: Some(digests(&file)),
            ..UploadMetadata::default()
        };
        let job = client.import_image(import(source.url("/disk.raw.gz"), metadata)).await.unwrap();
        let job = wait_for(&client, &job.name, JobState::Succeeded).await;
        let result = result(&job);
        assert_eq!(result.fetched_bytes, file.len() as u64);
        let image = client.get_image(&result.image).await.unwrap();
        assert_eq!((image.size_bytes, image.display_name.as_str()), (8 << 20, name), "{archive:?}");
        assert!(download(&client, &image.name).await == bytes, "{archive:?}");
        assert!(service.staged().is_empty());
    }
}

/// A file in gzip that unpacks to 32 GiB of zeros: a minute or more, and no room.
fn long_archive() -> Vec<u8> {
    let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    member.write_all(&vec![0; 64 << 20]).unwrap();
    member.finish().unwrap().repeat(512)
}

/// Waits until a job has unpacked something, and is further than it was.
async fn unpacking(client: &Client, job: &str, before: &Progress) -> Progress {
    eventually("unpacked bytes", || async {
        let job = client.get_job(job).await.unwrap();
        assert!(matches!(job.state(), JobState::Queued | JobState::Running), "{job:?}");
        let now = job.progress.unwrap_or_default();
        let is_further = now.done_bytes > before.done_bytes && now.percent > before.percent;
        (now.phase() == JobPhase::Copying && is_further).then_some(now)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_unpacked_shows_progress_and_can_be_stopped() {
    let mut service = start(&[]);
    let client = service.client();
    let source = Source::of(long_archive());
    let metadata = UploadMetadata { archive: Archive::Gzip.into(), ..UploadMetadata::default() };
    let request = import(source.url("/"), metadata);

    let job = client.import_image(request.clone()).await.unwrap();
    let first = unpacking(&client, &job.name, &Progress::default()).await;
    let later = unpacking(&client, &job.name, &first).await;
    assert!(50.0 <= first.percent && later.percent < 95.0, "{first:?} {later:?}");
    let asked = Instant::now();
    client.cancel_job(&job.name).await.unwrap();
    assert_eq!(ended(&client, &job.name).await.state(), JobState::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_nothing_is_left(&service, &client).await;

    // Whoever gives the upload up does not wait for the end either.
    let job = client.import_image(request.clone()).await.unwrap();
    unpacking(&client, &job.name, &Progress::default()).await;
    let open = ListUploadsRequest { states: vec![UploadState::Open.into()], ..Default::default() };
    let upload = client.list_uploads(open).await.unwrap().uploads.remove(0);
    let asked = Instant::now();
    client.stub().abort_upload(AbortUploadRequest { name: upload.name }).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, "UPLOAD_ENDED");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_nothing_is_left(&service, &client).await;

    // A server that goes down gives the job back; its next life begins it anew.
    let job = client.import_image(request).await.unwrap();
    unpacking(&client, &job.name, &Progress::default()).await;
    let asked = Instant::now();
    service.terminate();
    assert!(service.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!((service.staged(), service.blobs()), (vec![], vec![]));
    service.restart();
    let client = service.client();
    unpacking(&client, &job.name, &Progress::default()).await;
    client.cancel_job(&job.name).await.unwrap();
    assert_eq!(ended(&client, &job.name).await.state(), JobState::Cancelled);
    assert_nothing_is_left(&service, &client).await;
}

/// SEC-21: what unpacks to far more than came, is packed twice or otherwise than was said, or does not fit.
#[tokio::test(flavor = "multi_thread")]
async fn sec_21_bombs_are_refused_on_the_way() {
    let service = start(&["--upload-max-bytes", "100000000"]);
    let client = service.client();
    // 1,000 : 1, past the first 64 MiB.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![7; 90 << 20]).unwrap();
    let mut unsafe_image = vec![0; 1 << 20];
    unsafe_image[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    unsafe_image[8..16].copy_from_slice(&512_u64.to_be_bytes());
    unsafe_image[16..20].copy_from_slice(&4_u32.to_be_bytes());
    for (archive, file, reason) in [
        (Archive::Gzip, bomb.finish().unwrap(), "ARCHIVE_BOMB"),
        (Archive::Gzip, gzip(&gzip(b"twice")), "ARCHIVE_NESTED"),
        (Archive::Xz, gzip(b"not so"), "ARCHIVE_INVALID"),
        (Archive::Gzip, gzip(&vec![0; 101_000_000]), "ARCHIVE_TOO_LARGE"),
        (Archive::Gzip, gzip(&disk(1 << 20))[..500_000].to_vec(), "ARCHIVE_INVALID"),
        (Archive::Gzip, gzip(&unsafe_image), "UNSAFE_BACKING_FILE"),
    ] {
        let source = Source::of(file);
        let metadata = UploadMetadata { archive: archive.into(), ..UploadMetadata::default() };
        let job = client.import_image(import(source.url("/"), metadata)).await.unwrap();
        assert_eq!(failed(&client, &job.name).await, reason);
        assert_nothing_is_left(&service, &client).await;
    }
}

/// Ranges at once, hashed in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_file_comes_in_several_ranges() {
    let service = start(&[]);
    let client = service.client();
    let bytes = disk(65 << 20);
    let source = Source::of(bytes.clone());
    let metadata = UploadMetadata { expected_digests: Some(digests(&bytes)), ..UploadMetadata::default() };
    let job = client.import_image(import(source.url("/"), metadata)).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
    assert_eq!(source.ranges().len(), 9, "one of the whole, and eight parts behind the first");
}

/// after a crash the job goes on without help, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn rel_04_an_import_outlives_the_server() {
    let mut service = start(&[]);
    let bytes = disk(4 << 20);
    let sent = bytes.clone();
    let source = Source::start(move |asked| match asked.number {
        0 => Reply::file(&sent, asked, "one").hang_after(3 << 20),
        _ => Reply::file(&sent, asked, "one"),
    });
    let client = service.client();
    let job = client.import_image(import(source.url("/"), UploadMetadata::default())).await.unwrap();
    fetching(&client, &job.name).await;
    assert_eq!(service.staged().len(), 1);
    service.kill();
    service.restart();
    let client = service.client();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    assert_eq!(job.attempt, 2);
    assert!(download(&client, &result(&job).image).await == bytes);
    assert_eq!((service.staged().len(), service.blobs().len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_promised_leaves_nothing() {
    let service = start(&["--upload-max-bytes", "5000000"]);
    let client = service.client();
    let bytes = disk(1 << 20);
    let mut backed = vec![0; 1 << 20];
    backed[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    backed[8..16].copy_from_slice(&512_u64.to_be_bytes());
    backed[16..20].copy_from_slice(&4_u32.to_be_bytes());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let source = Source::start(move |asked| match asked.path.as_str() {
        "/file" => Reply::file(&bytes, asked, "one"),
        "/backed" => Reply::file(&backed, asked, "one"),
        "/long" => Reply::unmeasured(&vec![1; 6_000_000]),
        "/declared" => Reply::head("200 OK", "content-length: 5000001\r\n"),
        "/packed" => Reply::head("200 OK", "content-encoding: gzip\r\ncontent-length: 0\r\n"),
        "/redirect" => Reply::head("302 Found", "location: http://169.254.169.254/\r\ncontent-length: 0\r\n"),
        _ => Reply::head("404 Not Found", "content-length: 0\r\n"),
    });
    let other_digest = Digests { sha256: "1".repeat(64), ..Digests::default() };
    let other_sha512 = Digests { sha512: "1".repeat(128), ..Digests::default() };
    let other_crc32 = Digests { crc32: Some(1), ..Digests::default() };
    let plain = UploadMetadata::default;
    let cases = [
        ("/file", "DIGEST_MISMATCH", UploadMetadata { expected_digests: Some(other_digest), ..plain() }),
        ("/file", "DIGEST_MISMATCH", UploadMetadata { expected_digests: Some(other_sha512), ..plain() }),
        ("/file", "DIGEST_MISMATCH", UploadMetadata { expected_digests: Some(other_crc32), ..plain() }),
        ("/file", "SIZE_MISMATCH", UploadMetadata { size_bytes: Some(1 << 19), ..plain() }),
        ("/long", "SIZE_MISMATCH", UploadMetadata { size_bytes: Some(1 << 19), ..plain() }),
        ("/long", "TOO_LARGE", plain()),
        ("/declared", "TOO_LARGE", plain()),
        ("/backed", "UNSAFE_BACKING_FILE", plain()),
        ("/packed", "IMPORT_INVALID", plain()),
        ("/missing", "IMPORT_REFUSED", plain()),
        ("/redirect", "URL_REFUSED", plain()),
    ];
    for (path, reason, metadata) in cases {
        let job = client.import_image(import(source.url(path), metadata)).await.unwrap();
        let job = ended(&client, &job.name).await;
        let error = job.error.unwrap_or_default();
        assert_eq!(error.reason, reason, "{path}: {error:?}");
        // What the other side says, and where it is, is not told.
        assert!(!error.message.contains("127.0.0.1") && !error.message.contains("404"), "{error:?}");
        assert_nothing_is_left(&service, &client).await;
    }
    let url = format!("http://{closed}/");
    let job = client.import_image(import(url, plain())).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, "IMPORT_UNREACHABLE");
    assert_nothing_is_left(&service, &client).await;

    let quota = SetQuotaRequest { bytes_max: Some(1_000_000), ..SetQuotaRequest::default() };
    client.images().set_quota(quota).await.unwrap();
    let job = client.import_image(import(source.url("/file"), plain())).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, "QUOTA_EXCEEDED");
    assert_nothing_is_left(&service, &client).await;
}

/// SEC-35: without a word of the operator nothing inside is fetched from; by the call where the text tells, else by the job.
#[tokio::test(flavor = "multi_thread")]
async fn sec_35_nothing_inside_is_imported_from() {
    let service = Service::start_with(&["--import-ports", "1-65535"]);
    let client = service.client();
    let source = Source::of(disk(1 << 20));
    let port = source.url("").rsplit(':').next().unwrap().to_owned();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "http://user:password@mirror.example/".to_owned(),
        String::new(),
    ] {
        let refused = client.images().import_image(import(url, UploadMetadata::default())).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "URL_REFUSED");
    }
    let url = format!("http://localhost:{port}/");
    let job = client.import_image(import(url, UploadMetadata::default())).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, "URL_REFUSED");
    assert!(source.ranges().is_empty());
    assert_nothing_is_left(&service, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_one_import() {
    let service = start(&[]);
    let client = service.client();
    let source = Source::of(disk(1 << 20));
    let request = imageops::v1::ImportImageRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        ..import(source.url("/"), UploadMetadata::default())
    };
    let first = client.import_image(request.clone()).await.unwrap();
    wait_for(&client, &first.name, JobState::Succeeded).await;
    assert_eq!(client.import_image(request.clone()).await.unwrap().name, first.name);
    let other = imageops::v1::ImportImageRequest { url: source.url("/other"), ..request.clone() };
    let refused = client.images().import_image(other).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    let only = imageops::v1::ImportImageRequest { validate_only: true, ..request };
    let told = client.import_image(only).await.unwrap();
    assert_eq!((told.name.as_str(), told.kind()), ("", JobKind::Import));
    let metadata = UploadMetadata { session: "parts".to_owned(), part: 1, ..UploadMetadata::default() };
    let refused = client.images().import_image(import(source.url("/"), metadata)).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(source.ranges().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_asked_for_over_rest() {
    let service = start(&[]);
    let bytes = disk(1 << 20);
    let source = Source::of(bytes.clone());
    let body = serde_json::json!({
        "url": source.url("/disk.raw"),
        "metadata": { "displayName": "over REST", "expectedDigests": { "sha256": digests(&bytes).sha256 } },
    });
    let answer = post_json(service.http(), "/v1/imports", &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["kind"], "JOB_KIND_IMPORT");
    let place = answer.header("location").unwrap().to_owned();
    let deadline = Instant::now() + DEADLINE;
    let job = loop {
        let job = get(service.http(), &place).json();
        if job["state"] == "JOB_STATE_SUCCEEDED" {
            break job;
        }
        assert!(Instant::now() < deadline && job["state"] != "JOB_STATE_FAILED", "{job}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    let image = format!("/v1/{}", job["import"]["image"].as_str().unwrap());
    assert_eq!(get(service.http(), &image).json()["displayName"], "over REST");
    let refused = post_json(service.http(), "/v1/imports", &serde_json::json!({ "url": "ftp://a.example/" }));
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (400, Some("URL_REFUSED")));
}
