//! rel_44: jobs of each kind are cancelled at random instants: they end soon, leave nothing, and a wish that comes too late is
//! told so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use imageops::v1::{Job, JobState};
use imageops_client::is_final;
use tonic::Code;

use crate::content::Content;
use crate::outcome::{self, Asked, Subject};
use crate::rel_02::taken;
use crate::run::{Run, beside, join};
use crate::support::http::get;
use crate::support::jobs::ended;
use crate::support::random::Random;
use crate::support::status::eventually;
use crate::support::stores::blobs_of;
use crate::support::usage::staged_bytes;
use crate::support::{Service, names_in, wait_for};
use crate::work::{COPIES, DRAINED, SOURCE, WORKS, Work};

const JOBS: u64 = 1_000;
/// Kinds that are under way at a time, each on a server of its own: most of the time one waits.
const SERVERS: usize = 3;
const MIB: u64 = 1 << 20;
const SOURCE_BYTES: u64 = 32 * MIB;
/// Of the contract: to the state, to the last of the worker, to the last of its bytes.
const STATE_MAX: Duration = Duration::from_secs(2);
const WORKER_MAX: Duration = Duration::from_secs(5);
const STAGING_MAX: Duration = Duration::from_secs(10);

/// What came of all wishes.
#[derive(Default)]
struct Figures {
    cancelled: u64,
    /// Complete by the time that the wish came through.
    succeeded: u64,
    /// Refused.
    late: u64,
    state_longest: Duration,
    staging_longest: Duration,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.cancelled += other.cancelled;
        self.succeeded += other.succeeded;
        self.late += other.late;
        self.state_longest = self.state_longest.max(other.state_longest);
        self.staging_longest = self.staging_longest.max(other.staging_longest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_44_what_is_cancelled_ends_soon_and_leaves_nothing() {
    let mut run = Run::new("rel_44");
    let (jobs, size_bytes) = (run.part_of(JOBS, 6), run.part_of(SOURCE_BYTES, 4 * MIB));
    let kinds = Arc::new(Mutex::new(WORKS.iter().collect()));
    let lanes: Vec<_> = (0..SERVERS)
        .map(|_| {
            let service = run.service(outcome::prepare);
            let (kinds, random) = (Arc::clone(&kinds), Random::from_seed(run.random.next()));
            beside(move || lane(service, kinds, random, jobs, size_bytes))
        })
        .collect();
    let mut figures = Figures::default();
    lanes.into_iter().map(join).for_each(|of_lane| figures.add(&of_lane));
    assert!(figures.cancelled > 0, "expected wishes that come in time");
    let Figures { cancelled, succeeded, late, state_longest, staging_longest } = figures;
    run.finish(&format!(
        "{jobs} jobs of each of {} kinds: {cancelled} cancelled, {succeeded} complete by then, {late} told that it is too late; \
         at most {} ms to the state, {} ms to the last byte",
        WORKS.len(),
        state_longest.as_millis(),
        staging_longest.as_millis()
    ));
}

/// Jobs of one kind after another, as long as there are kinds that nobody has taken, on a server with nothing else to do: its
/// staging is empty once the one job is gone.
async fn lane(
    service: Service,
    kinds: Arc<Mutex<Vec<&'static Work>>>,
    mut random: Random,
    jobs: u64,
    size_bytes: u64,
) -> Figures {
    let shared = Subject::shared(&service, size_bytes).await;
    let mut figures = Figures::default();
    let next = || kinds.lock().unwrap_or_else(PoisonError::into_inner).pop();
    while let Some(work) = next() {
        let asked = ask(&mut random, &service, work, &shared, size_bytes).await;
        let job = wait_for(&service.client(), &asked.name, JobState::Succeeded).await;
        asked.remove(&service, &job).await;
        let normal = taken(&job);
        for _ in 0..jobs {
            let asked = ask(&mut random, &service, work, &shared, size_bytes).await;
            let moment = random.below(u64::try_from(normal.as_micros()).unwrap().max(1));
            tokio::time::sleep(Duration::from_micros(moment)).await;
            let job = cancel(&service, &asked, &mut figures).await;
            asked.check(&service, &job).await;
            asked.remove(&service, &job).await;
        }
    }
    shared.compare(&service.client()).await;
    assert_eq!(service.image_names(), [SOURCE], "expected nothing but the source");
    let blobs = [service.blobs().len(), names(&service, COPIES), names(&service, DRAINED)];
    assert_eq!(blobs, [1, 0, 0], "expected the bytes of one image");
    figures
}

fn names(service: &Service, store: &str) -> usize {
    names_in(&blobs_of(service, store)).len()
}

async fn ask(
    random: &mut Random,
    service: &Service,
    work: &'static Work,
    shared: &Subject,
    size_bytes: u64,
) -> Asked {
    let (client, output) = (service.client(), "out.img".to_owned());
    let own = Content::new(random.next(), size_bytes);
    let subject = Subject::of(&client, work, shared, own).await;
    let job = work.start(&client, &subject.name, &output).await;
    let name = job.unwrap_or_else(|error| panic!("{}: {error}", work.name)).name;
    Asked { name, work, output, subject }
}

/// Cancels the job; as it is once all of it has gone.
async fn cancel(service: &Service, asked: &Asked, figures: &mut Figures) -> Job {
    let (client, what) = (service.client(), asked.work.name);
    let begun = Instant::now();
    match client.cancel_job(&asked.name).await {
        Ok(job) => assert!(job.cancel_requested || job.state() == JobState::Cancelled, "{what}: {job:?}"),
        Err(late) => {
            assert_eq!((late.code(), late.reason()), (Code::FailedPrecondition, "JOB_ENDED"), "{what}");
            let job = client.get_job(&asked.name).await.unwrap();
            assert!(is_final(job.state()), "{what}: expected a job that has ended: {job:?}");
            figures.late += 1;
            return job;
        }
    }
    let job = ended(&client, &asked.name).await;
    let state = begun.elapsed();
    assert!(state <= STATE_MAX, "{what}: expected its end within {STATE_MAX:?}, not {state:?}");
    eventually("a worker that is gone", || async { (running(service) == 0).then_some(()) }).await;
    let worker = begun.elapsed();
    assert!(worker <= WORKER_MAX, "{what}: expected no worker after {WORKER_MAX:?}, not {worker:?}");
    eventually("no staged bytes", || async { (staged(service) == 0).then_some(()) }).await;
    let staging = begun.elapsed();
    assert!(staging <= STAGING_MAX, "{what}: expected no bytes after {STAGING_MAX:?}, not {staging:?}");
    figures.state_longest = figures.state_longest.max(state);
    figures.staging_longest = figures.staging_longest.max(staging);
    match job.state() {
        JobState::Cancelled => figures.cancelled += 1,
        JobState::Succeeded => figures.succeeded += 1,
        _ => panic!("{what}: expected a job that was cancelled, or was complete by then: {job:?}"),
    }
    job
}

/// Jobs that a worker is at.
fn running(service: &Service) -> u64 {
    let metrics = get(service.http(), "/metrics");
    let running = metrics.text().lines().find_map(|line| line.strip_prefix("imageops_jobs_running "));
    running.expect("how many jobs run").trim().parse().expect("a number")
}

/// Bytes in the staging of all stores, and in files of the server without a name.
fn staged(service: &Service) -> u64 {
    let staging = [COPIES, DRAINED].map(|store| blobs_of(service, store).with_file_name("staging"));
    let default = service.data_dir().join("store/staging");
    staged_bytes(service.id(), &[&default, &staging[0], &staging[1]])
}
