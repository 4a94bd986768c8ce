//! rel_27: mixed work for an hour, in periods with a rest between them: what the server has of the machine when it rests does not
//! grow, and at the end nothing is left over.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use imageops::v1::{JobState, ListJobsRequest};

use crate::audit;
use crate::content::Content;
use crate::outcome::{self, Asked, Subject};
use crate::rel_01::{Clients, remove_surplus};
use crate::roads;
use crate::run::{Run, join};
use crate::support::jobs::ended;
use crate::support::status::eventually;
use crate::support::stores::blobs_of;
use crate::support::usage::{open_files, resident_bytes, staged_bytes, threads};
use crate::support::{Service, names_in, wait_for};
use crate::work::{COPIES, DRAINED, SOURCE, WORKS};

const SECONDS: u64 = 3_600;
/// The first quarter warms up; the second is what the last is compared with.
const PERIODS: usize = 8;
const UPLOADERS: u64 = 3;
const MIB: u64 = 1 << 20;
const SOURCE_BYTES: u64 = 4 * MIB;
const UPLOAD_BYTES_MAX: u64 = 8 * MIB;
/// How often lists are read beside the work.
const PAUSE: Duration = Duration::from_millis(50);
/// Of the contract, in per cent; beside it what comes and goes by itself: memory that the allocator keeps, threads of the pool
/// and connections that are about to end.
const GROWTH_PERCENT_MAX: u64 = 1;
const MEMORY_BYTES_MAX: u64 = 24 * MIB;
const THREADS_MAX: u64 = 16;
const FILES_MAX: u64 = 16;
/// What the catalogue keeps of an image that is gone: its id for ever, its upload for a day.
const CATALOGUE_BYTES_PER_IMAGE_MAX: u64 = 8 << 10;

/// What the server has while it rests.
#[derive(Clone, Copy, Debug)]
struct Rest {
    memory_bytes: u64,
    threads: u64,
    files: u64,
    catalogue_bytes: u64,
    /// Images that have come and gone so far.
    images: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_27_an_hour_of_mixed_work_leaves_nothing() {
    let mut run = Run::new("rel_27");
    let seconds = run.part_of(SECONDS, 24);
    let period = Duration::from_secs(seconds) / u32::try_from(PERIODS).unwrap();
    let service = run.service(|setup| {
        outcome::prepare(setup);
        setup.arguments.extend(["--log", "warn"].map(str::to_owned));
    });
    let shared = Subject::shared(&service, SOURCE_BYTES).await;
    let (mut rests, mut images, mut jobs) = (Vec::new(), 0, 0);
    for _ in 0..PERIODS {
        let end = Instant::now() + period;
        let (clients, uploading) =
            Clients::start(&mut run, &service, roads::present(service.http()), UPLOADERS, UPLOAD_BYTES_MAX);
        let work = work_until(&mut run, &service, &shared, end, jobs);
        let (worked, ()) = tokio::join!(work, look_until(&service, &clients, end));
        jobs += worked;
        clients.stop.store(true, Ordering::Release);
        uploading.into_iter().for_each(join);
        compare(&service, &clients).await;
        remove_surplus(clients.clone(), 0).await;
        images += clients.ledger.all().len() as u64;
        check_left(&service).await;
        rests.push(measure(&service, images + jobs));
    }
    assert!(jobs >= WORKS.len() as u64, "expected a job of each kind, not {jobs} in all");
    shared.compare(&service.client()).await;
    let figures = check_growth(&rests);
    run.finish(&format!("{seconds} s: {images} uploads and {jobs} jobs of {} kinds; {figures}", WORKS.len()));
}

/// Jobs of all kinds, one after another; how many.
async fn work_until(run: &mut Run, service: &Service, shared: &Subject, end: Instant, before: u64) -> u64 {
    let client = service.client();
    let mut jobs = 0;
    while Instant::now() < end {
        let work = &WORKS[((before + jobs) % WORKS.len() as u64) as usize];
        let output = "out.img".to_owned();
        let subject = Subject::of(&client, work, shared, Content::new(run.random.next(), SOURCE_BYTES)).await;
        let name = work.start(&client, &subject.name, &output).await.unwrap().name;
        let job = wait_for(&client, &name, JobState::Succeeded).await;
        let asked = Asked { name, work, output, subject };
        asked.check(service, &job).await;
        asked.remove(service, &job).await;
        jobs += 1;
    }
    jobs
}

/// Lists and downloads beside the work, and images that go through the trash.
async fn look_until(service: &Service, clients: &Arc<Clients>, end: Instant) {
    let client = service.client();
    while Instant::now() < end {
        for upload in audit::open_uploads(&client).await {
            // It may have become an image meanwhile.
            let _ = client.get_upload(&upload.name).await;
        }
        client.list_jobs(ListJobsRequest::default()).await.expect("a list of jobs");
        compare(service, clients).await;
        remove_surplus(clients.clone(), 4 * UPLOAD_BYTES_MAX).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Downloads what was acknowledged since.
async fn compare(service: &Service, clients: &Clients) {
    let client = service.client();
    for (index, entry) in clients.ledger.all().iter().enumerate() {
        let Some(image) = entry.acknowledged.as_ref().filter(|_| !entry.compared) else { continue };
        audit::compare(&client, image, entry).await;
        clients.ledger.entry(index, |entry| entry.compared = true);
    }
}

/// Nothing but the shared image and its file.
async fn check_left(service: &Service) {
    let client = service.client();
    let images = audit::images(&client).await;
    assert_eq!(images.len(), 1, "expected the shared image alone: {images:?}");
    assert_eq!(audit::open_uploads(&client).await.len(), 0, "expected no upload that is left over");
    loop {
        let page = client.list_jobs(ListJobsRequest { page_size: 1000, ..Default::default() }).await.unwrap();
        if page.jobs.is_empty() {
            break;
        }
        for job in page.jobs {
            // Some roads begin a check with each image.
            ended(&client, &job.name).await;
            client.delete_job(&job.name).await.unwrap();
        }
    }
    assert_eq!(service.image_names(), [SOURCE], "expected no output that is left over");
    let (copies, drained) = (blobs_of(service, COPIES), blobs_of(service, DRAINED));
    eventually("the bytes of one image alone", || async {
        let blobs = [service.blobs().len(), names_in(&copies).len(), names_in(&drained).len()];
        (blobs == [1, 0, 0]).then_some(())
    })
    .await;
    let staging = [&copies, &drained].map(|blobs| blobs.with_file_name("staging"));
    let default = service.data_dir().join("store/staging");
    eventually("no staged bytes", || async {
        let staged = staged_bytes(service.id(), &[&default, &staging[0], &staging[1]]);
        (staged == 0).then_some(())
    })
    .await;
}

fn measure(service: &Service, images: u64) -> Rest {
    let catalogue = ["catalogue.sqlite", "catalogue.sqlite-wal"].map(|name| {
        let file = fs::metadata(service.data_dir().join(name));
        file.map_or(0, |file| file.len())
    });
    Rest {
        memory_bytes: resident_bytes(service.id()),
        threads: threads(service.id()),
        files: open_files(service.id()),
        catalogue_bytes: catalogue.iter().sum(),
        images,
    }
}

/// The last quarter against the second; the figures.
fn check_growth(rests: &[Rest]) -> String {
    let quarter = rests.len() / 4;
    let (early, late) = (&rests[quarter..2 * quarter], &rests[rests.len() - quarter..]);
    let mut figures = Vec::new();
    let counts = |rest: &Rest| [rest.memory_bytes, rest.threads, rest.files];
    let kinds = [("bytes of memory", MEMORY_BYTES_MAX), ("threads", THREADS_MAX), ("open files", FILES_MAX)];
    for (kind, (what, slack)) in kinds.into_iter().enumerate() {
        let before = early.iter().map(|rest| counts(rest)[kind]).max().unwrap();
        let after = late.iter().map(|rest| counts(rest)[kind]).min().unwrap();
        let most = before + before * GROWTH_PERCENT_MAX / 100 + slack;
        assert!(after <= most, "expected {before} {what} to stay, not {after}: {rests:?}");
        figures.push(format!("{what} at rest {before}, then {after}"));
    }
    let (first, last) = (early[0], late[late.len() - 1]);
    let images = last.images - first.images;
    let bytes = last.catalogue_bytes.saturating_sub(first.catalogue_bytes) / images.max(1);
    assert!(
        bytes <= CATALOGUE_BYTES_PER_IMAGE_MAX,
        "expected at most {CATALOGUE_BYTES_PER_IMAGE_MAX} bytes of the catalogue for each image, not {bytes}: {rests:?}"
    );
    figures.push(format!("{bytes} bytes of the catalogue for each image that came and went"));
    figures.join("; ")
}
