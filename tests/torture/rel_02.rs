//! rel_02: SIGKILL at random instants while jobs of each kind run: each ends once, with one output.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use imageops::v1::{Job, JobState};
use imageops_client::is_final;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::outcome::{self, Asked, Subject};
use crate::run::Run;
use crate::support::jobs::ended;
use crate::support::status::eventually;
use crate::support::stores::blobs_of;
use crate::support::{Service, names_in, wait_for};
use crate::work::{COPIES, DRAINED, SOURCE, WORKS, Work};

const KILLS: u64 = 500;
/// Kills until one has struck a job, in so many times what was to be done.
const PATIENCE: u64 = 20;
/// Jobs that are asked for between two kills.
const JOBS_PER_KILL: u64 = 2;
/// time from a start to the first running job.
const START_MAX: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;
/// Longest image that is made for one job.
const OWN_BYTES_MAX: u64 = 32 * MIB;

/// A server whose jobs are killed, and what came of them.
struct Torture {
    run: Run,
    service: Service,
    shared: Subject,
    own_bytes: u64,
    /// Jobs that were asked for and not looked at yet.
    open: Vec<Asked>,
    /// All that were ever acknowledged.
    names: Vec<String>,
    succeeded: u64,
    failed: u64,
    attempts_max: u32,
    /// Kinds that a kill has struck.
    struck: BTreeSet<&'static str>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_02_each_job_ends_once_whatever_is_killed() {
    let mut torture = Torture::start().await;
    let source = std::fs::read(torture.source()).unwrap();
    let normal = torture.normal_times().await;
    let longest = *normal.values().max().unwrap();
    let (mut log, mut kill) = (String::new(), 0);
    let kills = torture.run.part_of(KILLS, 5);
    let first_work = torture.run.random.below(WORKS.len() as u64);
    while kill < kills || (!log.contains("attempt=2") && kill < PATIENCE * kills) {
        for number in kill * JOBS_PER_KILL..(kill + 1) * JOBS_PER_KILL {
            let work = &WORKS[((first_work + number) % WORKS.len() as u64) as usize];
            torture.ask(work, format!("out-{number}.img")).await;
        }
        torture.wait_for_a_moment(kill, &normal, longest).await;
        log += &block_in_place(|| torture.service.kill());
        block_in_place(|| torture.service.restart());
        torture.check_known().await;
        kill += 1;
    }

    torture.wait_for_all(normal).await;
    while let Some(asked) = torture.open.pop() {
        torture.settle(asked).await;
    }
    assert!(torture.attempts_max > 1, "expected a kill in the middle of a job");
    assert!(std::fs::read(torture.source()).unwrap() == source, "R-8: expected the source as it was");
    log += &torture.service.kill();
    let attempts = check_attempts(&log);
    block_in_place(|| torture.service.restart());
    torture.check_left().await;
    let Torture { run, names, succeeded, failed, attempts_max, struck, .. } = torture;
    run.finish(&format!(
        "{kill} kills; {} jobs of {} kinds: {succeeded} succeeded, {failed} failed with a reason; {attempts} attempts, at most \
         {attempts_max} of one job; {} kinds struck; one outcome each",
        names.len(),
        WORKS.len(),
        struck.len()
    ));
}

impl Torture {
    async fn start() -> Self {
        let mut run = Run::new("rel_02");
        let service = run.service(|setup| {
            // As many attempts as there can be: here no number of kills may stop a job.
            setup.arguments = vec!["--job-attempts".into(), "100".into()];
            outcome::prepare(setup);
        });
        let source_bytes = run.part_of(256 * MIB, 8 * MIB);
        let shared = Subject::shared(&service, source_bytes).await;
        Self {
            run,
            service,
            shared,
            own_bytes: source_bytes.min(OWN_BYTES_MAX),
            open: Vec::new(),
            names: Vec::new(),
            succeeded: 0,
            failed: 0,
            attempts_max: 0,
            struck: BTreeSet::new(),
        }
    }

    fn source(&self) -> std::path::PathBuf {
        self.service.image_path().join(SOURCE)
    }

    /// Asks for a job. The one before it of the same kind is looked at first: some kinds have one job at a time.
    async fn ask(&mut self, work: &'static Work, output: String) {
        if let Some(index) = self.open.iter().position(|asked| asked.work.name == work.name) {
            let former = self.open.remove(index);
            self.settle(former).await;
        }
        let client = self.service.client();
        let own = Content::new(self.run.random.next(), self.own_bytes);
        let subject = Subject::of(&client, work, &self.shared, own).await;
        let job = work.start(&client, &subject.name, &output).await;
        let name = job.unwrap_or_else(|error| panic!("{}: {error}", work.name)).name;
        self.names.push(name.clone());
        self.open.push(Asked { name, work, output, subject });
    }

    /// Waits for the end of a job and takes what it has made.
    async fn settle(&mut self, asked: Asked) {
        let job = ended(&self.service.client(), &asked.name).await;
        let is_success = asked.check(&self.service, &job).await;
        asked.remove(&self.service, &job).await;
        *if is_success { &mut self.succeeded } else { &mut self.failed } += 1;
        self.attempts_max = self.attempts_max.max(job.attempt);
        if job.attempt > 1 {
            self.struck.insert(asked.work.name);
        }
    }

    /// How long each kind of job takes when nothing disturbs it.
    async fn normal_times(&mut self) -> BTreeMap<&'static str, Duration> {
        let mut times = BTreeMap::new();
        for work in WORKS {
            self.ask(work, "normal.img".to_owned()).await;
            let asked = self.open.pop().expect("the job that was just asked for");
            let job = wait_for(&self.service.client(), &asked.name, JobState::Succeeded).await;
            times.insert(work.name, taken(&job));
            self.settle(asked).await;
        }
        times
    }

    /// Every second kill strikes the middle of a job, if that takes long enough; the others fall where they will.
    async fn wait_for_a_moment(
        &mut self,
        kill: u64,
        normal: &BTreeMap<&'static str, Duration>,
        longest: Duration,
    ) {
        // A little longer than the longest job, so that some end between two kills and the queue stays short.
        let mut most = longest * 3 / 2;
        if kill.is_multiple_of(2) {
            let client = self.service.client();
            let last = self.open.last().expect("a job");
            eventually("a job that runs", || async {
                (client.get_job(&last.name).await.ok()?.state() != JobState::Queued).then_some(())
            })
            .await;
            most = normal[last.work.name];
        }
        let most_us = u64::try_from(most.as_micros()).unwrap().max(1);
        tokio::time::sleep(Duration::from_micros(self.run.random.below(most_us))).await;
    }

    /// No job that was answered is forgotten.
    async fn check_known(&self) {
        let client = self.service.client();
        for name in &self.names {
            if let Err(error) = client.get_job(name).await {
                panic!("expected {name}, which was acknowledged: {error}");
            }
        }
    }

    /// the open jobs end in twice their time.
    async fn wait_for_all(&mut self, mut normal: BTreeMap<&'static str, Duration>) {
        let client = self.service.client();
        let start = Instant::now();
        let mut waited_for = Vec::new();
        for asked in &self.open {
            if !is_final(client.get_job(&asked.name).await.unwrap().state()) {
                waited_for.push(asked.work.name);
            }
        }
        for asked in &self.open {
            ended(&client, &asked.name).await;
        }
        let waited = start.elapsed();
        let allowed = |normal: &BTreeMap<_, Duration>| {
            2 * waited_for.iter().map(|name| normal[name]).sum::<Duration>() + START_MAX
        };
        if waited > allowed(&normal) {
            // Perhaps the machine is slower now than it was at first.
            for (name, time) in self.normal_times().await {
                normal.entry(name).and_modify(|known| *known = time.max(*known));
            }
        }
        let allowed = allowed(&normal);
        assert!(waited <= allowed, "expected {waited_for:?} to end within {allowed:?}, not {waited:?}");
    }

    /// When all that jobs have made was taken away, nothing is left of them: no output was made twice.
    async fn check_left(&self) {
        let client = self.service.client();
        assert_eq!(self.service.image_names(), [SOURCE], "expected one file for each job that makes one");
        let left: Vec<_> = audit::images(&client).await.into_iter().map(|image| image.name).collect();
        assert_eq!(left, [self.shared.name.as_str()], "expected one image for each job that makes one");
        self.shared.compare(&client).await;
        audit::check_store(&self.service).await;
        for store in [COPIES, DRAINED] {
            let blobs = blobs_of(&self.service, store);
            for directory in [blobs.with_file_name("staging"), blobs] {
                eventually(&format!("nothing in {}", directory.display()), || async {
                    names_in(&directory).is_empty().then_some(())
                })
                .await;
            }
        }
    }
}

/// From the moment at which a job was asked for to its end.
pub fn taken(job: &Job) -> Duration {
    let ms = |time: Option<pbjson_types::Timestamp>| {
        time.map_or(0, |time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000)
    };
    Duration::from_millis(u64::try_from(ms(job.end_time) - ms(job.create_time)).unwrap_or_default())
}

/// No attempt ran twice, and none began before the one before it: the number of the attempt is what fences. How many
/// there were.
pub fn check_attempts(log: &str) -> usize {
    let mut last = BTreeMap::<&str, u32>::new();
    let mut count = 0;
    for line in log.lines().filter(|line| line.contains("job started")) {
        let field = |name: &str| {
            let rest = line.split(name).nth(1).unwrap_or_else(|| panic!("no {name} in {line:?}"));
            rest.split_whitespace().next().unwrap_or_default()
        };
        let attempt: u32 = field("attempt=").parse().unwrap_or_else(|_| panic!("no attempt in {line:?}"));
        let before = last.insert(field("job="), attempt).unwrap_or(0);
        assert!(attempt > before, "expected an attempt after {before}: {line}");
        count += 1;
    }
    assert!(count > 0, "the log tells of no job");
    count
}
