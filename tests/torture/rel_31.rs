//! rel_31: a worker stands still beyond its lease, and another one takes its job over. What the first one writes when it
//! goes on is refused, and there is one output.
//!
//! One server has a catalogue, so the other worker is the test: while the server stands still (SIGSTOP) it writes into
//! PostgreSQL what a claim writes, or that the lease is over. Afterwards the same server takes the job up, beside the attempt
//! that went on late.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use imageops::v1::JobState;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::outcome::{Asked, Subject};
use crate::rel_02::check_attempts;
use crate::run::Run;
use crate::support::http::get;
use crate::support::images::skip;
use crate::support::jobs::{ended, write_busy_disk};
use crate::support::postgres::Postgres;
use crate::support::status::eventually;
use crate::support::stores::add_store;
use crate::support::upload::{digests, upload};
use crate::support::{Service, wait_for};
use crate::work::{COPIES, SOURCE, WORKS, Work, outputs};

/// Pauses in the middle of a job.
const PAUSES: u64 = 100;
/// Pauses until one has met a job, in so many times what was to be done.
const PATIENCE: u64 = 10;
/// Of the last pauses in full, as many are as long as a lease is, and nobody writes anything meanwhile.
const LONG_PAUSES: u64 = 3;
/// More than a lease, which is 30 s.
const LONG: Duration = Duration::from_secs(33);
const MIB: u64 = 1 << 20;

/// What becomes of a job while its worker stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its lease is over, and the first that looks may take it.
    Lapsed,
    /// Another worker has it.
    Taken,
}

/// A server that stands still now and then.
struct Pausing {
    run: Run,
    service: Service,
    database: Postgres,
    shared: Subject,
    met: BTreeMap<&'static str, u64>,
    refused: u64,
    attempts_max: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_31_a_worker_that_is_late_writes_nothing() {
    let database = match block_in_place(Postgres::start_without_flushes) {
        Ok(database) => database,
        Err(error) => return skip(&error),
    };
    let mut pausing = Pausing::start(database).await;
    let (works, mut normal) = (works(), Vec::new());
    for work in &works {
        let begun = Instant::now();
        let asked = pausing.ask(work, "normal.img").await;
        wait_for(&pausing.service.client(), &asked.name, JobState::Succeeded).await;
        normal.push(begun.elapsed());
        pausing.settle(asked).await;
    }
    let pauses = pausing.run.part_of(PAUSES, 4);
    let mut turn = 0;
    while pausing.met.values().sum::<u64>() < pauses && turn < PATIENCE * pauses {
        let index = (turn % works.len() as u64) as usize;
        let fate = if pausing.run.random.below(3) == 0 { Fate::Lapsed } else { Fate::Taken };
        let asked = pausing.ask(works[index], &format!("out-{turn}.img")).await;
        pausing.wait_within(&asked, normal[index]).await;
        pausing.stand_still(&asked, fate).await;
        pausing.settle(asked).await;
        turn += 1;
    }
    let met: u64 = pausing.met.values().sum();
    assert!(
        met > 0 && pausing.refused > 0,
        "expected jobs that are taken over in the middle, there were {met}"
    );
    // In small runs none: a lease takes longer than all the rest.
    let long = pausing.run.part_of(LONG_PAUSES, 1) - 1;
    for number in 0..long {
        let asked = pausing.ask(works[number as usize % works.len()], &format!("long-{number}.img")).await;
        pausing.wait_within(&asked, Duration::ZERO).await;
        block_in_place(|| pausing.service.pause());
        tokio::time::sleep(LONG).await;
        pausing.service.resume();
        pausing.settle(asked).await;
    }
    pausing.finish(met, long).await;
}

/// Jobs whose output is theirs alone, and one that adds a copy.
fn works() -> Vec<&'static Work> {
    let is_meant = |work: &&Work| work.makes_outputs() || work.name == "copy into another store";
    WORKS.iter().filter(is_meant).collect()
}

impl Pausing {
    async fn start(database: Postgres) -> Self {
        let mut run = Run::new("rel_31");
        let url = database.url();
        let service = run.service(|setup| {
            // As many attempts as there can be: one that is taken over counts as one that crashed.
            setup.arguments = ["--job-attempts", "100", "--catalogue-url", &url].map(str::to_owned).into();
            add_store(setup, COPIES, -5);
        });
        write_busy_disk(&service.image_path().join(SOURCE), run.part_of(128 * MIB, 8 * MIB));
        let disk = std::fs::read(service.image_path().join(SOURCE)).expect("the disk");
        let name = upload(&service.client(), &disk).await.name;
        let shared = Subject { name, digests: digests(&disk), is_own: false };
        Self { run, service, database, shared, met: BTreeMap::new(), refused: 0, attempts_max: 0 }
    }

    async fn ask(&mut self, work: &'static Work, output: &str) -> Asked {
        let client = self.service.client();
        let own = Content::new(self.run.random.next(), 8 * MIB);
        let subject = Subject::of(&client, work, &self.shared, own).await;
        let job = work.start(&client, &subject.name, output).await;
        let name = job.unwrap_or_else(|error| panic!("{}: {error}", work.name)).name;
        Asked { name, work, output: output.to_owned(), subject }
    }

    /// Waits for a moment of the job's life: it takes about `normal`.
    async fn wait_within(&mut self, asked: &Asked, normal: Duration) {
        let client = self.service.client();
        eventually("a job that runs", || async {
            (client.get_job(&asked.name).await.ok()?.state() != JobState::Queued).then_some(())
        })
        .await;
        let us = u64::try_from(normal.as_micros()).expect("a short time");
        tokio::time::sleep(Duration::from_micros(self.run.random.below(us.max(1)))).await;
    }

    /// The server stands still while the job gets its fate.
    async fn stand_still(&mut self, asked: &Asked, fate: Fate) {
        let client = self.service.client();
        let attempt = client.get_job(&asked.name).await.expect("a job that is known").attempt;
        let before = self.stolen();
        block_in_place(|| self.service.pause());
        let changed = block_in_place(|| self.change(asked, attempt, fate));
        self.service.resume();
        if !changed {
            // It had ended, or stood still in the middle of a write.
            return;
        }
        *self.met.entry(asked.work.name).or_default() += 1;
        if fate == Fate::Lapsed {
            return;
        }
        eventually(&format!("{}: a late worker that is told", asked.work.name), || async {
            (self.stolen() > before).then_some(())
        })
        .await;
        self.refused += 1;
        let job = client.get_job(&asked.name).await.expect("a job that is known");
        assert_eq!((job.state(), outputs(&job)), (JobState::Running, (None, None)), "{}", asked.work.name);
        let changed = block_in_place(|| self.change(asked, attempt + 1, Fate::Lapsed));
        assert!(changed, "{}: expected a job that is still the other worker's", asked.work.name);
    }

    /// Writes the fate of a job into the catalogue; whether that was its to have.
    fn change(&self, asked: &Asked, attempt: u32, fate: Fate) -> bool {
        let change = match fate {
            Fate::Lapsed => "lease_time = 1".to_owned(),
            // What a claim writes. This worker never ends.
            Fate::Taken => format!(
                "attempt = attempt + 1, revision = revision + 1000, worker = '{}', lease_time = {}",
                uuid::Uuid::new_v4(),
                i64::MAX
            ),
        };
        let job = asked.name.trim_start_matches("jobs/");
        let statement = format!(
            "UPDATE jobs SET {change} WHERE id = '{job}' AND state = 'running' AND attempt = {attempt} RETURNING id"
        );
        self.database.execute(&statement).is_ok_and(|rows| rows.trim() == job)
    }

    /// How many jobs the server was told that another worker has.
    fn stolen(&self) -> u64 {
        let metrics = String::from_utf8(get(self.service.http(), "/metrics").body).expect("text");
        let count = metrics.lines().find_map(|line| line.strip_prefix("imageops_lease_stolen_total "));
        count.and_then(|count| count.parse().ok()).expect("the metric")
    }

    /// The job succeeds, with one output. It is looked at and taken away.
    async fn settle(&mut self, asked: Asked) {
        let job = ended(&self.service.client(), &asked.name).await;
        assert!(asked.check(&self.service, &job).await, "{}: expected success: {job:?}", asked.work.name);
        self.attempts_max = self.attempts_max.max(job.attempt);
        asked.remove(&self.service, &job).await;
    }

    /// Nothing is left but what was there before, and each attempt had a number of its own.
    async fn finish(mut self, met: u64, long: u64) {
        let client = self.service.client();
        assert_eq!(self.service.image_names(), [SOURCE], "expected one file for each job that makes one");
        let left: Vec<_> = audit::images(&client).await.into_iter().map(|image| image.name).collect();
        assert_eq!(left, [self.shared.name.as_str()], "expected one image for each job that makes one");
        self.shared.compare(&client).await;
        audit::check_store(&self.service).await;
        let log = self.service.kill();
        audit::check_log(&log);
        let attempts = check_attempts(&log);
        let Self { run, refused, attempts_max, met: kinds, .. } = self;
        run.finish(&format!(
            "{met} jobs of {} kinds lost while the server stood still, and {long} pauses longer than a lease; {refused} late \
             workers told; {attempts} attempts, at most {attempts_max} of one job; one output each",
            kinds.len()
        ));
    }
}
