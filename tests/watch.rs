//! Watching a job: snapshot, changes in order, the end, and coming back after a cut.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use imageops::v1::{Job, JobState, WatchEvent, WatchStatusRequest, WatchStatusResponse};
use imageops_client::{Client, is_final};
use tonic::{Code, Status, Streaming};

use support::jobs::{check_file, compress_file, ended, slow_compress_file, write_busy_disk};
use support::status::assert_status;
use support::{DEADLINE, Service, wait_for};

const BUSY_DISK_BYTES: u64 = 32 << 20;

async fn watch(client: &Client, job: &str, after_revision: u64) -> Streaming<WatchStatusResponse> {
    let request = WatchStatusRequest { job: job.to_owned(), after_revision };
    client.stub().watch_status(request).await.unwrap().into_inner()
}

async fn next(messages: &mut Streaming<WatchStatusResponse>) -> Result<Option<WatchStatusResponse>, Status> {
    tokio::time::timeout(DEADLINE, messages.message()).await.expect("a message in time")
}

/// Reads a watch to its end and holds it to all its promises; what it showed.
async fn read_to_end(mut messages: Streaming<WatchStatusResponse>) -> Vec<Job> {
    let first = next(&mut messages).await.unwrap().expect("a snapshot");
    assert_eq!(first.event(), WatchEvent::Snapshot);
    let mut revision = first.revision;
    let mut seen: Vec<Job> = first.job.into_iter().collect();
    while let Some(message) = next(&mut messages).await.unwrap() {
        match message.event() {
            WatchEvent::Change => {
                let job = message.job.expect("a change with its job");
                assert!(message.revision > revision, "{} after {revision}", message.revision);
                assert_eq!(job.revision, message.revision);
                revision = message.revision;
                seen.push(job);
            }
            WatchEvent::Heartbeat => assert_eq!((message.revision, message.job), (revision, None)),
            other => panic!("{other:?} in mid-stream"),
        }
    }
    let percents: Vec<_> = seen.iter().map(percent).collect();
    assert!(percents.is_sorted(), "{percents:?}");
    for job in &seen {
        assert_eq!(percent(job) >= 100.0, job.state() == JobState::Succeeded, "{job:?}");
    }
    let (last, before) = seen.split_last().expect("at least one state");
    assert!(is_final(last.state()), "{last:?}");
    assert!(before.iter().all(|job| !is_final(job.state())), "nothing follows the end");
    seen
}

fn percent(job: &Job) -> f64 {
    job.progress.as_ref().map_or(0.0, |progress| progress.percent)
}

/// rel_50: progress comes soon and often, in bytes, and never goes back.
#[tokio::test(flavor = "multi_thread")]
async fn rel_50_a_watch_shows_a_job_from_snapshot_to_end() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let begun = Instant::now();
    let seen = read_to_end(watch(&client, &job.name, 0).await).await;
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(seen.last().unwrap().state(), JobState::Succeeded);
    assert!(seen.len() >= 4, "{} messages in {seconds} s", seen.len());
    assert!(seen.len() as f64 <= seconds * 5.0 + 3.0, "at most five a second: {} in {seconds} s", seen.len());
    let running: Vec<_> = seen.iter().filter(|job| job.state() == JobState::Running).collect();
    let progress: Vec<_> = running.iter().filter_map(|job| job.progress.as_ref()).collect();
    assert!(progress.iter().any(|progress| progress.total_bytes > 0 && progress.done_bytes > 0));
    assert!(progress.iter().any(|progress| progress.bytes_per_second.is_some_and(|rate| rate > 0)));
    assert!(progress.iter().any(|progress| progress.remaining.is_some()));
    assert!(progress.iter().all(|progress| progress.done_bytes <= progress.total_bytes));
    // Watched once more, an ended job is one message and OK.
    let again = read_to_end(watch(&client, &job.name, 0).await).await;
    assert_eq!(again.as_slice(), seen.last().map(std::slice::from_ref).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_behind_what_was_seen() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let mut messages = watch(&client, &job.name, 0).await;
    let mut revision = 0;
    while let Some(message) = next(&mut messages).await.unwrap() {
        revision = message.revision;
        if message.job.is_some_and(|job| percent(&job) > 0.0) {
            break;
        }
    }
    drop(messages);
    let mut again = watch(&client, &job.name, revision).await;
    let first = next(&mut again).await.unwrap().unwrap();
    assert_eq!(first.event(), WatchEvent::Snapshot);
    assert!(first.revision >= revision);
    assert_eq!(first.job.is_some(), first.revision > revision, "what was seen is not sent again");
    drop(again);
    let seen = read_to_end(watch(&client, &job.name, revision).await).await;
    assert!(seen.iter().all(|job| job.revision > revision || is_final(job.state())));
    // The end is told whatever was seen, once more to who has seen it.
    let end = seen.last().unwrap();
    assert_eq!(read_to_end(watch(&client, &job.name, end.revision).await).await, std::slice::from_ref(end));
}

#[tokio::test]
async fn a_failed_job_is_a_successful_watch() {
    let service = Service::start();
    let client = service.client();
    std::fs::write(service.image_path().join("bad.img"), b"QFI\xfb\0\0\0\x03 and nothing more").unwrap();
    let job = client.compress(compress_file("bad.img", "out.img")).await.unwrap();
    let seen = read_to_end(watch(&client, &job.name, 0).await).await;
    let last = seen.last().unwrap();
    assert_eq!(last.state(), JobState::Failed);
    assert!(last.error.as_ref().is_some_and(|error| !error.reason.is_empty() && error.code != 0));
    assert_eq!(last.result, None);
}

#[tokio::test]
async fn an_unknown_job_cannot_be_watched() {
    let service = Service::start();
    let client = service.client();
    let unknown = format!("jobs/{}", uuid::Uuid::new_v4());
    let request = WatchStatusRequest { job: unknown, after_revision: 0 };
    let refused = client.stub().watch_status(request).await.unwrap_err();
    assert_status(&refused, Code::NotFound, "JOB_NOT_FOUND");
    for job in ["", "jobs/", "jobs/x", "images/00000000-0000-4000-8000-000000000000"] {
        let request = WatchStatusRequest { job: job.to_owned(), after_revision: 0 };
        let refused = client.stub().watch_status(request).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}

/// rel_22: who does not read gets the newest state when it does, and holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn rel_22_a_slow_reader_gets_the_newest_state() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let mut slow = watch(&client, &job.name, 0).await;
    next(&mut slow).await.unwrap().unwrap();
    let quick = read_to_end(watch(&client, &job.name, 0).await).await;
    assert_eq!(quick.last().unwrap().state(), JobState::Succeeded);
    // What waits in the connection is a handful of messages, the last of them the end.
    let mut late = Vec::new();
    while let Some(message) = next(&mut slow).await.unwrap() {
        late.extend(message.job);
    }
    assert_eq!(late.last(), quick.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_job_has_heartbeats() {
    let service = Service::start_with(&["--workers", "1"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 512 << 20);
    let busy = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    wait_for(&client, &busy.name, JobState::Running).await;
    let queued = client.check(check_file("busy.raw")).await.unwrap();
    let begun = Instant::now();
    let mut messages = watch(&client, &queued.name, 0).await;
    assert_eq!(next(&mut messages).await.unwrap().unwrap().event(), WatchEvent::Snapshot);
    let second = next(&mut messages).await.unwrap().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!((second.event(), second.job), (WatchEvent::Heartbeat, None));
    assert!((9.0..15.0).contains(&seconds), "{seconds}");
    client.cancel_job(&queued.name).await.unwrap();
    let last = next(&mut messages).await.unwrap().unwrap();
    assert_eq!(last.job.unwrap().state(), JobState::Cancelled);
    assert!(next(&mut messages).await.unwrap().is_none(), "then OK");
    client.cancel_job(&busy.name).await.unwrap();
}

/// rel_40: a server that goes down says so, and the watch goes on at its next life.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_a_watch_as_unavailable() {
    let mut service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let mut messages = watch(&client, &job.name, 0).await;
    let mut revision = next(&mut messages).await.unwrap().unwrap().revision;
    service.terminate();
    let end = loop {
        match next(&mut messages).await {
            Ok(Some(message)) => revision = message.revision,
            Ok(None) => panic!("OK before the job has ended"),
            Err(status) => break status,
        }
    };
    assert_status(&end, Code::Unavailable, "SHUTTING_DOWN");
    assert!(service.wait().success());
    service.restart();
    let seen = read_to_end(watch(&service.client(), &job.name, revision).await).await;
    assert_eq!(seen.last().unwrap().state(), JobState::Succeeded);
}

/// The stream of the client library comes back by itself, also over a kill.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_library_watches_over_a_kill() {
    use futures::StreamExt as _;
    let mut service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let mut changes = std::pin::pin!(client.watch(&job.name, 0));
    let mut revision = 0;
    let mut killed = false;
    let mut last = None;
    while let Some(change) = changes.next().await {
        let seen = change.unwrap();
        assert!(seen.revision > revision || is_final(seen.state()), "{} {revision}", seen.revision);
        revision = seen.revision;
        if !killed && percent(&seen) > 5.0 {
            killed = true;
            service.restart();
        }
        last = Some(seen);
    }
    assert!(killed);
    let last = last.unwrap();
    assert_eq!((last.state(), last.attempt), (JobState::Succeeded, 2));
}

/// One event of a stream of server-sent events.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: String,
}

/// Reads server-sent events until the end of the stream, or until `enough`.
fn read_events(
    server: SocketAddr,
    path: &str,
    last_event_id: Option<u64>,
    mut enough: impl FnMut(&Event) -> bool,
) -> (u16, Vec<Event>) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let header = last_event_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    // HTTP/1.0: the body comes as it is, without a transfer coding.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: x\r\naccept: text/event-stream\r\n{header}\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    for line in lines.by_ref() {
        if line.is_empty() {
            break;
        }
    }
    let mut events = Vec::new();
    let mut event = Event::default();
    for line in lines {
        match line.split_once(':') {
            Some(("event", name)) => event.name = name.trim().to_owned(),
            Some(("id", id)) => event.id = id.trim().to_owned(),
            Some(("data", data)) => event.data += data.trim(),
            _ if line.is_empty() && !event.data.is_empty() => {
                let done = enough(&event);
                events.push(std::mem::take(&mut event));
                if done {
                    break;
                }
            }
            _ => {}
        }
    }
    (status, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_sent_events_tell_the_same_and_go_on_by_last_event_id() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), BUSY_DISK_BYTES);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let path = format!("/v1/jobs/{}/events", job.name.trim_start_matches("jobs/"));
    let server = service.http();
    let job_of = |event: &Event| -> serde_json::Value { serde_json::from_str(&event.data).unwrap() };

    let (status, first) = read_events(server, &path, None, |event| {
        job_of(event)["progress"]["percent"].as_f64().is_some_and(|percent| percent > 0.0)
    });
    assert_eq!(status, 200);
    let seen: u64 = first.last().unwrap().id.parse().unwrap();
    let (status, rest) = read_events(server, &path, Some(seen), |_| false);
    assert_eq!(status, 200);
    let ids: Vec<u64> =
        rest.iter().filter(|event| !event.id.is_empty()).map(|event| event.id.parse().unwrap()).collect();
    assert!(ids.is_sorted() && ids.iter().all(|id| *id > seen), "{seen}: {ids:?}");
    let last = rest.iter().rev().find(|event| event.data.contains("state")).unwrap();
    assert_eq!(job_of(last)["state"], "JOB_STATE_SUCCEEDED", "{last:?}");
    // A browser that has seen the end is told to stay away.
    let (status, events) = read_events(server, &path, ids.last().copied(), |_| false);
    assert_eq!((status, events.len()), (204, 0));
    let unknown = format!("/v1/jobs/{}/events", uuid::Uuid::new_v4());
    assert_eq!(read_events(server, &unknown, None, |_| false).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watchers_all_see_the_end() {
    let service = Service::start();
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 16 << 20);
    let job = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap();
    let watchers: Vec<_> = (0..100)
        .map(|_| {
            let (client, name) = (client.clone(), job.name.clone());
            tokio::spawn(async move { read_to_end(watch(&client, &name, 0).await).await })
        })
        .collect();
    let end = ended(&client, &job.name).await;
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap().last(), Some(&end));
    }
}
