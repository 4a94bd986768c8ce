//! SIGKILL at any moment: each job ends once, ids stay valid, nothing half-written is seen or kept.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Stdio;
use std::time::Duration;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{CheckRequest, CompressRequest, JobKind, JobState};

use support::images::{have, qemu_img};
use support::jobs::{check_file, compress_file, download, ended, image, slow_compress_file, write_busy_disk};
use support::random::Random;
use support::status::eventually;
use support::upload::{Stream, checked_digests, commit_of, digests, metadata, name_of, upload};
use support::{Service, wait_for};

const DISK_BYTES: u64 = 24 << 20;

/// rel_02: twenty kills while jobs of each kind run; afterwards every job has succeeded, with exactly one output.
#[tokio::test(flavor = "multi_thread")]
async fn rel_02_jobs_go_on_after_sigkill() {
    // Kills of the server count as crashes of its jobs; here no number of them may stop a job.
    let mut service = Service::start_with(&["--job-attempts", "100"]);
    let mut random = Random::new("rel_02");
    write_busy_disk(&service.image_path().join("busy.raw"), DISK_BYTES);
    let disk = std::fs::read(service.image_path().join("busy.raw")).unwrap();
    let source = upload(&service.client(), &disk).await.name;
    let mut jobs = Vec::new();
    for round in 0..20 {
        let client = service.client();
        let job = match round % 3 {
            0 => {
                let output = format!("out-{round}.img");
                let request = CompressRequest { level: Some(9), ..compress_file("busy.raw", &output) };
                client.compress(request).await
            }
            1 => client.check(check_file("busy.raw")).await,
            _ => {
                let request =
                    CompressRequest { source: image(&source), level: Some(9), ..CompressRequest::default() };
                client.compress(request).await
            }
        };
        jobs.push(job.unwrap().name);
        tokio::time::sleep(Duration::from_millis(random.below(700))).await;
        service.restart();
    }
    let client = service.client();
    let (mut files, mut images, mut crashed) = (Vec::new(), 1, 0);
    for name in &jobs {
        let job = ended(&client, name).await;
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        crashed += u32::from(job.attempt > 1);
        match job.result.unwrap() {
            JobResult::Check(result) => assert_eq!(result.digests, Some(checked_digests(&disk))),
            JobResult::Compress(result) if result.output_image.is_empty() => {
                assert!(result.verified);
                files.push(result.output_file);
            }
            JobResult::Compress(result) => {
                images += 1;
                assert_eq!(result.digests, Some(digests(&download(&client, &result.output_image).await)));
            }
            other => panic!("{name} ended with {other:?}"),
        }
    }
    assert!(crashed > 0, "no kill fell into a job");
    let checked = have("qemu-img");
    for file in files.iter().filter(|_| checked) {
        let output = service.image_path().join(file);
        assert!(qemu_img(["check", output.to_str().unwrap()]).status.success(), "{file}");
    }
    files.push("busy.raw".to_owned());
    files.sort();
    assert_eq!(service.image_names(), files, "one output for each job, nothing unfinished");
    assert_eq!((service.staged(), service.blobs().len()), (vec![], images));
    assert!(std::fs::read(service.image_path().join("busy.raw")).unwrap() == disk, "R-8");
}

/// A job that takes its worker with it again and again is given up, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn rel_03_a_job_is_given_up_after_its_attempts() {
    let mut service = Service::start_with(&["--job-attempts", "2"]);
    write_busy_disk(&service.image_path().join("busy.raw"), 512 << 20);
    let job = service.client().compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
    for attempt in 1..=2 {
        let client = service.client();
        eventually("the next attempt", || async {
            let job = client.get_job(&job).await.unwrap();
            assert!(job.attempt <= attempt, "{job:?}");
            let under_way = job.progress.is_some_and(|progress| progress.percent > 0.0);
            (job.state() == JobState::Running && job.attempt == attempt && under_way).then_some(())
        })
        .await;
        service.restart();
    }
    let ended = ended(&service.client(), &job).await;
    assert_eq!((ended.state(), ended.attempt), (JobState::Failed, 2));
    assert_eq!(ended.error.unwrap().reason, "WORKER_CRASHED");
    assert_eq!(service.image_names(), ["busy.raw"]);
}

/// rel_06: killed in the middle of starting, again and again: each start is as good as the first.
#[tokio::test(flavor = "multi_thread")]
async fn rel_06_a_crash_loop_during_start_up_changes_nothing() {
    let mut service = Service::start_with(&["--job-attempts", "100"]);
    let mut random = Random::new("rel_06");
    let client = service.client();
    let data = random.bytes(3 << 20);
    let image = upload(&client, &data).await;
    let open = metadata("open");
    let stream = Stream::begin(&client, &open).await;
    stream.chunks(0, &data[..1 << 20]).await;
    stream.close().await.unwrap();
    write_busy_disk(&service.image_path().join("busy.raw"), DISK_BYTES);
    let done = client.check(check_file("busy.raw")).await.unwrap().name;
    let done = wait_for(&client, &done, JobState::Succeeded).await;
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
    wait_for(&client, &job, JobState::Running).await;
    service.kill();
    for _ in 0..30 {
        let mut command = service.setup().command();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(120)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(service.staged().len() <= 2, "staging grows: {:?}", service.staged());
        let partials = service.image_names().len();
        assert!(partials <= 4, "unfinished outputs pile up: {:?}", service.image_names());
    }
    service.restart();
    let client = service.client();
    wait_for(&client, &job, JobState::Succeeded).await;
    assert_eq!(client.get_job(&done.name).await.unwrap(), done, "what was known stays known");
    assert!(download(&client, &image.name).await == data);
    let upload = client.get_upload(&name_of(&open)).await.unwrap();
    assert_eq!(upload.durable_bytes, 1 << 20);
    let stream = Stream::resume(&client, &upload.name, upload.durable_bytes).await;
    stream.chunks(upload.durable_bytes, &data).await;
    stream.commit(commit_of(&data)).await.unwrap();
    assert_eq!(service.staged(), [""; 0]);
    assert_eq!(service.image_names(), ["busy.raw", "out.img"]);
}

/// What was being written when the server died is cleared away, and only that.
#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_killed_server_are_removed() {
    let mut service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 512 << 20);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
    let is_partial = |name: &String| name.ends_with(".partial");
    eventually("progress", || async {
        let progress = client.get_job(&job).await.unwrap().progress.unwrap_or_default();
        (progress.percent > 1.0).then_some(())
    })
    .await;
    service.kill();
    std::fs::write(service.image_path().join("mine.partial"), "not the server's").unwrap();
    std::fs::write(service.data_dir().join("store/staging/stray"), "nobody's").unwrap();
    std::fs::write(service.data_dir().join("store/blobs/stray"), "nobody's").unwrap();
    service.restart();
    let client = service.client();
    client.cancel_job(&job).await.unwrap();
    assert_eq!(ended(&client, &job).await.state(), JobState::Cancelled);
    let names = service.image_names();
    assert_eq!(names.iter().filter(|name| is_partial(name)).collect::<Vec<_>>(), ["mine.partial"]);
    assert_eq!(names, ["busy.raw", "mine.partial"]);
    assert_eq!((service.staged(), service.blobs()), (vec![], vec![]));
}

/// the first job runs at once after a restart, not when the lease of a former life has run out.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_at_once() {
    let mut service = Service::start_with(&["--workers", "1"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 48 << 20);
    let running = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
    wait_for(&client, &running, JobState::Running).await;
    let queued = client.check(CheckRequest { skip_digests: true, ..check_file("busy.raw") }).await.unwrap();
    service.restart();
    let begun = std::time::Instant::now();
    let client = service.client();
    let job = eventually("the second attempt", || async {
        let job = client.get_job(&running).await.unwrap();
        (job.attempt == 2).then_some(job)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(job.kind(), JobKind::Compress);
    wait_for(&client, &running, JobState::Succeeded).await;
    wait_for(&client, &queued.name, JobState::Succeeded).await;
    let again = client.compress(compress_file("busy.raw", "again.img")).await.unwrap();
    wait_for(&client, &again.name, JobState::Succeeded).await;
}
