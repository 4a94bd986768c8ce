//! rel_14: one bit of a stored object is another one. The scrub finds each of them, no verified read takes one for good, and
//! each is counted for the alerts.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{ImageState, JobState, ReplicaState, ScrubResult};
use imageops_client::{Client, UploadOptions};
use tonic::Code;

use crate::content::Content;
use crate::outcome::Subject;
use crate::run::Run;
use crate::support::http::get;
use crate::support::jobs::{ended, failed};
use crate::support::s3::Bucket;
use crate::support::stores::{add_store, blobs_of, copies, scrub};
use crate::support::{Service, wait_for};
use crate::work::{COPIES, Work, find, outputs};

/// Objects for the scrub. Half as many more are for readers, a quarter as many more stay as they are.
const OBJECTS: u64 = 100;
const COLD: &str = "cold";
const WARM: &str = "warm";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What becomes of the object of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is damaged, and the scrub comes first.
    Scrubbed,
    /// The same, and another store has a sound copy.
    ScrubbedWithCopy,
    /// It is damaged, and somebody reads it before the scrub.
    Read,
    Sound,
}

/// An image and where its object lies.
struct Stored {
    subject: Subject,
    store: &'static str,
    fate: Fate,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_14_each_flipped_bit_is_found() {
    let bucket = Bucket::start();
    let mut run = Run::new("rel_14");
    let service = run.service(|setup| {
        add_store(setup, WARM, 3);
        add_store(setup, COPIES, -5);
        if let Some(bucket) = &bucket {
            Bucket::add_store(setup, COLD, bucket.address, 2);
        }
    });
    let stores: Vec<_> = if bucket.is_some() { vec![WARM, COLD] } else { vec![WARM] };
    let client = service.client();
    let stored = store_all(&mut run, &client, &stores).await;
    for one in stored.iter().filter(|one| one.fate != Fate::Sound) {
        let blob = one.subject.name.trim_start_matches("images/");
        match &bucket {
            Some(bucket) if one.store == COLD => flip(&mut run, &bucket.blob(blob)),
            _ => flip(&mut run, &blobs_of(&service, one.store).join(blob)),
        }
    }

    let read = read_damaged(&client, &stored).await;
    let mut found = BTreeSet::new();
    for store in &stores {
        found.extend(check_scrub(&service, store, &stored).await);
    }
    let damaged = stored.iter().filter(|one| one.fate != Fate::Sound).count();
    assert_eq!(found.len() + read, damaged, "expected each damaged object to be found once");
    for one in &stored {
        check_image(&service, one).await;
    }
    let lost = stored.iter().filter(|one| matches!(one.fate, Fate::Scrubbed | Fate::Read)).count();
    let metrics = String::from_utf8(get(service.http(), "/metrics").body).expect("text");
    for (name, count) in [("imageops_scrub_mismatch_total", damaged), ("imageops_lost_total", lost)] {
        let line = format!("{name} {count}");
        assert!(metrics.lines().any(|found| found == line), "expected {line:?} for the alerts");
    }
    run.finish(&format!(
        "{} objects in {} stores with one bit flipped: {} found by the scrub, {read} by a conversion or a copy; none taken for \
         good; {damaged} counted, {lost} of them without another copy; {} sound ones left alone",
        damaged,
        stores.len(),
        found.len(),
        stored.len() - damaged
    ));
}

/// Uploads all images, and copies those that get a second copy.
async fn store_all(run: &mut Run, client: &Client, stores: &[&'static str]) -> Vec<Stored> {
    let objects = run.part_of(OBJECTS, 12);
    let mut fates = Vec::new();
    for object in 0..objects {
        fates.push(if object % 3 == 2 { Fate::ScrubbedWithCopy } else { Fate::Scrubbed });
    }
    fates.extend((0..objects.div_ceil(2)).map(|_| Fate::Read));
    fates.extend((0..objects.div_ceil(4)).map(|_| Fate::Sound));
    let mut stored = Vec::new();
    for (number, fate) in fates.into_iter().enumerate() {
        // Odd lengths too; those of a bucket are put whole, or in parts.
        let size_bytes = run.spread(64 * KIB, 2 * MIB);
        let content = Content::new(run.random.next(), size_bytes);
        let store = stores[number % stores.len()];
        let options = UploadOptions { store: store.to_owned(), ..UploadOptions::default() };
        let uploaded = client.upload(&mut content.reader(0, &Arc::default()), &options, |_| {}).await;
        let name = uploaded.expect("an image that is taken").image.name;
        let subject = Subject { name, digests: content.digests(), is_own: false };
        if fate == Fate::ScrubbedWithCopy {
            let job = find("copy into another store").start(client, &subject.name, "").await;
            wait_for(client, &job.expect("a copy that can be made").name, JobState::Succeeded).await;
        }
        stored.push(Stored { subject, store, fate });
    }
    stored
}

/// Makes one bit of a file another one: any of them, those of holes too.
fn flip(run: &mut Run, path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a stored object");
    let file = File::options().read(true).write(true).open(path).expect("a stored object");
    let at = run.random.below(file.metadata().expect("a file").len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte of the object");
    file.write_all_at(&[byte[0] ^ (1 << run.random.below(8))], at).expect("a byte that can be written");
}

/// Reads that verify find the damage, and make nothing of it. How many there were.
async fn read_damaged(client: &Client, stored: &[Stored]) -> usize {
    let mut jobs = Vec::new();
    for (number, one) in stored.iter().filter(|one| one.fate == Fate::Read).enumerate() {
        let work: &Work = find(["convert of an image", "copy into another store"][number % 2]);
        let job =
            work.start(client, &one.subject.name, "").await.expect("a job on an image that looks sound");
        jobs.push((work, job));
    }
    for (work, job) in &jobs {
        assert_eq!(failed(client, &job.name).await, "BYTES_DAMAGED", "{}", work.name);
        let job = ended(client, &job.name).await;
        assert_eq!(outputs(&job), (None, None), "{}: expected no output", work.name);
    }
    jobs.len()
}

/// A scrub finds all that nobody has read, and takes nothing that is sound; a second one finds no more. What it found.
async fn check_scrub(service: &Service, store: &str, stored: &[Stored]) -> BTreeSet<String> {
    let wanted = |fates: &[Fate]| -> BTreeSet<String> {
        let here = stored.iter().filter(|one| one.store == store && fates.contains(&one.fate));
        here.map(|one| one.subject.name.clone()).collect()
    };
    let sound = wanted(&[Fate::Sound]).len() as u64;
    let found = scrubbed(service, store).await;
    let damaged = BTreeSet::from_iter(found.damaged_images);
    assert_eq!(damaged, wanted(&[Fate::Scrubbed, Fate::ScrubbedWithCopy]), "{store}: what the scrub found");
    assert_eq!(found.verified_blobs, sound, "{store}: what is sound");
    let again = scrubbed(service, store).await;
    assert_eq!((again.verified_blobs, again.damaged_images), (sound, Vec::new()), "{store}: a second scrub");
    damaged
}

async fn scrubbed(service: &Service, store: &str) -> ScrubResult {
    let job = scrub(service, store).await;
    match wait_for(&service.client(), &job.name, JobState::Succeeded).await.result {
        Some(JobResult::Scrub(result)) => result,
        other => panic!("expected the result of a scrub: {other:?}"),
    }
}

/// What is known of the image afterwards, and what a reader gets.
async fn check_image(service: &Service, one: &Stored) {
    let client = service.client();
    let image = client.get_image(&one.subject.name).await.expect("an image that is known");
    let states = copies(service, &image).await;
    let here = states.iter().find(|(store, _)| store == one.store).map(|(_, state)| *state);
    let expected = if one.fate == Fate::Sound { ReplicaState::Ready } else { ReplicaState::Damaged };
    assert_eq!(here, Some(expected), "{:?}: {states:?}", one.fate);
    if matches!(one.fate, Fate::Sound | Fate::ScrubbedWithCopy) {
        assert_eq!(image.state(), ImageState::Active, "{:?}", one.fate);
        return one.subject.compare(&client).await;
    }
    assert_eq!(image.state(), ImageState::Quarantined, "{:?}", one.fate);
    assert_eq!(image.quarantine.expect("why").code, "BYTES_DAMAGED");
    for work in ["convert of an image", "copy into another store"].map(find) {
        let refused = work.start(&client, &image.name, "").await.expect_err("no bytes to read");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{}: {refused}", work.name);
    }
    let read = client.download(&image.name, 0, &mut tokio::io::sink(), |_| {}).await;
    assert!(read.is_err_and(|error| error.code() == Code::FailedPrecondition), "expected no bytes");
}
