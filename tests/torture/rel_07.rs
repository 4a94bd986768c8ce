//! rel_07: PostgreSQL is killed under load and comes back later. The server waits for it, tells so, and loses nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imageops::v1::ListImagesRequest;
use imageops_client::{Client, Error, is_final};
use tokio::task::block_in_place;
use tonic::Code;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::outcome::{Asked, Subject};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback, Target};
use crate::run::{Run, beside, join, spread};
use crate::support::http::{get, request};
use crate::support::images::skip;
use crate::support::jobs::{ended, write_busy_disk};
use crate::support::postgres::Postgres;
use crate::support::random::Random;
use crate::support::{DEADLINE, Service};
use crate::work::{SOURCE, find};

const KILLS: u64 = 50;
/// How long the database stays away, at most.
const AWAY_MS_MAX: u64 = 30_000;
/// How long it stays away at first: a call waits 5 s for it, and is then refused.
const AWAY_MS_FIRST: u64 = 6_000;
/// Between two kills, at most.
const UP_MS_MAX: u64 = 3_000;
const UPLOADERS: u64 = 2;
/// The load asks for a part of what the machine can do: then as much is done as is asked for.
const PACE: Duration = Duration::from_millis(100);
/// How much of its former throughput counts as all of it: what else runs on the machine takes its share.
const FULL_PERCENT: usize = 65;
const BACK_MAX: Duration = Duration::from_secs(5);
/// How long one operation may be kept from its end: a few times the longest that the database is away.
const OPERATION_LIMIT: Duration = Duration::from_secs(240);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What all clients share.
struct Load {
    target: Target,
    roads: Vec<&'static Road>,
    ledger: Ledger,
    jobs: Mutex<Vec<Asked>>,
    /// When each operation was done.
    done: Mutex<Vec<Instant>>,
    /// Refusals by gRPC and by REST.
    refused: [AtomicU64; 2],
    stop: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_07_the_database_dies_and_comes_back() {
    let mut database = match block_in_place(Postgres::start) {
        Ok(database) => database,
        Err(error) => return skip(&error),
    };
    let mut run = Run::new("rel_07");
    let url = database.url();
    let mut service = run.service(|setup| setup.arguments = vec!["--catalogue-url".into(), url]);
    write_busy_disk(&service.image_path().join(SOURCE), run.part_of(64 * MIB, 4 * MIB));
    let load = Arc::new(Load {
        target: target(&service),
        roads: roads::present(service.http()),
        ledger: Ledger::default(),
        jobs: Mutex::default(),
        done: Mutex::default(),
        refused: Default::default(),
        stop: AtomicBool::new(false),
    });
    let mut clients = Vec::new();
    for number in 0..UPLOADERS {
        let (load, seed) = (Arc::clone(&load), run.random.next());
        clients.push(beside(move || load.upload(number, seed)));
    }
    clients.push(beside_load(&load, Load::work));
    clients.push(beside_load(&load, Load::list));
    clients.push(beside_load(&load, Load::look_over_rest));
    let normal = load.normal().await;

    let up_ms_max = run.part_of(UP_MS_MAX, 500);
    let (kills, away_ms_max) = (run.part_of(KILLS, 2), run.part_of(AWAY_MS_MAX, 300));
    let mut slowest = Duration::ZERO;
    let mut away = Duration::ZERO;
    for kill in 0..kills {
        let away_ms = if kill == 0 { AWAY_MS_FIRST } else { run.random.below(away_ms_max) };
        block_in_place(|| database.kill());
        tokio::time::sleep(Duration::from_millis(away_ms)).await;
        block_in_place(|| database.start_again()).unwrap_or_else(|error| panic!("{error}"));
        away += Duration::from_millis(away_ms);
        slowest = slowest.max(load.time_to_full(normal, Instant::now()).await);
        audit::check(&service.client(), &load.ledger).await;
        assert_eq!(get(service.http(), "/healthz").status, 200, "expected a server that lives");
        tokio::time::sleep(Duration::from_millis(run.random.below(up_ms_max))).await;
    }
    assert!(slowest <= BACK_MAX, "expected full throughput within {BACK_MAX:?}, not after {slowest:?}");

    load.stop.store(true, Ordering::Release);
    clients.into_iter().for_each(join);
    audit::check(&service.client(), &load.ledger).await;
    let jobs = load.check_jobs(&service).await;
    let [grpc, rest] = load.refused.each_ref().map(|count| count.load(Ordering::Acquire));
    assert!(grpc > 0 && rest > 0, "expected refusals, there were {grpc} over gRPC and {rest} over REST");
    // What calls that were cut off have left goes with a start, or with the collector.
    audit::check_log(&service.kill());
    block_in_place(|| service.restart());
    audit::check_store(&service).await;
    run.finish(&format!(
        "{kills} kills, {} s away; {} uploads over {}, {jobs} jobs: none lost; {grpc} refusals over gRPC and {rest} over \
         REST, each with a hint; all throughput after {:.1} s at most; one process",
        away.as_secs(),
        load.ledger.all().len(),
        roads::counted(&load.roads),
        slowest.as_secs_f64()
    ));
}

/// Runs a client of the load on a thread of its own.
fn beside_load<F: Future<Output = ()>>(
    load: &Arc<Load>,
    client: impl FnOnce(Arc<Load>) -> F + Send + 'static,
) -> std::thread::JoinHandle<()> {
    let load = Arc::clone(load);
    beside(move || client(load))
}

impl Load {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    async fn did_one(&self) {
        lock(&self.done).push(Instant::now());
        tokio::time::sleep(PACE).await;
    }

    /// Uploads, one after another, over the roads in turn. Each is tried until it is acknowledged.
    async fn upload(self: Arc<Self>, number: u64, seed: u64) {
        let mut random = Random::from_seed(seed);
        let mut turn = number;
        while !self.is_over() {
            let road = self.roads[(turn % self.roads.len() as u64) as usize];
            turn += UPLOADERS + 1;
            let content = Content::new(random.next(), spread(&mut random, 4 * KIB, 256 * KIB));
            let index = self.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
            let begun = Instant::now();
            while let Err(setback) = road.attempt(self.target, &self.ledger, index).await {
                assert!(
                    is_away(&setback),
                    "{}: expected an image, or that it comes later: {setback}",
                    road.name
                );
                assert!(
                    begun.elapsed() < OPERATION_LIMIT,
                    "{}: expected an image by now: {setback}",
                    road.name
                );
                tokio::time::sleep(PACE).await;
            }
            self.did_one().await;
        }
    }

    /// Jobs that read a file and make another, or that read an image; each until it has ended.
    async fn work(self: Arc<Self>) {
        let client = self.target.client();
        let works: Vec<_> = ["compress of a file", "estimate of an image"].map(find).into();
        for (number, work) in works.iter().cycle().enumerate() {
            let known = self.ledger.all().into_iter().rev().find(|entry| entry.acknowledged.is_some());
            let (false, Some(entry)) = (self.is_over(), known) else {
                if self.is_over() {
                    return;
                }
                tokio::time::sleep(PACE).await;
                continue;
            };
            let image = entry.acknowledged.expect("an image that was acknowledged");
            let output = format!("out-{number}.img");
            let start = async || work.start(&client, &image, &output).await;
            let name = self.until_done(work.name, start).await.name;
            let subject = Subject { name: image, digests: entry.digests, is_own: false };
            lock(&self.jobs).push(Asked { name: name.clone(), work, output, subject });
            loop {
                let job = self.until_done("show of a job", async || client.get_job(&name).await).await;
                if is_final(job.state()) {
                    break;
                }
                tokio::time::sleep(PACE).await;
            }
            self.did_one().await;
        }
    }

    async fn list(self: Arc<Self>) {
        let client = self.target.client();
        let request = || ListImagesRequest { page_size: 1, ..ListImagesRequest::default() };
        while !self.is_over() {
            self.until_done("list", async || client.list_images(request()).await).await;
            self.did_one().await;
        }
    }

    /// A list and a write over REST.
    async fn look_over_rest(self: Arc<Self>) {
        while !self.is_over() {
            self.until_answered("GET", "/v1/images?page_size=1", 200).await;
            self.until_answered("DELETE", &format!("/v1/images/{}", uuid::Uuid::new_v4()), 404).await;
            self.did_one().await;
        }
    }

    /// Tries until it succeeds. Each refusal must say that it comes later, and when.
    async fn until_done<T>(&self, what: &str, mut call: impl AsyncFnMut() -> Result<T, Error>) -> T {
        let begun = Instant::now();
        loop {
            let error = match call().await {
                Ok(answer) => return answer,
                Err(error) => error,
            };
            let Error::Call(refused) = &error else { panic!("{what}: {error}") };
            assert!(
                refused.code == Code::Unavailable && refused.retry_after.is_some() && !refused.transport,
                "{what}: expected UNAVAILABLE with a hint: {refused:?}"
            );
            self.refused[0].fetch_add(1, Ordering::AcqRel);
            assert!(begun.elapsed() < OPERATION_LIMIT, "{what}: expected an answer by now: {error}");
            tokio::time::sleep(PACE).await;
        }
    }

    async fn until_answered(&self, method: &str, path: &str, expected: u16) {
        let begun = Instant::now();
        loop {
            // It blocks; each client has a thread of its own.
            let answer = request(self.target.http, method, path, &[], &[]);
            if answer.status == expected {
                return;
            }
            let hint = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
            assert!(
                answer.status == 503 && hint.is_some(),
                "{method} {path}: expected {expected}, or 503 with a hint: {} {}",
                answer.status,
                answer.text()
            );
            self.refused[1].fetch_add(1, Ordering::AcqRel);
            assert!(begun.elapsed() < OPERATION_LIMIT, "{method} {path}: expected an answer by now");
            tokio::time::sleep(PACE).await;
        }
    }

    /// Operations of a second when nothing disturbs them.
    async fn normal(&self) -> usize {
        const SECONDS: u32 = 2;
        let time = Duration::from_secs(1) * SECONDS;
        // The first images and jobs take their time.
        let begun = Instant::now() + Duration::from_secs(1);
        tokio::time::sleep_until((begun + time).into()).await;
        let count = self.done_since(begun, time) / SECONDS as usize;
        assert!(count >= 2, "expected a load, {count} operations a second are none");
        count
    }

    fn done_since(&self, start: Instant, time: Duration) -> usize {
        lock(&self.done).iter().filter(|done| **done >= start && **done < start + time).count()
    }

    /// From `start` to the first second with all the throughput that there was before.
    async fn time_to_full(&self, normal: usize, start: Instant) -> Duration {
        const SECOND: Duration = Duration::from_secs(1);
        const STEP: Duration = Duration::from_millis(50);
        let mut after = Duration::ZERO;
        loop {
            tokio::time::sleep_until((start + after + SECOND).into()).await;
            let count = self.done_since(start + after, SECOND);
            if count * 100 >= normal * FULL_PERCENT {
                lock(&self.done).retain(|done| *done > start);
                return after;
            }
            assert!(after < DEADLINE, "expected {normal} operations a second again, there are {count}");
            after += STEP;
        }
    }

    /// Every job that was acknowledged has succeeded, with what it makes. How many there were.
    async fn check_jobs(&self, service: &Service) -> usize {
        let client: Client = service.client();
        let jobs = std::mem::take(&mut *lock(&self.jobs));
        for asked in &jobs {
            let job = ended(&client, &asked.name).await;
            assert!(asked.check(service, &job).await, "expected success: {job:?}");
        }
        assert!(!jobs.is_empty(), "expected jobs");
        jobs.len()
    }
}

/// Whether an upload was told that the catalogue is away, and nothing else.
fn is_away(setback: &Setback) -> bool {
    match setback {
        Setback::Cut(text) => text.contains("the catalogue does not answer") || text.trim() == "503",
        // The legacy surface has its own words.
        Setback::Refused { .. } => setback.is_store_away(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
