//! rel_30: the wall clock jumps by hours and years, and back, while jobs run. Nothing but the times that are shown changes.
//!
//! The clock is that of `libfaketime`, loaded before the server, which reads from a file how far it is off. The monotonic
//! clock goes on evenly, as it does when a machine's time is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imageops::v1::{CreateKeyRequest, Image, Job, JobState, KeyScope, UploadState};
use imageops_client::{Client, is_final};
use tonic::Code;

use crate::audit;
use crate::content::Content;
use crate::outcome::{Asked, Subject};
use crate::rel_02::check_attempts;
use crate::run::Run;
use crate::support::images::skip;
use crate::support::jobs::{ended, write_busy_disk};
use crate::support::process::Setup;
use crate::support::upload::{Stream, commit_of, digests, metadata, name_of, upload};
use crate::support::{DEADLINE, Service};
use crate::work::{SOURCE, Work, find};

const JUMPS: u64 = 500;
/// Longest time between two of them: workers look for jobs, and extend their leases, once a second.
const PAUSE_MS_MAX: u64 = 1_200;
const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;
/// How far the clock is off, one after the other.
const OFF_BY: [i64; 6] = [HOUR, -HOUR, YEAR, 0, -YEAR, 0];
/// More than lies between two sweeps, which remove what has expired.
const SWEEP: Duration = Duration::from_secs(330);
/// No job here takes so long.
const REMAINING_MAX: Duration = Duration::from_secs(3_600);
/// No disk is as fast.
const BYTES_PER_SECOND_MAX: u64 = 1 << 40;
const MIB: u64 = 1 << 20;
const WORKS: [&str; 4] =
    ["compress of a file", "compress of an image", "convert of a file", "convert of an image"];

/// A clock that can be set.
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_30_a_clock_that_jumps_changes_nothing() {
    let scratch = tempfile::tempdir().expect("a directory");
    let Some(clock) = Clock::new(scratch.path()) else { return };
    let mut run = Run::new("rel_30");
    let mut service = run.service(|setup| clock.install(setup));
    write_busy_disk(&service.image_path().join(SOURCE), run.part_of(256 * MIB, 16 * MIB));
    let disk = fs::read(service.image_path().join(SOURCE)).expect("the disk");
    let client = service.client();
    let shared = Subject { name: upload(&client, &disk).await.name, digests: digests(&disk), is_own: false };
    let open = Content::new(run.random.next(), 2 * MIB);
    let metadata = metadata("open");
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunks(0, &open.bytes(0, MIB)).await;
    stream.close().await.expect("an upload that stays open");
    let trashed = upload(&client, &Content::new(run.random.next(), MIB).bytes(0, MIB)).await.name;
    client.delete_image(&trashed, "").await.expect("an image that goes into the trash");

    let jumps = run.part_of(JUMPS, 12);
    let mut jobs = Vec::<Watched>::new();
    let mut asked_for = 0;
    for jump in 0..jumps {
        let mut running = 0;
        for watched in &mut jobs {
            running += u64::from(watched.look(&client).await);
        }
        while running < 2 {
            let work: &Work = find(WORKS[asked_for % WORKS.len()]);
            jobs.push(Watched::start(&client, work, &shared, format!("out-{asked_for}.img")).await);
            asked_for += 1;
            running += 1;
        }
        let off_by = OFF_BY[(jump % OFF_BY.len() as u64) as usize];
        clock.set(off_by);
        check_clock(&client, off_by).await;
        for watched in &mut jobs {
            watched.look(&client).await;
        }
        tokio::time::sleep(Duration::from_millis(run.random.below(PAUSE_MS_MAX))).await;
    }
    if run.part_of(2, 1) == 2 {
        // A sweep a year ahead: all would be over.
        clock.set(YEAR);
        tokio::time::sleep(SWEEP).await;
    }
    clock.set(0);
    let attempts_max = settle(&service, jobs).await;
    assert_eq!(attempts_max, 1, "expected no lease to be lost or doubled");

    let upload = client.get_upload(&name_of(&metadata)).await.expect("the open upload");
    assert_eq!(
        (upload.state(), upload.durable_bytes),
        (UploadState::Open, MIB),
        "expected it to be open still"
    );
    let bytes = open.bytes(0, 2 * MIB);
    let stream = Stream::resume(&client, &upload.name, MIB).await;
    stream.chunks(MIB, &bytes).await;
    stream.commit(commit_of(&bytes)).await.expect("an image of the open upload");
    client.restore_image(&trashed).await.expect("an image that is in the trash still");
    shared.compare(&client).await;
    audit::check_store(&service).await;
    let log = service.kill();
    audit::check_log(&log);
    check_attempts(&log);
    let keys = check_keys(&mut run, &clock).await;
    run.finish(&format!(
        "{jumps} jumps by up to a year under {asked_for} jobs of {} kinds: one attempt each, progress never fell; nothing \
         expired; {keys} keys held to their time",
        WORKS.len()
    ));
}

impl Clock {
    /// The clock, right at first; without its library the skip has been noted.
    fn new(scratch: &Path) -> Option<Self> {
        let library = fs::read_dir("/usr/lib").ok()?.flatten().find_map(|directory| {
            let library = directory.path().join("faketime/libfaketimeMT.so.1");
            library.is_file().then_some(library)
        });
        let Some(library) = library else {
            skip("libfaketime is not installed");
            return None;
        };
        let clock = Self { library, file: scratch.join("clock") };
        clock.set(0);
        Some(clock)
    }

    /// Has a server go by this clock.
    fn install(&self, setup: &mut Setup) {
        let variables = [
            ("LD_PRELOAD", self.library.to_str().expect("a path that is text")),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().expect("a path that is text")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        setup.environment.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    /// Puts it off by so many seconds.
    fn set(&self, off_by: i64) {
        let draft = self.file.with_extension("new");
        fs::write(&draft, format!("{off_by:+}\n")).expect("room for the clock");
        fs::rename(&draft, &self.file).expect("a clock that can be set");
    }
}

/// The server goes by the clock: a record that is made bears its time.
async fn check_clock(client: &Client, off_by: i64) {
    let record = client.create_image(Image::default()).await.expect("a record that can be made");
    client.delete_image_for_good(&record.name, "").await.expect("a record that can be removed");
    let told = record.create_time.expect("a time").seconds;
    let here = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let found = told - i64::try_from(here).expect("a time");
    assert!((found - off_by).abs() < 60, "expected a clock that is off by {off_by} s, not by {found} s");
}

/// A job, and how far it was when it was last looked at.
struct Watched {
    asked: Asked,
    percent: f64,
    revision: u64,
    has_ended: bool,
}

impl Watched {
    async fn start(client: &Client, work: &'static Work, shared: &Subject, output: String) -> Self {
        let job = work.start(client, &shared.name, &output).await.expect("a job that can be made");
        let asked = Asked { name: job.name, work, output, subject: shared.clone() };
        Self { asked, percent: 0.0, revision: 0, has_ended: false }
    }

    /// Whether it runs still. What it tells grows, and is possible.
    async fn look(&mut self, client: &Client) -> bool {
        if self.has_ended {
            return false;
        }
        let job = client.get_job(&self.asked.name).await.expect("a job that is known");
        let progress = job.progress.unwrap_or_default();
        let what = self.asked.work.name;
        assert!(progress.percent >= self.percent, "{what}: {} % after {}", progress.percent, self.percent);
        assert!(job.revision >= self.revision, "{what}: revision {} after {}", job.revision, self.revision);
        if let Some(remaining) = progress.remaining {
            let is_sane = (0..=REMAINING_MAX.as_secs() as i64).contains(&remaining.seconds);
            assert!(is_sane, "{what}: {} s are left", remaining.seconds);
        }
        if let Some(rate) = progress.bytes_per_second {
            assert!(rate < BYTES_PER_SECOND_MAX, "{what}: {rate} bytes a second");
        }
        (self.percent, self.revision) = (progress.percent, job.revision);
        self.has_ended = is_final(job.state());
        !self.has_ended
    }
}

/// All jobs succeed with one output each; the most attempts of one.
async fn settle(service: &Service, jobs: Vec<Watched>) -> u32 {
    let client = service.client();
    let mut attempts = BTreeMap::new();
    for Watched { asked, .. } in jobs {
        let job: Job = ended(&client, &asked.name).await;
        assert_eq!(job.state(), JobState::Succeeded, "{}: {job:?}", asked.work.name);
        assert!(asked.check(service, &job).await);
        asked.remove(service, &job).await;
        attempts.insert(asked.name, job.attempt);
    }
    attempts.into_values().max().expect("jobs")
}

/// Keys end when they end, whatever the clock says. How many.
async fn check_keys(run: &mut Run, clock: &Clock) -> u64 {
    const LIFE: Duration = Duration::from_secs(3);
    let service = run.service(|setup| {
        clock.install(setup);
        setup.arguments.extend(["--auth", "token"].map(str::to_owned));
    });
    let admin = service.client_with_key(&service.make_key("admin", None));
    let ends = SystemTime::now() + LIFE;
    let since = ends.duration_since(UNIX_EPOCH).expect("a time");
    let expire_time = pbjson_types::Timestamp { seconds: since.as_secs() as i64, nanos: 0 };
    let request = CreateKeyRequest {
        scopes: vec![KeyScope::Read.into()],
        expire_time: Some(expire_time),
        ..CreateKeyRequest::default()
    };
    let made = admin.create_key(request).await.expect("a key");
    let brief = service.client_with_key(&made.secret);
    let list = async |client: &Client| client.list_jobs(Default::default()).await.map(drop);
    list(&brief).await.expect("a key that is good still");
    clock.set(YEAR);
    let refused = list(&brief).await.expect_err("a key that has ended by this clock");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    list(&admin).await.expect("a key that never ends");
    clock.set(0);
    tokio::time::sleep(LIFE.min(DEADLINE) + Duration::from_secs(1)).await;
    for off_by in OFF_BY {
        clock.set(off_by);
        let refused = list(&brief).await.expect_err("a key that has ended");
        assert_eq!(refused.code(), Code::Unauthenticated, "off by {off_by}: {refused}");
        list(&admin).await.expect("a key that never ends");
    }
    clock.set(0);
    2
}
