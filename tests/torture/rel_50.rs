//! rel_50: the progress of jobs of each kind: it comes soon and often, in bytes, never goes back, and is complete with success
//! alone.

use std::time::{Duration, Instant};

use imageops::v1::{Job, JobState, WatchEvent, WatchStatusRequest};
use imageops_client::Client;
use tokio::time::timeout;

use crate::content::Content;
use crate::outcome::{self, Asked, Subject};
use crate::run::Run;
use crate::support::{DEADLINE, Service};
use crate::work::{WORKS, Work};

const MIB: u64 = 1 << 20;
const SOURCE_BYTES: u64 = 2_048 * MIB;
/// Bytes of an image that is made for one job.
const OWN_BYTES_MAX: u64 = 256 * MIB;
/// Of the contract.
const FIRST_MAX: Duration = Duration::from_secs(1);
const GAP_MAX: Duration = Duration::from_secs(2);
/// Jobs that run no longer than this may be over before their first bytes are told.
const SHORT: Duration = Duration::from_secs(2);
/// From here on the remaining time is told, in per cent of the job, and may be so far from the real one.
const ETA_FROM_PERCENT: f64 = 20.0;
const ETA_OFF_PERCENT: f64 = 30.0;
/// Remaining times below this are all alike.
const ETA_LEAST: Duration = Duration::from_millis(500);

/// A state of the job, and when it was seen.
type Seen = (Instant, Job);

/// What was seen of all jobs.
#[derive(Default)]
struct Figures {
    messages: usize,
    first_longest: Duration,
    gap_longest: Duration,
    /// Remaining times that were told, and those of them that were near the real ones.
    etas: usize,
    etas_near: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_50_progress_is_told_soon_often_and_in_order() {
    let mut run = Run::new("rel_50");
    // Long enough for a compression to tell of its bytes on any machine.
    let size_bytes = run.part_of(SOURCE_BYTES, 96 * MIB);
    let service = run.service(outcome::prepare);
    let shared = Subject::shared(&service, size_bytes).await;
    let mut figures = Figures::default();
    let mut in_bytes = 0;
    for work in WORKS {
        let own = Content::new(run.random.next(), size_bytes.min(OWN_BYTES_MAX));
        let (asked, first, seen) = follow(&service, work, &shared, own).await;
        in_bytes += u64::from(check(work, &seen));
        figures.note(work, first, &seen);
        let (_, last) = seen.last().unwrap();
        assert!(asked.check(&service, last).await, "{}: expected success", work.name);
        asked.remove(&service, last).await;
    }
    assert!(in_bytes > 0, "expected bytes, and not percents alone");
    let Figures { messages, first_longest, gap_longest, etas, etas_near } = figures;
    run.finish(&format!(
        "jobs of {} kinds on {} MiB: {messages} messages, the first within {} ms, no two more than {} ms apart; percent and \
         bytes only grow, of {in_bytes} kinds bytes in between; {etas_near} of {etas} remaining times within {ETA_OFF_PERCENT} %",
        WORKS.len(),
        size_bytes / MIB,
        first_longest.as_millis(),
        gap_longest.as_millis()
    ));
}

/// Runs a job and sees all that is told of it. How long the first message took, and all states.
async fn follow(
    service: &Service,
    work: &'static Work,
    shared: &Subject,
    own: Content,
) -> (Asked, Duration, Vec<Seen>) {
    let client = service.client();
    let subject = Subject::of(&client, work, shared, own).await;
    let output = "out.img".to_owned();
    let job = work.start(&client, &subject.name, &output).await;
    let name = job.unwrap_or_else(|error| panic!("{}: {error}", work.name)).name;
    let (first, seen) = watch(&client, &name).await;
    (Asked { name, work, output, subject }, first, seen)
}

async fn watch(client: &Client, job: &str) -> (Duration, Vec<Seen>) {
    let (begun, mut first) = (Instant::now(), None);
    let request = WatchStatusRequest { job: job.to_owned(), after_revision: 0 };
    let mut messages = client.stub().watch_status(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(message) = timeout(DEADLINE, messages.message()).await.expect("a message in time").unwrap()
    {
        first.get_or_insert(begun.elapsed());
        if message.event() != WatchEvent::Heartbeat {
            seen.push((Instant::now(), message.job.expect("a job")));
        }
    }
    (first.expect("a message"), seen)
}

/// Nothing goes back, and only success is complete. Whether bytes were told on the way.
fn check(work: &Work, seen: &[Seen]) -> bool {
    let what = work.name;
    let progress = |job: &Job| job.progress.unwrap_or_default();
    for (_, job) in seen {
        let told = progress(job);
        assert!((0.0..=100.0).contains(&told.percent), "{what}: {told:?}");
        assert_eq!(told.percent >= 100.0, job.state() == JobState::Succeeded, "{what}: {job:?}");
        assert!(told.done_bytes <= told.total_bytes || told.total_bytes == 0, "{what}: {told:?}");
    }
    for pair in seen.windows(2) {
        let [(_, before), (_, after)] = pair else { continue };
        assert!(after.revision > before.revision, "{what}: expected order: {pair:?}");
        let (before, after) = (progress(before), progress(after));
        assert!(after.percent >= before.percent, "{what}: {after:?} after {before:?}");
        assert!(
            after.phase != before.phase || after.done_bytes >= before.done_bytes,
            "{what}: {after:?} after {before:?}"
        );
    }
    let running = || seen.iter().filter(|(_, job)| job.state() == JobState::Running);
    let in_bytes = running().any(|(_, job)| progress(job).done_bytes > 0);
    let taken = running().next().map_or(Duration::ZERO, |(begun, _)| seen[seen.len() - 1].0 - *begun);
    assert!(in_bytes || taken < SHORT, "{what}: expected bytes within {taken:?}: {seen:?}");
    in_bytes
}

impl Figures {
    /// What came when. Of remaining times it is told how good they are: the machine may have other work meanwhile.
    fn note(&mut self, work: &Work, first: Duration, seen: &[Seen]) {
        let what = work.name;
        assert!(first <= FIRST_MAX, "{what}: expected a message within {FIRST_MAX:?}, not {first:?}");
        let running = |job: &Job| job.state() == JobState::Running;
        for pair in seen.windows(2).filter(|pair| running(&pair[0].1)) {
            let gap = pair[1].0 - pair[0].0;
            assert!(gap <= GAP_MAX, "{what}: expected a message every {GAP_MAX:?}, not {gap:?}: {pair:?}");
            self.gap_longest = self.gap_longest.max(gap);
        }
        let (end, _) = seen.last().unwrap();
        for (time, job) in seen.iter().filter(|(_, job)| running(job)) {
            let told = job.progress.unwrap_or_default();
            let Some(remaining) = told.remaining else { continue };
            let real = *end - *time;
            if told.percent < ETA_FROM_PERCENT || real < ETA_LEAST {
                continue;
            }
            let remaining = remaining.seconds as f64 + f64::from(remaining.nanos) / 1e9;
            let off = (remaining / real.as_secs_f64() - 1.0).abs() * 100.0;
            self.etas += 1;
            self.etas_near += usize::from(off <= ETA_OFF_PERCENT);
        }
        self.messages += seen.len();
        self.first_longest = self.first_longest.max(first);
    }
}
