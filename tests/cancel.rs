//! Work can be stopped: queued at once, running within seconds, and nothing of it stays.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use imageops::v1::{CheckRequest, CompressRequest, Compression, EstimateCompressionRequest, JobState};
use tonic::Code;

use support::jobs::{check_file, compress_file, ended, file, image, slow_compress_file, write_busy_disk};
use support::random::Random;
use support::status::eventually;
use support::upload::{Stream, metadata};
use support::{Service, wait_for};

const BUSY_DISK_BYTES: u64 = 512 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_job_is_cancelled_at_once() {
    let service = Service::start_with(&["--workers", "1"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let busy = client.compress(slow_compress_file("busy.raw", "busy.img")).await.unwrap();
    wait_for(&client, &busy.name, JobState::Running).await;
    let queued = client.compress(compress_file("busy.raw", "queued.img")).await.unwrap();
    let cancelled = client.cancel_job(&queued.name).await.unwrap();
    assert_eq!((cancelled.state(), cancelled.attempt), (JobState::Cancelled, 0));
    assert!(cancelled.start_time.is_none() && cancelled.end_time.is_some());
    assert_eq!((cancelled.error, cancelled.result), (None, None));
    client.cancel_job(&busy.name).await.unwrap();
    assert_eq!(ended(&client, &busy.name).await.state(), JobState::Cancelled);
    assert_eq!(service.image_names(), ["busy.raw"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_is_cancelled_while_it_packs() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let request = EstimateCompressionRequest {
        source: file("busy.raw"),
        compression: Compression::Zstd.into(),
        level: Some(22),
        ..EstimateCompressionRequest::default()
    };
    let job = client.estimate_compression(request).await.unwrap();
    wait_for(&client, &job.name, JobState::Running).await;
    client.cancel_job(&job.name).await.unwrap();
    let job = ended(&client, &job.name).await;
    assert_eq!((job.state(), job.result), (JobState::Cancelled, None));
}

/// rel_44: at whatever moment, a running job is gone in two seconds, and its bytes with it.
#[tokio::test(flavor = "multi_thread")]
async fn rel_44_a_running_job_stops_within_two_seconds() {
    let service = Service::start();
    let client = service.client();
    let mut random = Random::new("rel_44");
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    std::fs::write(service.image_path().join("out.img"), "the old output").unwrap();
    for round in 0..10 {
        let job = if round % 2 == 0 {
            client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap()
        } else {
            client.check(check_file("busy.raw")).await.unwrap()
        };
        wait_for(&client, &job.name, JobState::Running).await;
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        let begun = Instant::now();
        match client.cancel_job(&job.name).await {
            Ok(asked) => assert!(asked.cancel_requested || asked.state() == JobState::Cancelled),
            Err(late) => {
                assert_eq!((late.code(), late.reason()), (Code::FailedPrecondition, "JOB_ENDED"));
                continue;
            }
        }
        let job = ended(&client, &job.name).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(job.state(), JobState::Cancelled, "{job:?}");
        assert_eq!((&job.error, &job.result), (&None, &None));
        assert_eq!(service.image_names(), ["busy.raw", "out.img"], "nothing is left behind");
        assert_eq!(std::fs::read(service.image_path().join("out.img")).unwrap(), b"the old output");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_compression_of_an_image_leaves_no_image() {
    let service = Service::start();
    let client = service.client();
    let disk = service.scratch().join("busy.raw");
    write_busy_disk(&disk, 128 << 20);
    let data = std::fs::read(&disk).unwrap();
    let stream = Stream::begin(&client, &metadata("busy")).await;
    stream.chunks(0, &data).await;
    let source = stream.commit(Default::default()).await.unwrap().image.unwrap();
    let request =
        CompressRequest { source: image(&source.name), level: Some(12), ..CompressRequest::default() };
    let job = client.compress(request).await.unwrap();
    eventually("a staged output", || async { (!service.staged().is_empty()).then_some(()) }).await;
    client.cancel_job(&job.name).await.unwrap();
    assert_eq!(ended(&client, &job.name).await.state(), JobState::Cancelled);
    assert_eq!((service.staged(), service.blobs().len()), (vec![], 1));
    // The source is still there to work with.
    let check = CheckRequest { source: image(&source.name), ..CheckRequest::default() };
    let job = client.check(check).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
}

#[tokio::test]
async fn a_wish_that_comes_too_late_says_so() {
    let service = Service::start();
    let client = service.client();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let done = client.check(check_file("a.raw")).await.unwrap();
    let done = wait_for(&client, &done.name, JobState::Succeeded).await;
    let late = client.cancel_job(&done.name).await.unwrap_err();
    assert_eq!((late.code(), late.reason()), (Code::FailedPrecondition, "JOB_ENDED"));
    assert_eq!(client.get_job(&done.name).await.unwrap(), done, "it stays as it was");
    let path = format!("/v1/jobs/{}:cancel", done.name.trim_start_matches("jobs/"));
    let rest = support::http::request(service.http(), "POST", &path, &[], &[]);
    assert_eq!((rest.status, rest.json()["reason"].as_str()), (409, Some("JOB_ENDED")), "{}", rest.text());
    let unknown = client.cancel_job(&format!("jobs/{}", uuid::Uuid::new_v4())).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (Code::NotFound, "JOB_NOT_FOUND"));
}
