//! rel_02: SIGKILL at random instants while jobs of each kind run: each ends once, with one output.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use imageops::v1::job::Result as JobResult;
use imageops::v1::{Digests, Job, JobState};
use imageops_client::Client;
use tokio::task::block_in_place;

use crate::audit;
use crate::run::Run;
use crate::support::images::{have, qemu_img};
use crate::support::jobs::{download, ended, write_busy_disk};
use crate::support::status::eventually;
use crate::support::upload::{digests, upload};
use crate::support::{Service, wait_for};
use crate::work::{Output, SOURCE, WORKS, Work, outputs};

const KILLS: u64 = 500;
/// Jobs that are asked for between two kills.
const JOBS_PER_KILL: u64 = 2;
/// time from a start to the first running job.
const START_MAX: Duration = Duration::from_secs(10);

/// One job that was asked for.
struct Asked {
    name: String,
    work: &'static Work,
    output: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_02_each_job_ends_once_whatever_is_killed() {
    let mut run = Run::new("rel_02");
    let kills = run.part_of(KILLS, 5);
    // As many attempts as there can be: here no number of kills may stop a job.
    let mut service = run.service(|setup| setup.arguments = vec!["--job-attempts".into(), "100".into()]);
    write_busy_disk(&service.image_path().join(SOURCE), run.part_of(256 << 20, 8 << 20));
    let disk = std::fs::read(service.image_path().join(SOURCE)).unwrap();
    let source = upload(&service.client(), &disk).await.name;
    let normal = normal_times(&service, &source).await;
    let longest_ms = normal.values().max().unwrap().as_millis() as u64;

    let (mut asked, mut log) = (Vec::new(), String::new());
    let first_work = run.random.below(WORKS.len() as u64);
    for kill in 0..kills {
        let client = service.client();
        for number in 0..JOBS_PER_KILL {
            let work = &WORKS[((first_work + kill * JOBS_PER_KILL + number) % WORKS.len() as u64) as usize];
            let output = format!("out-{kill}-{number}.img");
            let job = work
                .start(&client, &source, &output)
                .await
                .unwrap_or_else(|error| panic!("{}: {error}", work.name));
            asked.push(Asked { name: job.name, work, output });
        }
        if kill % 2 == 0 {
            // Into the middle of a job for certain; the other kills fall where they will.
            let last = &asked[asked.len() - 1];
            eventually("a job that runs", || async {
                (client.get_job(&last.name).await.ok()?.state() != JobState::Queued).then_some(())
            })
            .await;
        }
        // A little longer than the longest job, so that some end between two kills and the queue stays short.
        tokio::time::sleep(Duration::from_millis(
            run.random.below(longest_ms * 3 / 2) >> (2 * ((kill + 1) % 2)),
        ))
        .await;
        log += &block_in_place(|| service.kill());
        block_in_place(|| service.restart());
        check_known(&service.client(), &asked).await;
    }

    let client = service.client();
    let start = Instant::now();
    let pending = pending(&client, &asked).await;
    for asked in &pending {
        ended(&client, &asked.name).await;
    }
    let waited = start.elapsed();
    let allowed = 2 * pending.iter().map(|asked| normal[asked.work.name]).sum::<Duration>() + START_MAX;
    assert!(
        waited <= allowed,
        "expected the {} jobs that were open to end within {allowed:?}, not {waited:?}",
        pending.len()
    );
    let mut figures = Figures::default();
    for asked in &asked {
        let job = client.get_job(&asked.name).await.unwrap();
        figures.attempts_max = figures.attempts_max.max(job.attempt);
        figures.take(&service, &client, asked, &job, &digests(&disk)).await;
    }
    assert!(figures.attempts_max > 1, "expected a kill in the middle of a job");
    figures.check_outputs(&service, &client, &source).await;
    assert!(
        std::fs::read(service.image_path().join(SOURCE)).unwrap() == disk,
        "R-8: expected the source as it was"
    );
    log += &service.kill();
    let started = check_attempts(&log);
    block_in_place(|| service.restart());
    audit::check_store(&service).await;
    run.finish(&format!(
        "{kills} kills; {} jobs: {} succeeded, {} failed with a reason; {started} attempts, at most {} of one job; {} outputs",
        asked.len(),
        figures.succeeded,
        figures.failed,
        figures.attempts_max,
        figures.files.len() + figures.images.len()
    ));
}

/// How long each kind of job takes when nothing disturbs it.
async fn normal_times(service: &Service, source: &str) -> BTreeMap<&'static str, Duration> {
    let client = service.client();
    let mut times = BTreeMap::new();
    for work in WORKS {
        let start = Instant::now();
        let job = work.start(&client, source, "normal.img").await.unwrap();
        let job = wait_for(&client, &job.name, JobState::Succeeded).await;
        times.insert(work.name, start.elapsed());
        if let (_, Some(image)) = outputs(&job) {
            client.delete_image(&image, "").await.unwrap();
            client.purge_image(&image, "").await.unwrap();
        }
    }
    std::fs::remove_file(service.image_path().join("normal.img")).unwrap();
    times
}

/// No job that was answered is forgotten.
async fn check_known(client: &Client, asked: &[Asked]) {
    for asked in asked {
        if let Err(error) = client.get_job(&asked.name).await {
            panic!("expected {} ({}), which was acknowledged: {error}", asked.name, asked.work.name);
        }
    }
}

async fn pending<'a>(client: &Client, asked: &'a [Asked]) -> Vec<&'a Asked> {
    let mut pending = Vec::new();
    for asked in asked {
        if !imageops_client::is_final(client.get_job(&asked.name).await.unwrap().state()) {
            pending.push(asked);
        }
    }
    pending
}

/// What the jobs came to.
#[derive(Default)]
struct Figures {
    succeeded: u64,
    failed: u64,
    attempts_max: u32,
    files: BTreeSet<String>,
    images: BTreeSet<String>,
}

impl Figures {
    /// success has one output, failure none and a reason.
    async fn take(&mut self, service: &Service, client: &Client, asked: &Asked, job: &Job, source: &Digests) {
        let (file, image) = outputs(job);
        if job.state() == JobState::Failed {
            let reason = job.error.as_ref().map(|error| error.reason.as_str()).unwrap_or_default();
            assert!(!reason.is_empty(), "{}: expected a reason: {job:?}", asked.work.name);
            assert_eq!((file, image), (None, None), "{}: expected no output", asked.work.name);
            self.failed += 1;
            return;
        }
        assert_eq!(job.state(), JobState::Succeeded, "{}: expected success: {job:?}", asked.work.name);
        self.succeeded += 1;
        let made = match (&file, &image) {
            (Some(_), None) => Output::File,
            (None, Some(_)) => Output::Image,
            _ => Output::Nothing,
        };
        assert!(made == asked.work.output, "{}: expected another output: {job:?}", asked.work.name);
        match job.result.as_ref().expect("a result") {
            JobResult::Check(result) => {
                // A check takes no CRC.
                let source = Digests { crc32: None, ..source.clone() };
                assert_eq!(result.digests, Some(source), "{}", asked.work.name)
            }
            JobResult::Compress(result) => {
                assert!(result.verified, "{job:?}");
                if let Some(image) = &image {
                    let bytes = download(client, image).await;
                    assert_eq!(
                        result.digests,
                        Some(digests(&bytes)),
                        "{image}: expected the bytes that it names"
                    );
                }
            }
            _ => {}
        }
        if let Some(file) = &file {
            assert_eq!(*file, asked.output);
            if have("qemu-img") {
                let output = service.image_path().join(file);
                assert!(
                    qemu_img(["check", output.to_str().unwrap()]).status.success(),
                    "{file}: expected a sound image"
                );
            }
        }
        self.files.extend(file);
        self.images.extend(image);
    }

    /// Exactly these outputs are there, and nothing unfinished.
    async fn check_outputs(&mut self, service: &Service, client: &Client, source: &str) {
        let mut files = self.files.clone();
        files.insert(SOURCE.to_owned());
        assert_eq!(
            service.image_names(),
            Vec::from_iter(files),
            "expected one file for each job that makes one"
        );
        let mut images = self.images.clone();
        images.insert(source.to_owned());
        let found: BTreeSet<_> = audit::images(client).await.into_iter().map(|image| image.name).collect();
        assert_eq!(found, images, "expected one image for each job that makes one");
    }
}

/// No attempt ran twice, and none began before the one before it: the number of the attempt is what fences. How many
/// there were.
fn check_attempts(log: &str) -> usize {
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
