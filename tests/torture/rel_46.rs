//! rel_46: the catalogue is restored to an older moment than the store. What is in both is there, what is in one alone is
//! told, and everything else can be sent again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use imageops::v1::job::Result as JobResult;
use imageops::v1::{ImageState, JobState};
use imageops_client::is_final;
use tokio::task::block_in_place;
use tonic::Code;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Target};
use crate::run::{Run, beside, join, spread};
use crate::support::images::skip;
use crate::support::jobs::{ended, write_busy_disk};
use crate::support::postgres::Postgres;
use crate::support::random::Random;
use crate::support::stores::{DEFAULT, scrub};
use crate::support::{Service, wait_for};
use crate::work::{SOURCE, find, outputs};

const RESTORES: u64 = 50;
const UPLOADERS: u64 = 2;
/// Images that are there before each dump, so that those which come after it are the fewer: were they most, none of their
/// bytes would be removed.
const BEFORE: usize = 24;
/// Images that come after a dump, at most.
const AFTER: usize = 12;
/// How long an upload may take.
const LIMIT: Duration = Duration::from_secs(60);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Clients that upload beside the dump.
struct Load {
    target: Target,
    roads: Vec<&'static Road>,
    ledger: Ledger,
    /// The road of each upload of the ledger.
    taken: Mutex<Vec<(usize, &'static Road)>>,
    stop: AtomicBool,
}

/// What became of the images of all rounds.
#[derive(Default)]
struct Figures {
    in_both: usize,
    lost_rows: usize,
    lost_bytes: usize,
    jobs: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_46_a_catalogue_from_before_loses_nothing_that_is_in_both() {
    let database = match block_in_place(Postgres::start_without_flushes) {
        Ok(database) => database,
        Err(error) => return skip(&error),
    };
    let mut run = Run::new("rel_46");
    let url = database.url();
    let mut service = run.service(|setup| setup.arguments = vec!["--catalogue-url".into(), url]);
    write_busy_disk(&service.image_path().join(SOURCE), run.part_of(64 * MIB, 4 * MIB));
    let load = Arc::new(Load {
        target: target(&service),
        roads: roads::present(service.http()),
        ledger: Ledger::default(),
        taken: Mutex::default(),
        stop: AtomicBool::new(false),
    });
    let mut figures = Figures::default();
    let restores = run.part_of(RESTORES, 2);
    for _ in 0..restores {
        round(&mut run, &mut service, &database, &load, &mut figures).await;
    }
    let Figures { in_both, lost_rows, lost_bytes, jobs } = figures;
    assert!(lost_rows > 0 && lost_bytes > 0, "expected images that are in one of both alone");
    audit::check_log(&service.kill());
    run.finish(&format!(
        "{restores} restores under load: {in_both} images in both, all whole; {lost_rows} without a row, sent again; \
         {lost_bytes} without bytes, all told; {jobs} jobs ended; {}",
        roads::counted(&load.roads)
    ));
}

/// A dump under load, more load, a stop, and a restore.
async fn round(
    run: &mut Run,
    service: &mut Service,
    database: &Postgres,
    load: &Arc<Load>,
    figures: &mut Figures,
) {
    let client = service.client();
    load.stop.store(false, Ordering::Release);
    let uploading: Vec<_> = (0..UPLOADERS)
        .map(|number| {
            let (load, seed) = (Arc::clone(load), run.random.next());
            beside(move || load.upload(number, seed))
        })
        .collect();
    load.until(load.acknowledged().len() + BEFORE).await;
    let job = find("compress of a file").start(&client, "", "out.img").await.expect("a job that can be made");
    tokio::time::sleep(Duration::from_millis(run.random.below(200))).await;
    let before = load.acknowledged();
    let dump = block_in_place(|| database.dump()).unwrap_or_else(|error| panic!("{error}"));
    let (known, count) = (load.acknowledged(), 1 + run.random.below(AFTER as u64) as usize);
    load.until(known.len() + count).await;
    load.stop.store(true, Ordering::Release);
    uploading.into_iter().for_each(join);
    let mut gone = Vec::new();
    for _ in 0..1 + run.random.below(3) {
        let index = before[run.random.below(before.len() as u64) as usize];
        let image = load.ledger.entry(index, |entry| entry.acknowledged.clone()).expect("an image");
        if !gone.contains(&index) {
            client.delete_image_for_good(&image, "").await.expect("an image that can be removed");
            gone.push(index);
        }
    }
    block_in_place(|| service.kill());
    block_in_place(|| database.restore(&dump)).unwrap_or_else(|error| panic!("{error}"));
    block_in_place(|| service.restart());

    check_job(service, &job.name, figures).await;
    figures.lost_bytes += check_gone(service, load, &gone).await;
    let is_gone = |index: &usize| gone.contains(index);
    check_lost(service, load, before.iter().copied().filter(|index| !is_gone(index)).collect(), figures)
        .await;
    // What came again is as good as what never went.
    audit::check(&client, &load.ledger).await;
    audit::check_store(service).await;
    // Each round has as many as the first had.
    for index in load.acknowledged().into_iter().skip(BEFORE) {
        let image = load.ledger.entry(index, |entry| {
            entry.removed = true;
            entry.acknowledged.clone().expect("an image")
        });
        client.delete_image_for_good(&image, "").await.expect("an image that can be removed");
    }
}

impl Load {
    async fn upload(self: Arc<Self>, number: u64, seed: u64) {
        let mut random = Random::from_seed(seed);
        let mut turn = number;
        while !self.stop.load(Ordering::Acquire) {
            let road = self.roads[(turn % self.roads.len() as u64) as usize];
            turn += UPLOADERS + 1;
            let content = Content::new(random.next(), spread(&mut random, 4 * KIB, 256 * KIB));
            let index = self.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
            self.taken.lock().unwrap_or_else(PoisonError::into_inner).push((index, road));
            road.deliver(self.target, &self.ledger, index, LIMIT).await;
        }
    }

    /// Uploads that were acknowledged and not removed.
    fn acknowledged(&self) -> Vec<usize> {
        let entries = self.ledger.all().into_iter().enumerate();
        let kept = entries.filter(|(_, entry)| entry.acknowledged.is_some() && !entry.removed);
        kept.map(|(index, _)| index).collect()
    }

    async fn until(&self, count: usize) {
        let begun = Instant::now();
        while self.acknowledged().len() < count {
            assert!(begun.elapsed() < LIMIT * 4, "expected {count} images by now");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A job that the catalogue knows ends, whether it had begun or not; what it had made is there once.
async fn check_job(service: &Service, job: &str, figures: &mut Figures) {
    let client = service.client();
    let job = ended(&client, job).await;
    assert!(is_final(job.state()) && job.state() == JobState::Succeeded, "{job:?}");
    assert_eq!(service.image_names(), ["busy.raw", "out.img"], "expected one output");
    assert_eq!(outputs(&job).0.as_deref(), Some("out.img"));
    std::fs::remove_file(service.image_path().join("out.img")).expect("the output");
    figures.jobs += 1;
}

/// Rows whose bytes were removed after the dump: a scrub tells of each, and nobody gets their bytes. How many.
async fn check_gone(service: &Service, load: &Load, gone: &[usize]) -> usize {
    let client = service.client();
    let job = scrub(service, DEFAULT).await;
    let Some(JobResult::Scrub(report)) = wait_for(&client, &job.name, JobState::Succeeded).await.result
    else {
        panic!("expected the result of a scrub");
    };
    let mut told = report.damaged_images;
    let mut expected: Vec<_> = gone
        .iter()
        .map(|index| load.ledger.entry(*index, |entry| entry.acknowledged.clone()).expect("an image"))
        .collect();
    told.sort();
    expected.sort();
    assert_eq!(told, expected, "expected the scrub to tell of each image without bytes, and of no other");
    for name in &expected {
        let image = client.get_image(name).await.expect("a row that came back");
        assert_eq!(image.state(), ImageState::Quarantined, "{name}");
        let read = client.download(name, 0, &mut tokio::io::sink(), |_| {}).await;
        let error = read.expect_err("expected no bytes");
        assert_eq!(error.code(), Code::FailedPrecondition, "{name}: {error}");
        client.delete_image_for_good(name, "").await.expect("an image that can be removed");
    }
    for index in gone {
        load.ledger.entry(*index, |entry| entry.removed = true);
    }
    gone.len()
}

/// All that was acknowledged before the dump is there. What came later may be missing, and is sent again by the same upload.
async fn check_lost(service: &Service, load: &Load, before: Vec<usize>, figures: &mut Figures) {
    let client = service.client();
    let listed: Vec<_> = audit::images(&client).await.into_iter().map(|image| image.name).collect();
    for index in load.acknowledged() {
        let name = load.ledger.entry(index, |entry| entry.acknowledged.clone()).expect("an image");
        if listed.contains(&name) {
            // Read again: its bytes may have gone with those of another.
            load.ledger.entry(index, |entry| entry.compared = false);
            figures.in_both += 1;
            continue;
        }
        assert!(!before.contains(&index), "expected {name}, which was there before the dump");
        figures.lost_rows += 1;
        load.ledger.entry(index, |entry| {
            entry.acknowledged = None;
            entry.confirmed_bytes.store(0, Ordering::Release);
            entry.sent_bytes.store(0, Ordering::Release);
        });
        let taken = load.taken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (_, road) = taken.iter().find(|(taken, _)| *taken == index).expect("its road");
        road.deliver(load.target, &load.ledger, index, LIMIT).await;
    }
}
