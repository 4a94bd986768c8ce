//! rel_13: storage that comes and goes. While it is bad everything that must be written is refused, and what is stored is
//! still read, and readiness says that nothing is taken; once it is good again everything is, without a restart. Nothing
//! acknowledged is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback, Target};
use crate::run::{Run, beside, join, spread};
use crate::strace::{self, Fault, Injection};
use crate::support::http::get;
use crate::support::random::Random;

/// Ten minutes of them.
const PERIODS: u64 = 50;
const GOOD_MS: u64 = 10_000;
const BAD_MS: u64 = 2_000;
const CLIENTS: u64 = 3;
const MIB: u64 = 1 << 20;
/// How long it may take until an upload is taken again.
const RECOVERED_MAX: Duration = Duration::from_secs(10);
/// How long storage may be bad before it shows.
const TOLD_MAX: Duration = Duration::from_secs(10);
/// Between two tries of a client that was refused.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two uploads of a client: each image is looked at after each period.
const REST: Duration = Duration::from_millis(100);
/// Everything by which bytes and names get onto a disk.
const WRITES: &str =
    "pwrite64,fsync,fdatasync,ftruncate,linkat,rename,renameat,copy_file_range,mkdirat,unlinkat";

/// What all clients share.
struct Clients {
    target: Target,
    roads: Vec<&'static Road>,
    ledger: Ledger,
    stop: AtomicBool,
    refused: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_13_flaky_storage_loses_nothing() {
    if !strace::can_trace() {
        return;
    }
    let mut run = Run::new("rel_13");
    let periods = run.part_of(PERIODS, 3);
    let (good_ms, bad_ms) = (run.part_of(GOOD_MS, 1_000), run.part_of(BAD_MS, 500));
    let mut service = run.service(|_| {});
    // Chunks that were confirmed wait for a merge that nobody makes who was refused for good.
    let mut roads = roads::present(service.http());
    roads.retain(|road| road.promises || !road.remembers);
    let clients = Arc::new(Clients {
        target: target(&service),
        roads,
        ledger: Ledger::default(),
        stop: AtomicBool::new(false),
        refused: AtomicU64::new(0),
    });
    let kept = clients.ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), MIB)));
    clients.roads[0].attempt(clients.target, &clients.ledger, kept).await.expect("an image");
    let mut uploading = Vec::new();
    for number in 0..CLIENTS {
        let (clients, seed) = (Arc::clone(&clients), run.random.next());
        uploading.push(beside(move || upload(clients, number, seed)));
    }
    let (mut faults, mut slowest, mut reads) = (0, Duration::ZERO, 0);
    for _ in 0..periods {
        tokio::time::sleep(Duration::from_millis(good_ms)).await;
        let fault = Fault { calls: WRITES, outcome: "error=EIO", when: "1+", paths: &[] };
        let log = service.scratch().join("strace.log");
        let Some(bad) = Injection::of(service.id(), &fault, &log) else { return };
        let start = Instant::now();
        let mut told = false;
        while !told || start.elapsed() < Duration::from_millis(bad_ms) {
            told |= says_read_only(&clients);
            assert!(start.elapsed() < TOLD_MAX, "expected readiness to say that nothing is taken");
            let entry = clients.ledger.entry(kept, |entry| entry.clone());
            audit::compare(&service.client(), entry.acknowledged.as_deref().expect("an image"), &entry).await;
            reads += 1;
            assert_eq!(get(service.http(), "/healthz").status, 200, "expected a server that lives");
        }
        faults += bad.end();
        slowest = slowest.max(recover(&clients, &mut run).await);
        // What a fault met at its end may have a good store probed once more.
        let end = Instant::now() + RECOVERED_MAX;
        while says_read_only(&clients) {
            assert!(Instant::now() < end, "expected readiness to say that all is taken again");
            tokio::time::sleep(PAUSE).await;
        }
        audit::check(&service.client(), &clients.ledger).await;
        remove(&clients, kept).await;
    }
    clients.stop.store(true, Ordering::Release);
    uploading.into_iter().for_each(join);
    audit::check(&service.client(), &clients.ledger).await;
    // What could not be removed meanwhile goes with a start.
    block_in_place(|| service.restart());
    audit::check(&service.client(), &clients.ledger).await;
    audit::check_store(&service).await;
    let refused = clients.refused.load(Ordering::Acquire);
    assert!(faults > 0 && refused > 0, "expected calls that fail and uploads that are refused");
    let sent = clients.ledger.all();
    run.finish(&format!(
        "{periods} times {good_ms} ms good and {bad_ms} ms bad: {faults} failed calls; {} of {} uploads on {} acknowledged and \
         there, refused {refused} times; {reads} downloads meanwhile; back after {slowest:.1?} at most",
        sent.iter().filter(|entry| entry.acknowledged.is_some()).count(),
        sent.len(),
        roads::counted(&clients.roads)
    ));
}

fn says_read_only(clients: &Clients) -> bool {
    let ready = block_in_place(|| get(clients.target.http, "/readyz"));
    assert_eq!(ready.status, 200, "expected a server that still serves");
    ready.text().starts_with("read-only")
}

/// One client: uploads, each until it is an image or refused for good.
async fn upload(clients: Arc<Clients>, number: u64, seed: u64) {
    let mut random = Random::from_seed(seed);
    let mut turn = number;
    while !clients.stop.load(Ordering::Acquire) {
        let road = clients.roads[(turn % clients.roads.len() as u64) as usize];
        turn += 1;
        let content = Content::new(random.next(), spread(&mut random, MIB / 16, 2 * MIB));
        let index = clients.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
        while let Err(setback) = road.attempt(clients.target, &clients.ledger, index).await {
            clients.refused.fetch_add(1, Ordering::AcqRel);
            if matches!(setback, Setback::Refused { .. }) || clients.stop.load(Ordering::Acquire) {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(REST).await;
    }
}

/// How long it takes until an upload is taken.
async fn recover(clients: &Clients, run: &mut Run) -> Duration {
    let start = Instant::now();
    loop {
        let content = Content::new(run.random.next(), MIB / 4);
        let index = clients.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
        let Err(setback) = clients.roads[0].attempt(clients.target, &clients.ledger, index).await else {
            return start.elapsed();
        };
        assert!(start.elapsed() < RECOVERED_MAX, "expected an image once the storage is good: {setback}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes away what was looked at, so that a long run needs no large disk.
async fn remove(clients: &Clients, kept: usize) {
    let client = clients.target.client();
    for (index, entry) in clients.ledger.all().into_iter().enumerate() {
        if let (Some(image), true) = (entry.acknowledged, entry.compared && !entry.removed && index != kept) {
            clients.ledger.entry(index, |entry| entry.removed = true);
            client.delete_image_for_good(&image, "").await.expect("an image that can be removed");
        }
    }
}
