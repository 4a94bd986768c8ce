//! rel_10: no space left, at many places of an upload on each road and of each job, and room again without a restart.

use imageops::v1::{Job, JobState};
use imageops_client::{Client, is_final};

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road};
use crate::run::Run;
use crate::support::Service;
use crate::support::http::get;
use crate::support::jobs::{ended, write_busy_disk};
use crate::support::mount::SmallDisk;
use crate::support::status::eventually;
use crate::support::upload::upload;
use crate::work::{SOURCE, WORKS, Work, outputs};

/// How much room there is, in so many steps.
const SIZES: u64 = 64;
const MIB: u64 = 1 << 20;
const DISK_MIB: u32 = 96;
const UPLOAD_BYTES: u64 = 4 * MIB;
const SOURCE_BYTES: u64 = 8 * MIB;
/// Room in which everything fits: some cases must succeed.
const SPARE_BYTES: u64 = 2 * MIB;
/// What may be missing afterwards.
const LOST_BYTES_MAX: u64 = MIB;

/// What the cases came to.
#[derive(Default)]
struct Figures {
    refused: u64,
    done: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_10_no_space_at_any_moment_of_an_upload() {
    let Some(disk) = SmallDisk::mount(DISK_MIB) else { return };
    let mut run = Run::new("rel_10");
    let sizes = run.part_of(SIZES, 3);
    let service = run.service(|setup| setup.data_dir = disk.path().join("data"));
    let ledger = Ledger::default();
    let roads = roads::present(service.http());
    let mut figures = Figures::default();
    let other = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), MIB)));
    roads[0].attempt(target(&service), &ledger, other).await.unwrap();
    for road in &roads {
        for size in 0..sizes {
            let free_bytes = size * (UPLOAD_BYTES + SPARE_BYTES) / (sizes - 1);
            let entry = Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), UPLOAD_BYTES));
            let index = ledger.begin(entry);
            fill_upload(&service, &disk, road, &ledger, index, free_bytes, &mut figures).await;
        }
    }
    audit::check(&service.client(), &ledger).await;
    audit::check_store(&service).await;
    assert!(figures.refused > 0 && figures.done > 0, "expected refusals and successes");
    let Figures { refused, done } = figures;
    run.finish(&format!(
        "uploads: {sizes} sizes of free space on {}; {refused} refused for it and then taken, {done} taken at once",
        roads::counted(&roads)
    ));
}

/// One upload with so much room.
async fn fill_upload(
    service: &Service,
    disk: &SmallDisk,
    road: &Road,
    ledger: &Ledger,
    index: usize,
    free_bytes: u64,
    figures: &mut Figures,
) {
    let case = format!("{} with {free_bytes} bytes free", road.name);
    let client = service.client();
    let before_bytes = room(service, disk);
    let filler = disk.fill_but("filler", free_bytes);
    match road.attempt(target(service), ledger, index).await {
        Ok(_) => figures.done += 1,
        Err(setback) => {
            assert!(setback.is_no_space(), "{case}: expected NO_SPACE: {setback}");
            figures.refused += 1;
            assert_eq!(get(service.http(), "/healthz").status, 200, "{case}: expected a server that lives");
            audit::check(&client, ledger).await;
            let other = ledger.entry(0, |entry| entry.clone());
            audit::compare(&client, other.acknowledged.as_ref().unwrap(), &other).await;
            std::fs::remove_file(&filler).unwrap();
            let again = road.attempt(target(service), ledger, index).await;
            again.unwrap_or_else(|error| panic!("{case}: expected an image once there is room: {error}"));
        }
    }
    let _ = std::fs::remove_file(filler);
    audit::check(&client, ledger).await;
    let image = ledger.entry(index, |entry| {
        entry.removed = true;
        entry.acknowledged.clone().unwrap()
    });
    client.delete_image(&image, "").await.unwrap();
    client.purge_image(&image, "").await.unwrap();
    expect_room(service, disk, before_bytes, &case).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_10_no_space_at_any_moment_of_a_job() {
    let Some(disk) = SmallDisk::mount(DISK_MIB) else { return };
    let mut run = Run::new("rel_10");
    let sizes = run.part_of(SIZES, 3);
    let service = run.service(|setup| {
        setup.data_dir = disk.path().join("data");
        setup.image_path = disk.path().join("images");
    });
    write_busy_disk(&service.image_path().join(SOURCE), SOURCE_BYTES);
    let disk_bytes = std::fs::read(service.image_path().join(SOURCE)).unwrap();
    let source = upload(&service.client(), &disk_bytes).await.name;
    let mut figures = Figures::default();
    let works: Vec<_> = WORKS.iter().filter(|work| work.makes_outputs()).collect();
    for work in &works {
        for size in 0..sizes {
            let free_bytes = size * (SOURCE_BYTES + SPARE_BYTES) / (sizes - 1);
            fill_job(&service, &disk, work, &source, free_bytes, &mut figures).await;
        }
    }
    assert!(
        std::fs::read(service.image_path().join(SOURCE)).unwrap() == disk_bytes,
        "R-8: expected the source as it was"
    );
    audit::check_store(&service).await;
    assert!(figures.done > 0, "expected successes");
    let Figures { refused, done } = figures;
    run.finish(&format!(
        "jobs: {sizes} sizes of free space in {} kinds; {refused} ended with NO_SPACE, {done} succeeded",
        works.len()
    ));
}

/// One job for which the room goes while it runs.
async fn fill_job(
    service: &Service,
    disk: &SmallDisk,
    work: &Work,
    source: &str,
    free_bytes: u64,
    figures: &mut Figures,
) {
    let case = format!("{} with {free_bytes} bytes free", work.name);
    let client = service.client();
    let before_bytes = room(service, disk);
    let job = work.start(&client, source, "out.img").await.unwrap_or_else(|error| panic!("{case}: {error}"));
    let filler = disk.fill_but("filler", free_bytes);
    // Without room its end cannot be written, and is tried again: then it is over once the bytes are gone.
    eventually(&format!("{case}: the end of the job"), || async {
        let over = client.get_job(&job.name).await.is_ok_and(|job| is_final(job.state()));
        (over || service.output().contains("is not stored")).then_some(())
    })
    .await;
    assert_eq!(get(service.http(), "/healthz").status, 200, "{case}: expected a server that lives");
    std::fs::remove_file(filler).unwrap();
    let job = ended(&client, &job.name).await;
    check_end(service, &job, &case, figures);
    remove_outputs(service, &client, &job).await;
    expect_room(service, disk, before_bytes, &case).await;
}

fn check_end(service: &Service, job: &Job, case: &str, figures: &mut Figures) {
    let made = outputs(job);
    if job.state() == JobState::Succeeded {
        figures.done += 1;
        return;
    }
    figures.refused += 1;
    let reason = job.error.as_ref().map(|error| error.reason.as_str());
    assert_eq!((job.state(), reason), (JobState::Failed, Some("NO_SPACE")), "{case}");
    assert_eq!(made, (None, None), "{case}: expected no output");
    assert_eq!(service.image_names(), [SOURCE], "{case}: expected nothing half-written");
}

async fn remove_outputs(service: &Service, client: &Client, job: &Job) {
    let (file, image) = outputs(job);
    if let Some(file) = file {
        std::fs::remove_file(service.image_path().join(file)).unwrap();
    }
    if let Some(image) = image {
        client.delete_image(&image, "").await.unwrap();
        client.purge_image(&image, "").await.unwrap();
    }
    client.delete_job(&job.name).await.unwrap();
}

/// Free bytes, those that the catalogue's own files have taken counted in: its log keeps its length.
fn room(service: &Service, disk: &SmallDisk) -> u64 {
    let files =
        std::fs::read_dir(service.data_dir()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    disk.free_bytes() + files.filter(|file| file.is_file()).map(|file| file.len()).sum::<u64>()
}

async fn expect_room(service: &Service, disk: &SmallDisk, before_bytes: u64, case: &str) {
    let what = format!("{case}: the {before_bytes} bytes of room that there were");
    eventually(&what, || async { (room(service, disk) + LOST_BYTES_MAX >= before_bytes).then_some(()) })
        .await;
}
