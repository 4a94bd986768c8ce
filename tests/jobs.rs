//! Checks and compressions as jobs: results, lists, waits, idempotency, limits, and where outputs may go.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CheckOutcome, CheckRequest, CompressRequest, CompressResult, Compression, ConvertRequest,
    DigestAlgorithm, Digests, ImageFormat, Job, JobKind, JobState, ListJobsRequest, Verdict, WaitJobRequest,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use support::images::{assert_same_content, have, image, images, qemu_img};
use support::jobs::{
    check_file, compress_file, download, ended, failed, file, image as image_source, slow_compress_file,
    write_busy_disk,
};
use support::status::assert_status;
use support::upload::{checked_digests, digests, upload};
use support::{Service, wait_for};

/// Long enough that a test can look at a job while it runs, also on a fast machine.
const BUSY_DISK_BYTES: u64 = 32 << 20;

fn compressed(job: &Job) -> &CompressResult {
    match job.result.as_ref().unwrap() {
        JobResult::Compress(result) => result,
        _ => panic!("{job:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_has_the_figures_of_qemu_img() {
    let Some(images) = images() else { return };
    let manifest = support::images::manifest(&images);
    let service = Service::start();
    let client = service.client();
    let names = [
        ("variants/v3.qcow2", CheckOutcome::Consistent),
        ("corrupt/leak.qcow2", CheckOutcome::Leaks),
        ("corrupt/refcount-zero.qcow2", CheckOutcome::Corrupt),
        ("fs/ext2-1k.raw", CheckOutcome::NotSupported),
        ("corrupt/header-cut.qcow2", CheckOutcome::Failed),
    ];
    for (name, outcome) in names {
        let data = std::fs::read(images.join(name)).unwrap();
        service.place(&images.join(name), name);
        let job = client.check(check_file(name)).await.unwrap();
        assert_eq!((job.kind(), job.source.clone()), (JobKind::Check, file(name)));
        let job = wait_for(&client, &job.name, JobState::Succeeded).await;
        let Some(JobResult::Check(result)) = job.result else { panic!("{job:?}") };
        assert_eq!(result.outcome(), outcome, "{name}");
        assert_eq!(result.digests, Some(checked_digests(&data)), "{name}");
        assert_eq!(result.failure.is_some(), outcome == CheckOutcome::Failed, "{name}");
        let peer = &manifest[name]["check"];
        let counted = outcome != CheckOutcome::NotSupported && outcome != CheckOutcome::Failed;
        assert_eq!(result.figures.is_some(), counted, "{name}");
        if let Some(figures) = result.figures {
            let of = |key: &str| peer[key].as_u64().unwrap_or(0);
            assert_eq!(
                (figures.check_errors, figures.corruptions, figures.leaks, figures.image_end_offset_bytes),
                (of("check-errors"), of("corruptions"), of("leaks"), of("image-end-offset")),
                "{name}"
            );
            assert_eq!(
                (figures.total_clusters, figures.allocated_clusters, figures.fragmented_clusters),
                (of("total-clusters"), of("allocated-clusters"), of("fragmented-clusters")),
                "{name}"
            );
        }
        if matches!(outcome, CheckOutcome::Leaks | CheckOutcome::Corrupt) {
            assert!(result.finding_count > 0 && !result.findings.is_empty(), "{name}");
        }
        assert!(result.inspection.is_some(), "{name}");
        assert_eq!(job.attempt, 1);
        assert!((job.progress.unwrap().percent - 100.0).abs() < f64::EPSILON);
        assert!(job.create_time.is_some() && job.start_time.is_some() && job.end_time.is_some());
        assert!(job.expire_time.unwrap().seconds - job.end_time.unwrap().seconds == 30 * 86_400);
    }
}

#[tokio::test]
async fn the_digests_of_a_check_can_be_chosen() {
    let service = Service::start();
    let client = service.client();
    std::fs::write(service.image_path().join("disk.raw"), [4; 70_000]).unwrap();
    let all = digests(&[4; 70_000]);
    let cases = [
        (vec![], false, (all.md5.as_str(), all.sha256.as_str())),
        (vec![DigestAlgorithm::Md5], false, (all.md5.as_str(), "")),
        (vec![DigestAlgorithm::Sha256], false, ("", all.sha256.as_str())),
        (vec![], true, ("", "")),
    ];
    for (chosen, skip_digests, expected) in cases {
        let digests = chosen.into_iter().map(i32::from).collect();
        let request = CheckRequest { digests, skip_digests, ..check_file("disk.raw") };
        let job = client.check(request).await.unwrap();
        let job = wait_for(&client, &job.name, JobState::Succeeded).await;
        let Some(JobResult::Check(result)) = job.result else { panic!("{job:?}") };
        let found = result.digests.unwrap();
        assert_eq!((found.md5.as_str(), found.sha256.as_str()), expected);
    }
    let both = CheckRequest { digests: vec![1], skip_digests: true, ..check_file("disk.raw") };
    assert_eq!(client.check(both).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_compressed_into_a_file() {
    let Some(debian) = image("debian-ext4.qcow2") else { return };
    if !have("qemu-img") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let source = service.place(&debian, "10.0.0.7/debian.img");
    let before = digests(&std::fs::read(&source).unwrap());
    let job = client.compress(compress_file("10.0.0.7/debian.img", "10.0.0.7/small.img")).await.unwrap();
    assert_eq!((job.kind(), job.output_file.as_str()), (JobKind::Compress, "10.0.0.7/small.img"));
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let result = compressed(&job);
    let output = service.image_path().join("10.0.0.7/small.img");
    let length = std::fs::metadata(&output).unwrap().len();
    assert_eq!((result.output_file.as_str(), result.output_image.as_str()), ("10.0.0.7/small.img", ""));
    assert_eq!((result.output_bytes, result.source_format()), (length, ImageFormat::Qcow2));
    assert!(result.verified && result.dropped_bytes > 0 && !result.parts.is_empty(), "{result:?}");
    assert_eq!(digests(&std::fs::read(&source).unwrap()), before, "R-8: the source is as it was");
    let check = qemu_img(["check", output.to_str().unwrap()]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(std::fs::metadata(&output).unwrap().mode() & 0o777, 0o644, "others read it too");

    // With everything kept, by each coder, the disk is the same byte for byte.
    for (compression, name) in [(Compression::Zlib, "all-zlib.img"), (Compression::Zstd, "all-zstd.img")] {
        let request = CompressRequest {
            keep_free_space: true,
            compression: compression.into(),
            ..compress_file("10.0.0.7/debian.img", name)
        };
        let job = client.compress(request).await.unwrap();
        let job = wait_for(&client, &job.name, JobState::Succeeded).await;
        assert_eq!(compressed(&job).dropped_bytes, 0);
        assert_same_content(&source, &service.image_path().join(name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_compressed_into_a_new_image() {
    let Some(debian) = image("debian-ext4.qcow2") else { return };
    let service = Service::start();
    let client = service.client();
    let data = std::fs::read(&debian).unwrap();
    let source = upload(&client, &data).await;
    let request = CompressRequest { source: image_source(&source.name), ..CompressRequest::default() };
    let job = client.compress(request.clone()).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let result = compressed(&job);
    assert_eq!(result.output_file, "");
    let bytes = download(&client, &result.output_image).await;
    assert_eq!(result.digests, Some(digests(&bytes)));
    assert_eq!(result.output_bytes, bytes.len() as u64);
    assert!(download(&client, &source.name).await == data, "SEC-27: a stored image never changes");
    assert_eq!(service.staged(), [""; 0]);
    assert_eq!(service.blobs().len(), 2);
    if have("qemu-img") {
        let (one, other) = (service.scratch().join("one"), service.scratch().join("other"));
        std::fs::write(&one, &bytes).unwrap();
        assert!(qemu_img(["check", one.to_str().unwrap()]).status.success());
        let whole = CompressRequest { keep_free_space: true, ..request.clone() };
        let job = client.compress(whole).await.unwrap();
        let job = wait_for(&client, &job.name, JobState::Succeeded).await;
        std::fs::write(&other, download(&client, &compressed(&job).output_image).await).unwrap();
        assert_same_content(&debian, &other);
    }
    // A checked image needs no file either.
    let check = CheckRequest { source: image_source(&source.name), ..CheckRequest::default() };
    let job = client.check(check).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(JobResult::Check(result)) = job.result else { panic!("{job:?}") };
    // A check takes no CRC.
    let known = source.digests.map(|digests| Digests { crc32: None, ..digests });
    assert_eq!(result.digests, known);

    let with_file = CompressRequest { output_file: "x.img".to_owned(), ..request };
    let refused = client.stub().compress(with_file).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_OUTPUT_FILE");
}

#[tokio::test]
async fn jobs_are_listed_newest_first_in_pages_and_by_filters() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    service.place(&images.join("variants/v3-4k.qcow2"), "a.img");
    let mut names = Vec::new();
    for index in 0..7 {
        let job = if index % 3 == 0 {
            client.compress(compress_file("a.img", &format!("out-{index}.img"))).await.unwrap()
        } else {
            client.check(check_file("a.img")).await.unwrap()
        };
        wait_for(&client, &job.name, JobState::Succeeded).await;
        names.insert(0, job.name);
    }
    let list = async |request: ListJobsRequest| client.list_jobs(request).await.unwrap();
    let mut paged = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = list(ListJobsRequest { page_size: 3, page_token, ..Default::default() }).await;
        assert!(page.jobs.len() <= 3);
        paged.extend(page.jobs.into_iter().map(|job| job.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, names);
    let compressions = ListJobsRequest { kinds: vec![JobKind::Compress.into()], ..Default::default() };
    let found = list(compressions.clone()).await;
    assert_eq!(found.jobs.len(), 3);
    assert!(found.jobs.iter().all(|job| job.kind() == JobKind::Compress && job.result.is_some()));
    let failed = ListJobsRequest { states: vec![JobState::Failed.into()], ..Default::default() };
    assert!(list(failed).await.jobs.is_empty());
    let done = vec![JobState::Failed.into(), JobState::Succeeded.into()];
    assert_eq!(list(ListJobsRequest { states: done, ..Default::default() }).await.jobs.len(), 7);

    // A token belongs to its filters, and nothing else is a token.
    let first = list(ListJobsRequest { page_size: 1, ..compressions }).await;
    for (page_token, states, kinds) in [
        (first.next_page_token.clone(), vec![], vec![]),
        ("nonsense".to_owned(), vec![], vec![]),
        (String::new(), vec![0], vec![]),
        (String::new(), vec![77], vec![]),
        (String::new(), vec![], vec![-1]),
    ] {
        let request = ListJobsRequest { page_size: 1, page_token, states, kinds };
        let refused = client.stub().list_jobs(request).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_job_or_with_its_time() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let begun = Instant::now();
    let waited = client.wait_job(&job.name, Some(Duration::from_millis(300))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "it waits");
    assert!(matches!(waited.state(), JobState::Queued | JobState::Running), "{waited:?}");
    let mut request = tonic::Request::new(WaitJobRequest { name: job.name.clone(), timeout: None });
    request.set_timeout(support::DEADLINE);
    let whole = client.stub().wait_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(whole.state(), JobState::Succeeded);
    let negative = pbjson_types::Duration { seconds: -1, nanos: 0 };
    let request = WaitJobRequest { name: job.name, timeout: Some(negative) };
    let refused = client.stub().wait_job(request).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn a_request_id_starts_one_job() {
    let mut service = Service::start();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let request_id = uuid::Uuid::new_v4().to_string();
    let request = CheckRequest { request_id, ..check_file("a.raw") };
    let first = service.client().check(request.clone()).await.unwrap();
    ended(&service.client(), &first.name).await;
    for restart in [false, true] {
        if restart {
            service.restart();
        }
        let client = service.client();
        assert_eq!(client.check(request.clone()).await.unwrap().name, first.name);
        let other = CheckRequest { skip_digests: true, ..request.clone() };
        let refused = client.stub().check(other).await.unwrap_err();
        assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
        // Of another kind it is another request too.
        let compress =
            CompressRequest { request_id: request.request_id.clone(), ..compress_file("a.raw", "o.img") };
        let refused = client.stub().compress(compress).await.unwrap_err();
        assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
        assert_eq!(client.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.len(), 1);
    }
    let no_uuid = CheckRequest { request_id: "mine".to_owned(), ..request };
    let refused = service.client().stub().check(no_uuid).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "request_id");
}

/// A check and a compression of one image are the same bytes on the wire, and still two requests.
#[tokio::test]
async fn a_request_id_belongs_to_one_kind() {
    let service = Service::start();
    let client = service.client();
    let source = upload(&client, &[6; 8192]).await;
    let request_id = uuid::Uuid::new_v4().to_string();
    let check = CheckRequest {
        source: image_source(&source.name),
        request_id: request_id.clone(),
        ..CheckRequest::default()
    };
    client.check(check).await.unwrap();
    let compress =
        CompressRequest { source: image_source(&source.name), request_id, ..CompressRequest::default() };
    let refused = client.stub().compress(compress).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
}

/// The first job answers a repeated request also when its source is gone by then.
#[tokio::test]
async fn a_repeated_request_needs_no_source_any_more() {
    let service = Service::start();
    let client = service.client();
    let path = service.image_path().join("a.raw");
    std::fs::write(&path, [1; 4096]).unwrap();
    let request = CheckRequest { request_id: uuid::Uuid::new_v4().to_string(), ..check_file("a.raw") };
    let first = client.check(request.clone()).await.unwrap();
    ended(&client, &first.name).await;
    std::fs::remove_file(path).unwrap();
    assert_eq!(client.check(request).await.unwrap().name, first.name);
}

/// Who gives no request id wants the work done, not done twice.
#[tokio::test(flavor = "multi_thread")]
async fn sec_42_the_same_asked_for_twice_is_one_job() {
    let service = Service::start_with(&["--workers", "1"]);
    let client = service.client();
    let busy = service.image_path().join("busy.raw");
    write_busy_disk(&busy, BUSY_DISK_BYTES);
    let stored = upload(&client, &[3; 70_000]).await;
    let stub = || client.stub();
    let slow = stub().compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let slow = slow.into_inner().job.unwrap().name;
    wait_for(&client, &slow, JobState::Running).await;

    // The only worker is busy: what is asked for waits.
    let check =
        async |request: CheckRequest| stub().check(request).await.unwrap().into_inner().job.unwrap().name;
    let of_image = || CheckRequest { source: image_source(&stored.name), ..CheckRequest::default() };
    let first = check(check_file("busy.raw")).await;
    assert_eq!(check(check_file("busy.raw")).await, first);
    let both = [DigestAlgorithm::Sha256.into(), DigestAlgorithm::Md5.into()].to_vec();
    assert_eq!(check(CheckRequest { digests: both, ..check_file("busy.raw") }).await, first);
    let body = serde_json::json!({"source": {"file": "busy.raw"}});
    let rest = support::http::post_json(service.http(), "/v1/checks", &body);
    assert_eq!(rest.json()["name"], *first);
    let second = check(of_image()).await;
    assert_eq!(check(of_image()).await, second);
    let converted = async || {
        let request = ConvertRequest {
            source: image_source(&stored.name),
            format: ImageFormat::Qcow2.into(),
            ..Default::default()
        };
        stub().convert(request).await.unwrap().into_inner().job.unwrap().name
    };
    assert_eq!(converted().await, converted().await);

    // One that runs may have read what is other bytes by now; and of two that write one file the last one asked for counts.
    let compressed = async || {
        let request = slow_compress_file("busy.raw", "out.img");
        stub().compress(request).await.unwrap().into_inner().job.unwrap().name
    };
    let next = compressed().await;
    assert_ne!(next, slow);
    assert_eq!(compressed().await, next);
    let elsewhere = stub().compress(compress_file("busy.raw", "out.img")).await.unwrap();
    assert_ne!(elsewhere.into_inner().job.unwrap().name, next);
    assert_ne!(compressed().await, next);

    // Other work is another job, and so is what has an id of its own, or what somebody wants to end.
    let bare = CheckRequest { skip_digests: true, ..check_file("busy.raw") };
    assert_ne!(check(bare).await, first);
    let with_id = CheckRequest { request_id: uuid::Uuid::new_v4().to_string(), ..check_file("busy.raw") };
    assert_ne!(check(with_id).await, first);
    client.cancel_job(&first).await.unwrap();
    let wanted = check(check_file("busy.raw")).await;
    assert_ne!(wanted, first);
    assert_eq!(check(check_file("busy.raw")).await, wanted);
}

#[tokio::test]
async fn validate_only_answers_and_starts_nothing() {
    let service = Service::start();
    let client = service.client();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let check = CheckRequest { validate_only: true, ..check_file("a.raw") };
    let job = client.check(check).await.unwrap();
    assert_eq!((job.name.as_str(), job.kind(), job.state()), ("", JobKind::Check, JobState::Queued));
    let compress = CompressRequest { validate_only: true, ..compress_file("a.raw", "b.img") };
    let job = client.compress(compress).await.unwrap();
    assert_eq!((job.name.as_str(), job.output_file.as_str()), ("", "b.img"));
    let missing = CheckRequest { validate_only: true, ..check_file("none.raw") };
    let refused = client.stub().check(missing).await.unwrap_err();
    assert_status(&refused, Code::NotFound, "FILE_NOT_FOUND");
    assert!(client.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.is_empty());
    assert_eq!(service.image_names(), ["a.raw"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ended_jobs_are_forgotten() {
    let service = Service::start_with(&["--workers", "1"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let running = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    wait_for(&client, &running.name, JobState::Running).await;
    let queued = client.check(check_file("busy.raw")).await.unwrap();
    for name in [&running.name, &queued.name] {
        let refused = client.delete_job(name).await.unwrap_err();
        assert_eq!((refused.code(), refused.reason()), (Code::FailedPrecondition, "JOB_NOT_ENDED"));
    }
    wait_for(&client, &running.name, JobState::Succeeded).await;
    client.delete_job(&running.name).await.unwrap();
    let gone = client.get_job(&running.name).await.unwrap_err();
    assert_eq!((gone.code(), gone.reason()), (Code::NotFound, "JOB_NOT_FOUND"));
    assert_eq!(client.delete_job(&running.name).await.unwrap_err().code(), Code::NotFound);
    assert!(service.image_path().join("out.img").is_file(), "what it made stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    let service = Service::start_with(&["--workers", "1", "--queue-limit", "3"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let mut jobs = Vec::new();
    for index in 0..3 {
        let request = slow_compress_file("busy.raw", &format!("out-{index}.img"));
        jobs.push(client.compress(request).await.unwrap().name);
    }
    let full = client.stub().check(check_file("busy.raw")).await.unwrap_err();
    assert_status(&full, Code::ResourceExhausted, "LIMIT_REACHED");
    assert!(full.get_details_retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    let rest = support::http::post_json(
        service.http(),
        "/v1/checks",
        &serde_json::json!({"source": {"file": "busy.raw"}}),
    );
    assert_eq!(rest.status, 429);
    assert!(rest.header("retry-after").is_some());
    client.cancel_job(&jobs[2]).await.unwrap();
    client.stub().check(check_file("busy.raw")).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_long_fails_with_timeout() {
    let service = Service::start_with(&["--job-timeout-seconds", "1"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 512 << 20);
    let request = CompressRequest {
        level: Some(22),
        compression: Compression::Zstd.into(),
        ..compress_file("busy.raw", "out.img")
    };
    let job = client.compress(request).await.unwrap();
    let begun = Instant::now();
    let job = ended(&client, &job.name).await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    let error = job.error.unwrap();
    assert_eq!((error.reason.as_str(), error.code), ("TIMEOUT", Code::DeadlineExceeded as i32));
    assert!(job.progress.unwrap().percent < 100.0);
    assert_eq!(service.image_names(), ["busy.raw"], "it left nothing");
}

#[tokio::test]
async fn an_output_never_takes_the_place_of_its_source() {
    let service = Service::start();
    let client = service.client();
    let root = service.image_path();
    std::fs::write(root.join("a.raw"), [1; 4096]).unwrap();
    std::fs::create_dir(root.join("sub")).unwrap();
    std::os::unix::fs::symlink("a.raw", root.join("link.raw")).unwrap();
    std::fs::hard_link(root.join("a.raw"), root.join("hard.raw")).unwrap();
    for name in ["a.raw", "./a.raw", "sub/../a.raw", "link.raw", "hard.raw"] {
        let refused = client.stub().compress(compress_file("a.raw", name)).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "OUTPUT_IS_SOURCE");
    }
    for name in ["", "missing/out.img", "sub", "sub/", ".", "..", "../out.img", "/tmp/out.img", "a\0b"] {
        let refused = client.stub().compress(compress_file("a.raw", name)).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_OUTPUT_FILE");
    }
    assert_eq!(std::fs::read(root.join("a.raw")).unwrap(), [1; 4096]);
    assert_eq!(service.image_names(), ["a.raw", "hard.raw", "link.raw", "sub"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_output_is_replaced_by_success_alone() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    let output = service.image_path().join("out.img");
    std::fs::write(&output, "the old output").unwrap();
    let bad = [
        "corrupt/header-cut.qcow2",
        "corrupt/unaligned-data.qcow2",
        "variants/backing-top.qcow2",
        "variants/data-file.qcow2",
        "variants/luks.qcow2",
        "formats/vmdk-sparse.vmdk",
    ];
    let mut reasons = BTreeSet::new();
    for name in bad {
        service.place(&images.join(name), name);
        let job = client.compress(compress_file(name, "out.img")).await.unwrap();
        let reason = failed(&client, &job.name).await;
        assert!(!reason.is_empty() && reason != "INTERNAL", "{name}: {reason}");
        reasons.insert(reason);
        assert_eq!(std::fs::read(&output).unwrap(), b"the old output", "{name}");
    }
    assert!(reasons.contains("UNSAFE_BACKING_FILE") && reasons.contains("UNSAFE_DATA_FILE"), "{reasons:?}");
    service.place(&images.join("variants/v3.qcow2"), "good.img");
    let job = client.compress(compress_file("good.img", "out.img")).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
    assert!(std::fs::read(&output).unwrap().starts_with(b"QFI\xfb"));
    let partial = service.image_names().into_iter().find(|name| name.contains("partial"));
    assert_eq!(partial, None);
}

#[tokio::test]
async fn levels_and_coders_out_of_range_are_refused() {
    let service = Service::start();
    let client = service.client();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let request =
        |compression: i32, level| CompressRequest { compression, level, ..compress_file("a.raw", "b.img") };
    for (compression, level) in [(0, Some(0)), (1, Some(13)), (2, Some(0)), (2, Some(23)), (9, None)] {
        let refused = client.stub().compress(request(compression, level)).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let no_source = CheckRequest::default();
    let refused = client.stub().check(no_source).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    let long = check_file(&"n".repeat(4097));
    let refused = client.stub().check(long).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_names_what_was_dropped_from_each_volume() {
    let Some(debian) = image("debian-lvm.qcow2") else { return };
    let service = Service::start();
    let client = service.client();
    service.place(&debian, "lvm.img");
    let job = client.compress(compress_file("lvm.img", "small.img")).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let result = compressed(&job);
    let part = result.parts.iter().find(|part| !part.volumes.is_empty()).unwrap();
    assert!(part.part.as_ref().is_some_and(|part| part.volumes.is_empty()), "they are listed once");
    let volumes = part.volumes.iter().map(|volume| volume.volume.as_ref().unwrap().volume_name.as_str());
    assert_eq!(volumes.collect::<Vec<_>>(), ["vg0/root", "vg0/swap"]);
    let dropped: u64 = part.volumes.iter().map(|volume| volume.dropped_bytes).sum();
    assert!(part.volumes[0].dropped_bytes > 0 && dropped <= part.dropped_bytes, "{part:?}");
}

#[tokio::test]
async fn inspect_answers_a_verdict_at_once() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    for (name, format, verdict) in [
        ("debian-ext4.qcow2", ImageFormat::Qcow2, Verdict::Valid),
        ("debian-lvm.qcow2", ImageFormat::Qcow2, Verdict::Valid),
        ("formats/disc.iso", ImageFormat::Iso, Verdict::Valid),
        ("variants/backing-top.qcow2", ImageFormat::Qcow2, Verdict::Unsafe),
        ("corrupt/corrupt-bit.qcow2", ImageFormat::Qcow2, Verdict::Corrupt),
        ("formats/vhdx.vhdx", ImageFormat::Vhdx, Verdict::Unsupported),
    ] {
        service.place(&images.join(name), name);
        let request =
            imageops::v1::InspectRequest { source: file(name), ..imageops::v1::InspectRequest::default() };
        let found = client.inspect(request).await.unwrap();
        assert_eq!((found.format(), found.verdict()), (format, verdict), "{name}: {found:?}");
        assert_eq!(found.reasons.is_empty(), verdict == Verdict::Valid, "{name}");
        if name == "debian-ext4.qcow2" {
            let systems: Vec<_> = found.parts.iter().map(|part| part.file_system.as_str()).collect();
            assert!(systems.contains(&"ext4"), "{systems:?}");
            assert!(found.parts.iter().any(|part| part.free_bytes.is_some_and(|free| free > 0)));
        }
        if name == "debian-lvm.qcow2" {
            let volumes = found.parts.iter().flat_map(|part| &part.volumes);
            let root = volumes.into_iter().find(|volume| volume.volume_name == "vg0/root").unwrap();
            assert_eq!((root.file_system.as_str(), root.label.as_str()), ("ext4", "root"));
            assert!(root.free_bytes.is_some_and(|free| free > 0) && root.kept.is_none(), "{root:?}");
        }
    }
    assert_eq!(client.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.len(), 0);
}
