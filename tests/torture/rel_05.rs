//! rel_05: the power fails between any two writes of the server. Its files are made again as they would lie on the medium,
//! the server starts on them, and everything that was acknowledged by then is there.
//!
//! The server is traced from outside while clients work. Of what it wrote only that remains which a flush covers that had
//! returned before the cut; of the rest nothing, or pages at random. Names remain without their bytes, or are as their
//! directory was flushed last.

mod load;
mod log;
mod medium;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imageops::v1::{Digests, JobState, ListJobsRequest};
use imageops_client::Client;
use tokio::task::block_in_place;

use self::load::{Job, Moment, Upload};
use self::log::{Call, Step};
use self::medium::{Leaves, Medium};
use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road};
use crate::run::{Run, beside, join};
use crate::strace;
use crate::support::jobs::{download, ended, write_busy_disk};
use crate::support::upload::digests;
use crate::support::{Service, binary};
use crate::work::SOURCE;

const CUTS: u64 = 1_000;
const CLIENTS: u64 = 3;
/// Of each client, in each life.
const UPLOADS: u64 = 40;
const JOBS: u64 = 12;
/// The second begins with what the first has left.
const LIVES: u64 = 2;
const SOURCE_BYTES: u64 = 1 << 20;
/// Steps around a flush among which a cut is chosen.
const NEAR: u64 = 3;
const LIMIT: Duration = Duration::from_secs(60);
/// The directory of all that a server has, in that of a test.
const MACHINE: &str = "machine";

/// What the clients did, and what the server wrote meanwhile.
struct Record {
    service: Service,
    ledger: Arc<Ledger>,
    roads: Vec<&'static Road>,
    uploads: Vec<Upload>,
    jobs: Vec<Job>,
    /// Those of each life.
    steps: Vec<Vec<Step>>,
    /// What jobs have made: the digests of files and images by their names.
    made: BTreeMap<String, Digests>,
    /// The files before the first step.
    medium: Medium,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_05_acknowledged_images_outlive_a_loss_of_power() {
    if !strace::can_trace() {
        return;
    }
    let mut run = Run::new("rel_05");
    let cuts = run.part_of(CUTS, 8);
    let mut record = Record::make(&mut run).await;
    let steps: usize = record.steps.iter().map(Vec::len).sum();
    let mut wanted = record.choose(&mut run, cuts);
    let (mut cut, mut at, mut required, mut resumed) = (0, 0, 0, 0);
    let mut told = record.told();
    for life in std::mem::take(&mut record.steps) {
        for step in &life {
            // Of each and every answer, whether a cut is behind it or not.
            while let Some((_, image)) = told.pop_if(|(moment, _)| *moment < step.time_us) {
                record.check_durable(&image, at);
            }
            while wanted.remove(&at) {
                let leaves = Leaves::ALL[cut % Leaves::ALL.len()];
                let case = format!("cut {cut} at {at} of {steps} steps, {leaves:?}");
                let after = record.check(&mut run, &case, step.time_us, leaves).await;
                (cut, required, resumed) = (cut + 1, required + after.required, resumed + after.resumed);
            }
            record.medium.apply(&step.call);
            at += 1;
        }
        record.medium.end_of_process();
    }
    record.medium.check_seen();
    assert!(required > 0, "expected cuts after an acknowledgement");
    let Record { uploads, jobs, roads, .. } = record;
    run.finish(&format!(
        "{cut} cuts between {steps} steps of {LIVES} lives; {} uploads on {}, {} jobs; {required} acknowledgements looked for \
         and found, {resumed} open uploads completed",
        uploads.len(),
        roads::counted(&roads),
        jobs.len()
    ));
}

/// What was found after a cut.
struct Found {
    required: u64,
    resumed: u64,
}

impl Record {
    async fn make(run: &mut Run) -> Self {
        let server = binary("imageops-server");
        let (uploads, jobs) = (run.part_of(UPLOADS, 5), run.part_of(JOBS, 3));
        let (mut medium, mut log) = (None, PathBuf::new());
        let service = run.service(|setup| {
            let scratch = setup.data_dir.parent().expect("a directory of the test").to_owned();
            let machine = scratch.join(MACHINE);
            log = scratch.join("life-0.log");
            (setup.data_dir, setup.image_path) = (machine.join("data"), machine.join("images"));
            std::fs::create_dir_all(&setup.image_path).expect("an image root");
            write_busy_disk(&setup.image_path.join(SOURCE), SOURCE_BYTES);
            medium = Some(Medium::of(&machine));
            strace::record(setup, &server, &log);
        });
        let roads = roads::present(service.http());
        let mut record = Self {
            ledger: Arc::default(),
            roads,
            uploads: Vec::new(),
            jobs: Vec::new(),
            steps: Vec::new(),
            made: BTreeMap::new(),
            medium: medium.expect("the files before the start"),
            service,
        };
        for life in 0..LIVES {
            if life > 0 {
                log = log.with_file_name(format!("life-{life}.log"));
                strace::record(record.service.setup_mut(), &server, &log);
                block_in_place(|| record.service.restart());
            }
            let source = record.upload_source(run).await;
            record.live(run, (life, uploads, jobs), source).await;
            let id = record.service.id();
            record.service.terminate();
            block_in_place(|| record.service.wait());
            strace::recorded(&log, id).await;
            record.steps.push(log::read(&log));
            let _ = std::fs::remove_file(&log);
        }
        record
    }

    /// An image for the jobs of one life.
    async fn upload_source(&mut self, run: &mut Run) -> String {
        let content = Content::new(run.random.next(), SOURCE_BYTES);
        let index = self.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
        let (road, begun) = (self.roads[0], load::moment());
        let image = road.attempt(target(&self.service), &self.ledger, index).await.expect("an image");
        let acknowledged = Some(load::moment());
        self.uploads.push(Upload { index, road, begun, acknowledged, removing: None, removed: None });
        image
    }

    /// One life of the server: clients upload, remove, and have jobs done.
    async fn live(&mut self, run: &mut Run, (life, uploads, jobs): (u64, u64, u64), source: String) {
        let target = target(&self.service);
        let mut uploading = Vec::new();
        for number in 0..CLIENTS {
            let (roads, ledger) = (self.roads.clone(), Arc::clone(&self.ledger));
            // Each begins on another road.
            let turn = (number + life) * 2;
            let seed = run.random.next();
            uploading.push(beside(move || load::upload(target, roads, ledger, (turn, uploads, seed))));
        }
        let working = beside(move || load::work(target, source, (life * jobs, jobs)));
        self.uploads.extend(uploading.into_iter().flat_map(join));
        let done = join(working);
        let client = self.service.client();
        for job in &done {
            if let Some(image) = &job.image {
                let digests = client.get_image(image).await.expect("an image that was made").digests;
                self.made.insert(image.clone(), digests.expect("digests"));
            }
            if let Some(file) = &job.file {
                let bytes =
                    std::fs::read(self.service.image_path().join(file)).expect("a file that was made");
                self.made.insert(file.clone(), digests(&bytes));
            }
        }
        self.jobs.extend(done);
    }

    /// When which image was acknowledged, the last one first.
    fn told(&self) -> Vec<(Moment, String)> {
        let image = |upload: &Upload| {
            let name = self.ledger.entry(upload.index, |entry| entry.acknowledged.clone())?;
            Some((upload.acknowledged?, name))
        };
        let mut told: Vec<_> = self.uploads.iter().filter_map(image).collect();
        told.sort_by_key(|(moment, _)| std::cmp::Reverse(*moment));
        told
    }

    /// The bytes of an image that was acknowledged just now are on the medium.
    fn check_durable(&self, image: &str, at: usize) {
        let id = image.trim_start_matches("images/");
        let blob = self.medium.root().join("data/store/blobs").join(id);
        if let Some(missing) = self.medium.missing(&blob) {
            panic!("expected {image}, which was acknowledged before step {at}, on the medium: {missing}");
        }
    }

    /// Where the power fails: most cuts lie close to a flush or right behind an acknowledgement.
    fn choose(&self, run: &mut Run, cuts: u64) -> BTreeSet<usize> {
        let steps: Vec<_> = self.steps.iter().flatten().collect();
        let is_flush = |step: &Step| matches!(step.call, Call::FlushBegins { .. } | Call::FlushEnds { .. });
        let flushes: Vec<_> = (0..steps.len()).filter(|&at| is_flush(steps[at])).collect();
        let told = self.uploads.iter().filter_map(|upload| upload.removed.or(upload.acknowledged));
        let told: Vec<_> = told.chain(self.jobs.iter().map(|job| job.succeeded)).collect();
        let mut wanted = BTreeSet::new();
        let mut pick = |count: usize| run.random.below(count as u64) as usize;
        while (wanted.len() as u64) < cuts.min(steps.len() as u64 / 2) {
            wanted.insert(match pick(5) {
                0 => pick(steps.len()),
                1 | 2 => {
                    let near = flushes[pick(flushes.len())] + pick(2 * NEAR as usize + 1);
                    near.saturating_sub(NEAR as usize).min(steps.len() - 1)
                }
                _ => {
                    let moment = told[pick(told.len())];
                    let behind = steps.iter().position(|step| step.time_us > moment);
                    behind.unwrap_or(steps.len() - 1)
                }
            });
        }
        wanted
    }

    /// Starts a server on what is left, and looks for everything that was told before `now`.
    async fn check(&self, run: &mut Run, case: &str, now: Moment, leaves: Leaves) -> Found {
        eprintln!("{case}");
        let seed = run.random.next();
        let service = block_in_place(|| {
            run.service(|setup| {
                let machine = setup.data_dir.parent().expect("a directory of the test").join(MACHINE);
                self.medium.write_to(&machine, leaves, &mut crate::support::random::Random::from_seed(seed));
                (setup.data_dir, setup.image_path) = (machine.join("data"), machine.join("images"));
            })
        });
        let client = service.client();
        let ledger = self.ledger_at(now);
        audit::check(&client, &ledger).await;
        let mut required =
            ledger.all().iter().filter(|entry| entry.acknowledged.is_some() && !entry.removed).count() as u64;
        required += self.check_removed(&client, case, now).await;
        required += self.check_jobs(&service, &client, case, now).await;
        let resumed = self.go_on(&service, &ledger, now).await;
        audit::check(&client, &ledger).await;
        audit::check_store(&service).await;
        self.check_made(&service, &client, case).await;
        assert!(!service.output().contains("panicked"), "{case}: expected no panic");
        Found { required, resumed }
    }

    /// What the clients knew by then.
    fn ledger_at(&self, now: Moment) -> Ledger {
        let ledger = Ledger::default();
        let mut entries: Vec<_> = self.ledger.all().into_iter().collect();
        for upload in &self.uploads {
            let entry = &mut entries[upload.index];
            let is_told = upload.acknowledged.is_some_and(|told| told < now);
            entry.acknowledged = entry.acknowledged.take().filter(|_| is_told);
            entry.removed = upload.removing.is_some_and(|removing| removing <= now);
        }
        for entry in entries {
            // Each cut has counts of its own.
            let fresh = Entry::new(entry.id, entry.content.clone());
            fresh.sent_bytes.store(entry.sent_bytes(), std::sync::atomic::Ordering::Release);
            ledger.begin(Entry { acknowledged: entry.acknowledged, removed: entry.removed, ..fresh });
        }
        ledger
    }

    /// What is gone for good does not come back. How many there are.
    async fn check_removed(&self, client: &Client, case: &str, now: Moment) -> u64 {
        let gone = self.uploads.iter().filter(|upload| upload.removed.is_some_and(|removed| removed < now));
        let mut count = 0;
        let names: BTreeSet<_> = audit::images(client).await.into_iter().map(|image| image.name).collect();
        for upload in gone {
            let name = self.ledger.entry(upload.index, |entry| entry.acknowledged.clone()).expect("an image");
            assert!(!names.contains(&name), "{case}: expected {name} to stay removed");
            count += 1;
        }
        count
    }

    /// Jobs that were answered are known, those that had succeeded have. Afterwards all have ended. How many there are.
    async fn check_jobs(&self, service: &Service, client: &Client, case: &str, now: Moment) -> u64 {
        let mut count = 0;
        for job in self.jobs.iter().filter(|job| job.asked < now) {
            let found = client.get_job(&job.name).await;
            let found = found.unwrap_or_else(|error| panic!("{case}: expected {}: {error}", job.name));
            count += 1;
            if job.succeeded >= now {
                continue;
            }
            assert_eq!(
                found.state(),
                JobState::Succeeded,
                "{case}: expected {} as its client saw it",
                job.name
            );
            if let Some(file) = &job.file {
                assert!(service.image_names().contains(file), "{case}: expected the file {file}");
            }
            if let Some(image) = &job.image {
                client.get_image(image).await.unwrap_or_else(|error| panic!("{case}: {image}: {error}"));
            }
        }
        let jobs = client.list_jobs(ListJobsRequest { page_size: 1000, ..Default::default() }).await.unwrap();
        for job in jobs.jobs {
            ended(client, &job.name).await;
        }
        count
    }

    /// Files and images that jobs have made are whole, whenever that was.
    async fn check_made(&self, service: &Service, client: &Client, case: &str) {
        for name in service.image_names() {
            let Some(expected) = self.made.get(&name) else {
                assert_eq!(name, SOURCE, "{case}: expected only what was asked for");
                continue;
            };
            let bytes = std::fs::read(service.image_path().join(&name)).unwrap();
            assert!(digests(&bytes) == *expected, "{case}: expected {name} whole");
        }
        for image in audit::images(client).await {
            let bytes = download(client, &image.name).await;
            assert!(image.digests == Some(digests(&bytes)), "{case}: expected {} whole", image.name);
            if let Some(expected) = self.made.get(&image.name) {
                assert_eq!(image.digests.as_ref(), Some(expected), "{case}: {}", image.name);
            }
        }
    }

    /// Uploads that had begun and whose clients had not been answered go on from where the server says that they are. How
    /// many.
    async fn go_on(&self, service: &Service, ledger: &Ledger, now: Moment) -> u64 {
        let client = service.client();
        let open = audit::open_uploads(&client).await;
        let made: Vec<_> =
            audit::images(&client).await.into_iter().filter_map(|image| image.digests).collect();
        let mut resumed = 0;
        for upload in self.uploads.iter().filter(|upload| upload.begun <= now) {
            let (id, digests) = ledger.entry(upload.index, |entry| (entry.id, entry.digests.clone()));
            let is_answered = upload.acknowledged.is_some_and(|told| told < now);
            // Which chunks are there no list tells: they are sent again unless they were merged.
            let is_open = match upload.road.promises {
                true => open.iter().any(|upload| upload.name == format!("uploads/{id}")),
                false => upload.road.remembers && !made.contains(&digests),
            };
            if is_open && !is_answered {
                upload.road.deliver(target(service), ledger, upload.index, LIMIT).await;
                resumed += 1;
            }
        }
        resumed
    }
}
