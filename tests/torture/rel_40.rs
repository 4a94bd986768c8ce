//! rel_40: SIGTERM at random moments under load: who looks whether the server is ready never fails, what runs ends well or goes
//! back to the queue, and the process ends in time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imageops::v1::JobState;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback, Target};
use crate::run::{Run, beside, join};
use crate::support::http::{Answer, try_request};
use crate::support::jobs::{slow_compress_file, write_busy_disk};
use crate::support::random::Random;
use crate::support::{Service, wait_for};

const STOPS: u64 = 100;
const UPLOADERS: u64 = 4;
const BALANCED: u64 = 2;
const MIB: u64 = 1 << 20;
const UPLOAD_BYTES_MAX: u64 = 16 * MIB;
/// Between a start and the signal.
const LIFE_MS_MAX: u64 = 1_500;
const DRAIN_SECONDS: u64 = 30;
/// How long the ports stay open, and how often the balancer looks: twice in that time at least.
const UNREADY_SECONDS: u64 = 2;
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Of the contract, beyond the drain.
const END_MAX: Duration = Duration::from_secs(2);
/// Within this the server says that it is not ready. It does so at once; a loaded machine takes its time.
const UNREADY_WITHIN: Duration = Duration::from_secs(1);

/// What all clients of one life share.
struct Life {
    target: Target,
    ledger: Ledger,
    /// Since when the server has been going down.
    told: Mutex<Option<Instant>>,
    stop: AtomicBool,
    ready: AtomicBool,
    answered: AtomicU64,
    turned_away: AtomicU64,
}

impl Life {
    /// Whether the signal was sent longer ago than the server keeps its ports open.
    fn is_over(&self) -> bool {
        let told = self.told.lock().unwrap();
        told.is_some_and(|told| told.elapsed() + UNREADY_WITHIN >= Duration::from_secs(UNREADY_SECONDS))
    }

    fn is_told(&self) -> bool {
        self.told.lock().unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_40_sigterm_fails_nobody_who_looks() {
    let mut run = Run::new("rel_40");
    let stops = run.part_of(STOPS, 2);
    let mut service = run.service(|setup| {
        let drain = [DRAIN_SECONDS, UNREADY_SECONDS].map(|seconds| seconds.to_string());
        let [drain, unready] = drain;
        setup.arguments = vec!["--drain-seconds".into(), drain, "--unready-seconds".into(), unready];
    });
    write_busy_disk(&service.image_path().join("busy.raw"), 8 * MIB);
    let (mut jobs, mut figures, mut longest) = (Vec::new(), [0; 4], Duration::ZERO);
    let mut ledger = Ledger::default();
    for stop in 0..stops {
        let life = Arc::new(Life {
            target: target(&service),
            ledger,
            told: Mutex::default(),
            stop: AtomicBool::new(false),
            ready: AtomicBool::new(true),
            answered: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        });
        let clients = start_clients(&mut run, &life);
        for number in 0..2 {
            let request = slow_compress_file("busy.raw", &format!("out-{stop}-{number}.img"));
            jobs.push(service.client().compress(request).await.unwrap().name);
        }
        tokio::time::sleep(Duration::from_millis(run.random.below(LIFE_MS_MAX))).await;
        let open: Vec<_> = audit::open_uploads(&service.client()).await;
        *life.told.lock().unwrap() = Some(Instant::now());
        service.terminate();
        let begun = Instant::now();
        let status = block_in_place(|| service.wait());
        longest = longest.max(begun.elapsed());
        assert_eq!(status.code(), Some(0), "expected a stop in good order");
        let limit = Duration::from_secs(DRAIN_SECONDS) + END_MAX;
        assert!(longest <= limit, "expected an end within {limit:?}, not {longest:?}");
        life.stop.store(true, Ordering::Release);
        clients.into_iter().for_each(join);
        // What had begun by then was given its time.
        let entries = life.ledger.all();
        for upload in &open {
            let entry = entries.iter().find(|entry| upload.name == format!("uploads/{}", entry.id));
            let name = entry.and_then(|entry| entry.acknowledged.as_ref());
            assert!(name.is_some(), "expected {} to become an image: it had begun", upload.name);
        }
        let answered = life.answered.load(Ordering::Acquire);
        assert!(answered > 0, "expected answers before the signal");
        let turned_away = life.turned_away.load(Ordering::Acquire);
        for (sum, more) in figures.iter_mut().zip([open.len() as u64, answered, turned_away, 1]) {
            *sum += more;
        }
        check_files(&service, jobs.len());
        block_in_place(|| service.restart());
        audit::check(&service.client(), &life.ledger).await;
        finish_uploads(&service, &life.ledger).await;
        let Ok(life) = Arc::try_unwrap(life) else { panic!("expected clients that are gone") };
        ledger = life.ledger;
    }
    for job in &jobs {
        wait_for(&service.client(), job, JobState::Succeeded).await;
    }
    audit::check(&service.client(), &ledger).await;
    audit::check_store(&service).await;
    let [open, answered, turned_away, _] = figures;
    run.finish(&format!(
        "{stops} times SIGTERM, at most {:.1} s to the end; {open} uploads that had begun became images; {answered} requests of who \
         looked were answered, {turned_away} told to go elsewhere, none failed; {} jobs succeeded",
        longest.as_secs_f64(),
        jobs.len()
    ));
}

fn start_clients(run: &mut Run, life: &Arc<Life>) -> Vec<JoinHandle<()>> {
    let roads = roads::present(life.target.http);
    // Those of many requests would have to find the port open for each of them.
    let roads: Vec<_> =
        roads.into_iter().filter(|road| ["gRPC", "REST body", "REST form"].contains(&road.name)).collect();
    let mut clients = Vec::new();
    for number in 0..UPLOADERS {
        let (life, road, seed) = (Arc::clone(life), roads[number as usize % roads.len()], run.random.next());
        clients.push(beside(move || upload(life, road, seed)));
    }
    let probing = Arc::clone(life);
    clients.push(beside(move || async move { probe(&probing) }));
    for _ in 0..BALANCED {
        let life = Arc::clone(life);
        clients.push(beside(move || async move { ask(&life) }));
    }
    clients
}

/// Uploads one image after another, until the server goes down.
async fn upload(life: Arc<Life>, road: &'static Road, seed: u64) {
    let mut random = Random::from_seed(seed);
    while !life.stop.load(Ordering::Acquire) && !life.is_told() {
        let content = Content::new(random.next(), crate::run::spread(&mut random, MIB, UPLOAD_BYTES_MAX));
        let index = life.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
        let Err(setback) = road.attempt(life.target, &life.ledger, index).await else { continue };
        assert!(life.is_told(), "{}: expected an image: {setback}", road.name);
        assert!(
            is_going_down(&setback) || life.is_over(),
            "{}: expected to be told why: {setback}",
            road.name
        );
    }
}

fn is_going_down(setback: &Setback) -> bool {
    match setback {
        Setback::Cut(text) | Setback::Refused { text, .. } => {
            text.contains("SHUTTING_DOWN") || text.contains("going down")
        }
    }
}

/// The balancer's look at the server, each time over a connection of its own.
fn probe(life: &Life) {
    while !life.stop.load(Ordering::Acquire) {
        let asked = Instant::now();
        let answer = try_request(life.target.http, "GET", "/readyz", &[], 0, &[][..]);
        let ready = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        let told = *life.told.lock().unwrap();
        match told.filter(|told| asked >= *told) {
            Some(told) if ready => {
                let since = asked - told;
                assert!(
                    since <= UNREADY_WITHIN,
                    "expected it not to be ready any more, {since:?} after the signal"
                );
            }
            Some(_) if !life.is_over() => {
                let status = answer.as_ref().map(|answer| answer.status);
                assert_eq!(status.ok(), Some(503), "expected to be told that it is not ready: {answer:?}");
            }
            Some(_) => {}
            None => assert!(ready || life.is_told(), "expected a server that is ready: {answer:?}"),
        }
        life.ready.store(ready, Ordering::Release);
        std::thread::sleep(PROBE_INTERVAL);
    }
}

/// Behind the balancer: a request goes to the server as long as it was ready when it was looked at last. Each is answered, or
/// told to go elsewhere, with a hint.
fn ask(life: &Life) {
    let body = serde_json::json!({ "source": { "file": "busy.raw" }, "validateOnly": true }).to_string();
    let mut turn = 0_u64;
    while life.ready.load(Ordering::Acquire) && !life.stop.load(Ordering::Acquire) {
        let answer: std::io::Result<Answer> = if turn.is_multiple_of(2) {
            try_request(life.target.http, "GET", "/v1/images?page_size=1", &[], 0, &[][..])
        } else {
            let json = [("content-type", "application/json")];
            try_request(life.target.http, "POST", "/v1/checks", &json, body.len() as u64, body.as_bytes())
        };
        turn += 1;
        let answer =
            answer.unwrap_or_else(|error| panic!("expected an answer of a server that was ready: {error}"));
        if (200..300).contains(&answer.status) {
            life.answered.fetch_add(1, Ordering::AcqRel);
            continue;
        }
        assert!(life.is_told(), "expected success: {answer:?}");
        let told = (answer.status, answer.json()["reason"].clone(), answer.header("retry-after").is_some());
        assert_eq!(
            told,
            (503, "SHUTTING_DOWN".into(), true),
            "expected to be told to go elsewhere: {answer:?}"
        );
        life.turned_away.fetch_add(1, Ordering::AcqRel);
    }
}

/// A job that was given back leaves nothing.
fn check_files(service: &Service, jobs: usize) {
    let names = service.image_names();
    let known = |name: &String| name == "busy.raw" || (name.starts_with("out-") && name.ends_with(".img"));
    assert!(names.iter().all(known) && names.len() <= 1 + jobs, "expected no unfinished output: {names:?}");
}

/// What was refused or cut off goes on in the next life.
async fn finish_uploads(service: &Service, ledger: &Ledger) {
    let road = roads::present(service.http())[0];
    for (index, entry) in ledger.all().iter().enumerate() {
        if entry.acknowledged.is_none() {
            road.deliver(target(service), ledger, index, Duration::from_secs(60)).await;
        }
    }
}
