//! rel_51: clients of running jobs come back through another gateway: it is the same job, what they saw is not told again, and
//! its end is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};

use imageops::v1::JobState;
use serde_json::Value;
use tokio::task::block_in_place;

use crate::run::Run;
use crate::support::gateway::Gateway;
use crate::support::http::{Answer, get, post_json, request};
use crate::support::jobs::write_busy_disk;
use crate::support::{DEADLINE, Service, wait_for};

const RETURNS: u64 = 1_000;
const MIB: u64 = 1 << 20;
/// Events that a client reads before it goes.
const EVENTS_MAX: u64 = 3;

/// What a client knows of a job.
#[derive(Default)]
struct Known {
    /// Id of the last event.
    revision: u64,
    events: u64,
    last: Value,
}

impl Known {
    fn is_final(&self) -> bool {
        ["SUCCEEDED", "FAILED", "CANCELLED"]
            .iter()
            .any(|state| self.last["state"] == format!("JOB_STATE_{state}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_51_a_job_is_the_same_through_each_gateway() {
    let mut run = Run::new("rel_51");
    let returns = run.part_of(RETURNS, 20);
    let service = run.service(|_| {});
    write_busy_disk(&service.image_path().join("busy.raw"), 24 * MIB);
    let mut gateways = [Gateway::before(&service), Gateway::before(&service)];
    let (mut returned, mut jobs, mut replaced, mut events) = (0, 0, 0, 0);
    while returned < returns {
        let name = block_in_place(|| start(gateways[0].http));
        jobs += 1;
        let (mut known, mut at) = (Known::default(), 0);
        while !known.is_final() {
            let count = 1 + run.random.below(EVENTS_MAX);
            block_in_place(|| follow(gateways[at].http, &name, &mut known, count));
            if run.random.below(8) == 0 {
                // The one that the client has left goes for good, and another comes in its place.
                gateways[at] = Gateway::before(&service);
                replaced += 1;
            }
            at = 1 - at;
            returned += 1;
        }
        events += known.events;
        check_end(&service, &gateways, &name, &known).await;
    }
    run.finish(&format!(
        "{returned} returns to {jobs} running jobs through the other of two gateways, {replaced} of which were replaced: \
         {events} events in order, each end told, and told alike by all"
    ));
}

/// Asks for a compression; its name.
fn start(gateway: SocketAddr) -> String {
    let body = serde_json::json!({ "source": { "file": "busy.raw" }, "outputFile": "out.img", "level": 12 });
    let answer = post_json(gateway, "/v1/compressions", &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["name"].as_str().expect("a name").to_owned()
}

/// Reads so many events behind what is known, or to the end.
fn follow(gateway: SocketAddr, job: &str, known: &mut Known, count: u64) {
    let mut stream = TcpStream::connect(gateway).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let seen = known.revision;
    let head = format!("GET /v1/{job}/events HTTP/1.1\r\nhost: {gateway}\r\nlast-event-id: {seen}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let (mut read, mut event) = (0, String::new());
    let mut lines = BufReader::new(stream).lines();
    let status = lines.next().expect("an answer").unwrap();
    assert!(status.starts_with("HTTP/1.1 200"), "{job}: {status}");
    while read < count && !known.is_final() {
        let line = lines.next().unwrap_or_else(|| panic!("{job}: expected its end first")).unwrap();
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut event);
        } else if let Some(id) = line.strip_prefix("id: ") {
            let id: u64 = id.parse().expect("a revision");
            assert!(
                id > known.revision || (event == "snapshot" && id == known.revision),
                "{job}: expected order: {event} {id} after {}",
                known.revision
            );
            known.revision = id;
        } else if let Some(data) = line.strip_prefix("data: ") {
            let told: Value = serde_json::from_str(data).expect("a job");
            assert_eq!(told["name"], job, "expected the same job");
            known.last = told;
            known.events += 1;
            read += 1;
        }
    }
}

/// All tell the same end, and to who has seen it that there is nothing more.
async fn check_end(service: &Service, gateways: &[Gateway], job: &str, known: &Known) {
    let ended = wait_for(&service.client(), job, JobState::Succeeded).await;
    assert_eq!(ended.revision, known.revision, "{job}: expected the last event to be its end");
    for gateway in gateways {
        let told = block_in_place(|| get(gateway.http, &format!("/v1/{job}")));
        assert_eq!(told.json(), known.last, "{job}: expected the end that was told");
        let path = format!("/v1/{job}/events");
        let again: Answer =
            block_in_place(|| request(gateway.http, "GET", &path, &[("last-event-id", "1")], &[]));
        assert_eq!(again.status, 200, "{}", again.text());
        assert!(again.text().contains(&format!("id: {}\n", known.revision)), "{job}: {}", again.text());
        let seen = known.revision.to_string();
        let nothing =
            block_in_place(|| request(gateway.http, "GET", &path, &[("last-event-id", &seen)], &[]));
        assert_eq!(nothing.status, 204, "{job}: {}", nothing.text());
    }
}
