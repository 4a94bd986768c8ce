//! rel_21 and rel_22: thousands of watchers. Each sees the end of its job once and in order, also after it was cut off, and
//! those that never read hold up nobody.

use std::time::Duration;

use futures::future::join_all;
use imageops::v1::{JobState, WatchEvent, WatchStatusRequest, WatchStatusResponse};
use imageops_client::{Client, is_final};
use tokio::time::timeout;
use tonic::Streaming;

use crate::run::Run;
use crate::support::jobs::{slow_compress_file, write_busy_disk};
use crate::support::usage::{cpu_time, peak_bytes};
use crate::support::{Service, wait_for};

const WATCHERS: u64 = 10_000;
const CONNECTIONS: u64 = 50;
/// With a change every 200 ms each, a hundred changes a second.
const JOBS: u64 = 20;
const MIB: u64 = 1 << 20;
/// Of the contract.
const PEAK_BYTES_MAX: u64 = 400 * MIB;
/// The longest that a watcher waits for its next message: there is a heartbeat every ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What the watchers of one run have in common.
struct Crowd {
    service: Service,
    connections: Vec<Client>,
    jobs: Vec<String>,
}

impl Crowd {
    async fn start(run: &mut Run, connections: u64) -> Self {
        let jobs = run.part_of(JOBS, 2);
        let service = run.service(|setup| {
            setup.arguments =
                ["--workers", &jobs.to_string(), "--job-threads", "1"].map(str::to_owned).to_vec();
        });
        write_busy_disk(&service.image_path().join("busy.raw"), run.part_of(64 * MIB, 24 * MIB));
        let client = service.client();
        let mut names = Vec::new();
        for number in 0..jobs {
            let request = slow_compress_file("busy.raw", &format!("out-{number}.img"));
            names.push(client.compress(request).await.unwrap().name);
        }
        let connections = (0..connections).map(|_| service.client()).collect();
        Self { service, connections, jobs: names }
    }

    /// Begins watch number `number`.
    async fn watch(&self, number: u64) -> Watch {
        let client = self.connections[(number % self.connections.len() as u64) as usize].clone();
        let job = self.jobs[(number % self.jobs.len() as u64) as usize].clone();
        let messages = open(&client, &job, 0).await;
        Watch { client, job, revision: 0, messages }
    }
}

struct Watch {
    client: Client,
    job: String,
    revision: u64,
    messages: Streaming<WatchStatusResponse>,
}

impl Watch {
    /// Reads to the end of the job; cuts itself off once after so many messages. How many it saw.
    async fn read(mut self, cut_after: Option<u64>) -> u64 {
        let mut seen = 0;
        loop {
            let message = timeout(SILENCE_MAX, self.messages.message()).await.expect("a message in time");
            let Some(message) = message.unwrap() else { panic!("{}: expected its end first", self.job) };
            seen += 1;
            let (event, revision) = (message.event(), message.revision);
            assert!(
                if event == WatchEvent::Change {
                    revision > self.revision
                } else {
                    revision >= self.revision
                },
                "{}: expected order: {revision} after {}",
                self.job,
                self.revision
            );
            self.revision = revision;
            if message.job.is_some_and(|job| is_final(job.state())) {
                let end = timeout(SILENCE_MAX, self.messages.message()).await.expect("an end in time");
                assert_eq!(end.unwrap(), None, "{}: expected one end", self.job);
                return seen;
            }
            if Some(seen) == cut_after {
                self.messages = open(&self.client, &self.job, self.revision).await;
            }
        }
    }
}

async fn open(client: &Client, job: &str, after_revision: u64) -> Streaming<WatchStatusResponse> {
    let request = WatchStatusRequest { job: job.to_owned(), after_revision };
    client.stub().watch_status(request).await.expect("a watch that begins").into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_21_thousands_of_watchers_see_each_end_once() {
    let mut run = Run::new("rel_21");
    let (watchers, connections) = (run.part_of(WATCHERS, 200), run.part_of(CONNECTIONS, 4));
    let crowd = Crowd::start(&mut run, connections).await;
    let begun = cpu_time(crowd.service.id());
    let watches = join_all((0..watchers).map(|number| crowd.watch(number))).await;
    let reading = watches
        .into_iter()
        .enumerate()
        .map(|(number, watch)| tokio::spawn(watch.read((number % 10 == 0).then_some(2))));
    let seen: u64 = join_all(reading).await.into_iter().map(|seen| seen.unwrap()).sum();
    for job in &crowd.jobs {
        wait_for(&crowd.service.client(), job, JobState::Succeeded).await;
    }
    let (peak, cpu) = (peak_bytes(crowd.service.id()), cpu_time(crowd.service.id()) - begun);
    assert!(peak <= PEAK_BYTES_MAX, "expected at most {PEAK_BYTES_MAX} bytes of memory, not {peak}");
    run.finish(&format!(
        "{watchers} watches over {connections} connections on {} jobs, a tenth cut off and back: {seen} messages, each saw one \
         end, in order; peak {} MiB; {:.1} s of processor time, the jobs' work included",
        crowd.jobs.len(),
        peak / MIB,
        cpu.as_secs_f64()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_22_who_never_reads_holds_up_nobody() {
    let mut run = Run::new("rel_22");
    let (watchers, silent) = (run.part_of(WATCHERS, 200), run.part_of(WATCHERS / 10, 20));
    let connections = run.part_of(CONNECTIONS, 4);
    let crowd = Crowd::start(&mut run, connections).await;
    // Connections of their own: one that is full of what nobody reads has no room for others.
    let quiet: Vec<_> = (0..connections.div_ceil(5)).map(|_| crowd.service.client()).collect();
    let mut unread = Vec::new();
    for number in 0..silent {
        let client = &quiet[(number % quiet.len() as u64) as usize];
        let job = &crowd.jobs[(number % crowd.jobs.len() as u64) as usize];
        unread.push((job.clone(), open(client, job, 0).await));
    }
    let watches = join_all((0..watchers - silent).map(|number| crowd.watch(number))).await;
    let reading = watches.into_iter().map(|watch| tokio::spawn(watch.read(None)));
    let seen: u64 = join_all(reading).await.into_iter().map(|seen| seen.unwrap()).sum();

    // Now they look: at the newest state, or at being told to come back.
    let (mut late, mut cut) = (0, 0);
    for (job, mut messages) in unread {
        let mut last = None;
        let status = loop {
            match timeout(SILENCE_MAX, messages.message()).await.expect("an answer in time") {
                Ok(Some(message)) => last = message.job.or(last),
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        match status {
            None => {
                assert!(last.is_some_and(|job| is_final(job.state())), "{job}: expected its end");
                late += 1;
            }
            Some(status) => {
                assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{job}: {status}");
                cut += 1;
            }
        }
    }
    let peak = peak_bytes(crowd.service.id());
    assert!(peak <= PEAK_BYTES_MAX, "expected at most {PEAK_BYTES_MAX} bytes of memory, not {peak}");
    run.finish(&format!(
        "{} watches to the end ({seen} messages) beside {silent} that never read: {late} of these found the end when they \
         looked, {cut} were told to come back; peak {} MiB",
        watchers - silent,
        peak / MIB
    ));
}
