//! What one tenant may take of the server, and what is left for the others (SEC-42).

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use imageops::v1::{CheckRequest, CompressRequest, DownloadImageRequest, Job, JobState, ListJobsRequest};
use tonic::Code;

use support::Service;
use support::http::request;
use support::jobs::{ended, image, write_busy_disk};
use support::status::{assert_status, eventually};
use support::upload::upload;

#[tokio::test]
async fn a_tenant_makes_so_many_calls_a_second() {
    let service = Service::start_with(&["--auth", "token", "--tenant-calls-per-second", "5"]);
    let (key, other) = (service.make_key("read,write", Some("a")), service.make_key("read,write", Some("b")));
    let client = service.client_with_key(&key);
    let mut refused = None;
    for _ in 0..1_000 {
        if let Err(status) = client.stub().list_jobs(ListJobsRequest::default()).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("a refusal within a thousand calls");
    assert_status(&refused, Code::ResourceExhausted, "LIMIT_REACHED");
    service.client_with_key(&other).stub().list_jobs(ListJobsRequest::default()).await.unwrap();
    let bearer = format!("Bearer {key}");
    let answer = eventually("a refusal over REST", || async {
        let answer = request(service.http(), "GET", "/v1/jobs", &[("authorization", &bearer)], &[]);
        (answer.status == 429).then_some(answer)
    })
    .await;
    assert!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
    assert_eq!(request(service.http(), "GET", "/healthz", &[], &[]).status, 200);
    // The client library waits as long as it was told.
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
}

#[tokio::test]
async fn a_tenant_has_so_many_calls_under_way() {
    let service = Service::start_with(&["--auth", "token", "--tenant-calls-max", "2"]);
    let (client, other) = (
        service.client_with_key(&service.make_key("read,write", Some("a"))),
        service.client_with_key(&service.make_key("read,write", Some("b"))),
    );
    // Longer than what is sent ahead of a reader: the answers do not end while nobody reads.
    let stored = upload(&client, &vec![1; 20 << 20]).await;
    let download = || DownloadImageRequest { image: stored.name.clone(), ..Default::default() };
    // The place of the upload is free a moment after its answer.
    let begin = async || {
        eventually("a download", || async { client.stub().download_image(download()).await.ok() }).await
    };
    let (first, second) = (begin().await, begin().await);
    let refused = client.stub().list_jobs(ListJobsRequest::default()).await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "LIMIT_REACHED");
    other.stub().list_jobs(ListJobsRequest::default()).await.unwrap();
    drop(first);
    eventually("a place", || async { client.stub().list_jobs(ListJobsRequest::default()).await.ok() }).await;
    drop(second);
}

/// Many jobs of one tenant are no reason for another to wait longer than for one of them.
#[tokio::test]
async fn sec_42_tenants_take_turns() {
    const BACKLOG: usize = 30;
    let service = Service::start_with(&["--auth", "token", "--workers", "1"]);
    let busy = service.client_with_key(&service.make_key("read,write", Some("a")));
    let other = service.client_with_key(&service.make_key("read,write", Some("b")));
    let disk = service.scratch().join("busy.img");
    write_busy_disk(&disk, 16 << 20);
    let theirs = upload(&busy, &std::fs::read(disk).unwrap()).await;
    let own = upload(&other, &[2; 5000]).await;
    let mut jobs: Vec<Job> = Vec::new();
    for _ in 0..BACKLOG {
        let slow =
            CompressRequest { source: image(&theirs.name), level: Some(12), ..CompressRequest::default() };
        jobs.push(busy.compress(slow).await.unwrap());
    }
    let check = CheckRequest { source: image(&own.name), ..CheckRequest::default() };
    let single = other.check(check).await.unwrap();
    let single = ended(&other, &single.name).await;
    assert_eq!(single.state(), JobState::Succeeded);

    let moment =
        |time: &Option<_>| time.as_ref().map(|time: &pbjson_types::Timestamp| (time.seconds, time.nanos));
    let (queued, begun) = (moment(&single.create_time), moment(&single.start_time));
    let (mut between, mut behind) = (0, 0);
    for job in &jobs {
        let start = moment(&busy.get_job(&job.name).await.unwrap().start_time);
        between += usize::from(start > queued && start < begun);
        // One that has not begun has no such moment.
        behind += usize::from(start.is_none() || start > begun);
    }
    assert!(between <= 1, "{between} jobs of the other tenant began first");
    // Or there would have been nothing to wait for.
    assert!(behind >= 10, "only {behind} of {BACKLOG} jobs were waiting");
}
