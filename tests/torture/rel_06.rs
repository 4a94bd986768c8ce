//! rel_06: a crash loop, also in the middle of starting. Recovery changes nothing a second time, and nothing grows.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use imageops::v1::{Image, Job, JobState, ListJobsRequest, Upload};
use imageops_client::Client;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads;
use crate::run::Run;
use crate::support::jobs::{compress_file, image, write_busy_disk};
use crate::support::upload::{Stream, metadata};
use crate::support::{Service, wait_for};
use crate::work::SOURCE;

const KILLS: u64 = 50;
/// All of them fall within a minute.
const LIFE_MS_MAX: u64 = 1_200;
/// A start takes about so long: every second kill falls into one.
const START_MS: u64 = 120;
const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn rel_06_a_crash_loop_changes_nothing() {
    let mut run = Run::new("rel_06");
    let kills = run.part_of(KILLS, 8);
    let mut service = run.service(|setup| setup.arguments = vec!["--job-attempts".into(), "100".into()]);
    let client = service.client();
    let ledger = Ledger::default();
    for road in roads::present(service.http()) {
        let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), 2 * MIB)));
        road.attempt(target(&service), &ledger, index)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", road.name));
    }
    let open = open_upload(&client, &run.random.bytes(2 * MIB as usize)).await;
    write_busy_disk(&service.image_path().join(SOURCE), run.part_of(512 * MIB, 64 * MIB));
    let jobs = start_jobs(&client, &service, &ledger).await;
    block_in_place(|| service.kill());
    let before = bytes_in_staging(&service);

    let (mut in_start, mut staged_max) = (0, 0);
    for kill in 0..kills {
        let life_ms = if kill % 2 == 0 {
            run.random.below(START_MS)
        } else {
            START_MS + run.random.below(LIFE_MS_MAX - START_MS)
        };
        in_start += u64::from(life_ms < START_MS);
        let mut child =
            service.setup().command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server");
        block_in_place(|| std::thread::sleep(Duration::from_millis(life_ms)));
        assert_eq!(child.try_wait().unwrap(), None, "expected a server that comes up again");
        child.kill().unwrap();
        child.wait().unwrap();
        // The open upload, and what each of the jobs is writing.
        let staged = service.staged();
        staged_max = staged_max.max(staged.len());
        assert!(staged.len() <= 1 + jobs.len(), "expected staging not to grow: {staged:?}");
        let partials = service.image_names();
        assert!(partials.len() <= 2 + jobs.len(), "expected unfinished outputs not to pile up: {partials:?}");
    }

    block_in_place(|| service.restart());
    for job in &jobs {
        wait_for(&service.client(), job, JobState::Succeeded).await;
    }
    let once = state(&service).await;
    assert!(once.uploads.contains_key(&open), "expected the open upload: {:?}", once.uploads.keys());
    block_in_place(|| service.restart());
    let twice = state(&service).await;
    assert_eq!(once, twice, "expected another start to change nothing");
    check_images(&service, &ledger, jobs.len()).await;
    assert_eq!(bytes_in_staging(&service), before.min(2 * MIB), "expected only the open upload in staging");
    run.finish(&format!(
        "{kills} kills, {in_start} of them in a start; at most {staged_max} staged files; state the same after another start"
    ));
}

/// An upload with a part of its bytes, all of them durable.
async fn open_upload(client: &Client, bytes: &[u8]) -> String {
    let stream = Stream::begin(client, &metadata("open")).await;
    stream.chunks(0, bytes).await;
    let upload = stream.close().await.unwrap().upload.unwrap();
    assert_eq!(upload.durable_bytes, bytes.len() as u64);
    upload.name
}

/// A compression into a file and one into an image.
async fn start_jobs(client: &Client, service: &Service, ledger: &Ledger) -> Vec<String> {
    let source = ledger.all().into_iter().find_map(|entry| entry.acknowledged).unwrap();
    let into_file = client.compress(compress_file(SOURCE, "out.img")).await.unwrap();
    let request = imageops::v1::CompressRequest { source: image(&source), ..Default::default() };
    let into_image = client.compress(request).await.unwrap();
    assert!(service.image_path().join(SOURCE).is_file());
    vec![into_file.name, into_image.name]
}

/// Everything that clients can see.
#[derive(Debug, PartialEq)]
struct State {
    images: BTreeMap<String, Image>,
    uploads: BTreeMap<String, Upload>,
    jobs: BTreeMap<String, Job>,
    staged: Vec<String>,
    blobs: Vec<String>,
    files: Vec<String>,
}

async fn state(service: &Service) -> State {
    let client = service.client();
    let jobs = client.list_jobs(ListJobsRequest { page_size: 1000, ..Default::default() }).await.unwrap();
    State {
        images: audit::images(&client).await.into_iter().map(|image| (image.name.clone(), image)).collect(),
        uploads: audit::open_uploads(&client).await.into_iter().map(|one| (one.name.clone(), one)).collect(),
        jobs: jobs.jobs.into_iter().map(|job| (job.name.clone(), job)).collect(),
        staged: service.staged(),
        blobs: service.blobs(),
        files: service.image_names(),
    }
}

/// The images of the uploads as they were sent, and one of the job.
async fn check_images(service: &Service, ledger: &Ledger, jobs: usize) {
    let client = service.client();
    let entries = ledger.all();
    for entry in &entries {
        audit::compare(&client, entry.acknowledged.as_ref().unwrap(), entry).await;
    }
    let images = audit::images(&client).await.len();
    assert_eq!(images, entries.len() + 1, "expected the images that were sent and one of {jobs} jobs");
    audit::check_store(service).await;
    assert_eq!(service.image_names(), [SOURCE, "out.img"], "expected one output, and nothing unfinished");
}

/// Bytes of all staged files.
fn bytes_in_staging(service: &Service) -> u64 {
    let directory = service.data_dir().join("store/staging");
    let sizes = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().map_or(0, |file| file.len()));
    sizes.sum()
}
