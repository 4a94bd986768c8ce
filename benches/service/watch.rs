//! Thousands of watchers of running jobs: how much memory they take, and how late the last of them hears of an end.

use std::time::{Duration, Instant};

use futures::future::join_all;
use imageops::v1::{WatchStatusRequest, WatchStatusResponse};
use imageops_client::{Client, is_final};
use tonic::Streaming;

use crate::figures::{Figures, mib};
use crate::support::Service;
use crate::support::jobs::{slow_compress_file, write_busy_disk};
use crate::support::usage::{cpu_time, p99, peak_bytes, resident_bytes};

const WATCHERS: [usize; 4] = [1_000, 2_500, 5_000, 10_000];
const CONNECTIONS: usize = 50;
const DISK_BYTES: u64 = 256 << 20;

pub async fn measure(figures: &mut Figures) {
    let mut memory = Vec::new();
    for watchers in WATCHERS {
        let crowd = Crowd::start(watchers).await;
        let idle_bytes = crowd.idle_bytes;
        let (_service, crowd) = crowd.hear().await;
        memory.push((watchers as f64, mib(crowd.peak_bytes)));
        if Some(&watchers) == WATCHERS.last() {
            let each = (crowd.peak_bytes - idle_bytes) / watchers as u64 / 1024;
            let peak = format!("{:.0} MiB, {each} KiB each", mib(crowd.peak_bytes));
            figures.fact("Peak memory with 10,000 watchers", peak, "under 400 MiB, 32 KiB each");
            let late = format!("{} ms", crowd.late.as_millis());
            figures.fact("99 of 100 of 10,000 watchers hear of the end within", late, "500 ms");
            let share = format!("{:.2} of a core", crowd.cpu_share);
            figures.fact("Processor time of 10,000 watchers, beside that of the job", share, "1 core");
        }
    }
    figures.curve("Peak memory by number of watchers", "watchers", "MiB", memory);
}

/// Watchers of one running job.
pub struct Crowd {
    pub service: Service,
    idle_bytes: u64,
    streams: Vec<Streaming<WatchStatusResponse>>,
}

/// What came of them.
struct Heard {
    peak_bytes: u64,
    /// From the first watcher that heard of the end to the last but one in a hundred.
    late: Duration,
    /// Processor time above the one core of the job, by time.
    cpu_share: f64,
}

impl Crowd {
    pub async fn start(watchers: usize) -> Self {
        let service = Service::start_with(&["--job-threads", "1"]);
        let idle_bytes = resident_bytes(service.id());
        write_busy_disk(&service.image_path().join("busy.raw"), DISK_BYTES);
        let job = service.client().compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
        let clients: Vec<Client> = (0..CONNECTIONS).map(|_| service.client()).collect();
        let open = (0..watchers).map(|number| watch(&clients[number % CONNECTIONS], &job));
        let streams = join_all(open).await;
        Self { service, idle_bytes, streams }
    }

    /// All read until the job has ended.
    pub async fn read(self) -> Service {
        self.hear().await.0
    }

    async fn hear(self) -> (Service, Heard) {
        let Self { service, streams, .. } = self;
        let (begun, cpu) = (Instant::now(), cpu_time(service.id()));
        let reading: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(end_of(stream))).collect();
        let mut ends = Vec::new();
        for reading in reading {
            ends.push(reading.await.unwrap());
        }
        let taken = begun.elapsed().as_secs_f64();
        let cpu_share = (cpu_time(service.id()) - cpu).as_secs_f64() / taken - 1.0;
        let first = *ends.iter().min().unwrap();
        let mut late: Vec<_> = ends.into_iter().map(|end| end - first).collect();
        let peak_bytes = peak_bytes(service.id());
        (service, Heard { peak_bytes, late: p99(&mut late), cpu_share: cpu_share.max(0.0) })
    }
}

async fn watch(client: &Client, job: &str) -> Streaming<WatchStatusResponse> {
    let request = WatchStatusRequest { job: job.to_owned(), after_revision: 0 };
    client.stub().watch_status(request).await.expect("a watch that begins").into_inner()
}

/// When the end of the job came.
async fn end_of(mut stream: Streaming<WatchStatusResponse>) -> Instant {
    while let Some(message) = stream.message().await.expect("a message") {
        if message.job.is_some_and(|job| is_final(job.state())) {
            return Instant::now();
        }
    }
    panic!("expected the end of the job");
}
