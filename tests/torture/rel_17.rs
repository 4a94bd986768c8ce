//! rel_17: file systems that lack what others have. The service works on them, or refuses at the start with one line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imageops::v1::JobState;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::outcome::{Asked, Subject};
use crate::rel_01::target;
use crate::roads::{self, Road};
use crate::run::{Run, beside, join};
use crate::support::Service;
use crate::support::http::get;
use crate::support::jobs::{compress_file, ended, write_busy_disk};
use crate::support::mount::{FileSystem, LoopDisk};
use crate::support::process::Server;
use crate::support::upload::{digests, upload};
use crate::work::{SOURCE, WORKS};

/// What each of them lacks stands beside it.
const FILE_SYSTEMS: [FileSystem; 5] = [
    // Journal, reflink.
    FileSystem { name: "ext2", size_mib: 200, make: &["mkfs.ext2", "-q"], mount: &["mount"] },
    FileSystem {
        name: "xfs",
        size_mib: 400,
        make: &["mkfs.xfs", "-q", "-m", "reflink=0"],
        mount: &["mount"],
    },
    // Bytes in place: what was written is elsewhere each time.
    FileSystem { name: "btrfs", size_mib: 400, make: &["mkfs.btrfs", "-q"], mount: &["mount"] },
    // Nameless files, renames that do not replace, and the difference of `a` and `A`.
    FileSystem {
        name: "ntfs",
        size_mib: 200,
        make: &["mkntfs", "-q", "-f", "-F"],
        mount: &["lowntfs-3g", "-o", "ignore_case"],
    },
    // The same, and holes, links, owners and modes.
    FileSystem { name: "exfat", size_mib: 200, make: &["mkfs.exfat"], mount: &["mount.exfat-fuse"] },
];
const JOURNALED: FileSystem =
    FileSystem { name: "ext4", size_mib: 200, make: &["mkfs.ext4", "-q"], mount: &["mount"] };
const ROUNDS: u64 = 20;
const MIB: u64 = 1 << 20;
/// Longest name of a file, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A server with everything on such a file system; its catalogue too.
fn service_on(run: &mut Run, disk: &LoopDisk) -> Service {
    run.service(|setup| {
        setup.data_dir = disk.path().join("data");
        setup.image_path = disk.path().join("images");
    })
}

fn begin(run: &mut Run, ledger: &Ledger) -> usize {
    let content = Content::new(run.random.next(), run.spread(MIB / 4, 3 * MIB));
    ledger.begin(Entry::new(uuid::Uuid::new_v4(), content))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_17_file_systems_that_lack_something() {
    let mut run = Run::new("rel_17");
    let rounds = run.part_of(ROUNDS, 1);
    let (mut names, mut uploads, mut jobs) = (Vec::new(), 0, 0);
    for kind in &FILE_SYSTEMS {
        let Some(disk) = LoopDisk::mount(kind) else { continue };
        eprintln!("{}", kind.name);
        let mut service = service_on(&mut run, &disk);
        write_busy_disk(&service.image_path().join(SOURCE), 2 * MIB);
        let ledger = Ledger::default();
        for _ in 0..rounds {
            uploads += upload_on_all_roads(&mut run, kind, &service, &ledger).await;
            jobs += work(&mut run, kind, &service).await;
            check_names(kind, &service).await;
            block_in_place(|| service.restart());
            audit::check(&service.client(), &ledger).await;
            audit::check_store(&service).await;
            remove(&service, &ledger, None).await;
        }
        assert_eq!(service.image_names(), [SOURCE], "{}: expected nothing half-written", kind.name);
        names.push(kind.name);
        // Before its file system goes.
        drop(service);
    }
    if names.is_empty() {
        return;
    }
    run.finish(&format!("{uploads} uploads and {jobs} jobs on {}; all as anywhere else", names.join(", ")));
}

async fn upload_on_all_roads(run: &mut Run, kind: &FileSystem, service: &Service, ledger: &Ledger) -> u64 {
    let roads = roads::present(service.http());
    for road in &roads {
        let index = begin(run, ledger);
        let taken = road.attempt(target(service), ledger, index).await;
        taken.unwrap_or_else(|error| panic!("{}: {}: expected an image: {error}", kind.name, road.name));
    }
    audit::check(&service.client(), ledger).await;
    roads.len() as u64
}

/// Jobs whose whole outcome is a file or an image.
async fn work(run: &mut Run, kind: &FileSystem, service: &Service) -> u64 {
    let client = service.client();
    let disk = std::fs::read(service.image_path().join(SOURCE)).unwrap();
    let name = upload(&client, &disk).await.name;
    let subject = Subject { name, digests: digests(&disk), is_own: false };
    let mut count = 0;
    let works: Vec<_> = WORKS.iter().filter(|work| work.makes_outputs()).collect();
    // At a small scale a few of them, others on each file system.
    let wanted = run.part_of(works.len() as u64, 3) as usize;
    let first = run.random.below(works.len() as u64) as usize;
    for work in works.into_iter().cycle().skip(first).take(wanted) {
        let output = "out.img".to_owned();
        let job = work.start(&client, &subject.name, &output).await;
        let name = job.unwrap_or_else(|error| panic!("{}: {}: {error}", kind.name, work.name)).name;
        let job = ended(&client, &name).await;
        assert_eq!(job.state(), JobState::Succeeded, "{}: {}: {job:?}", kind.name, work.name);
        let asked = Asked { name, work, output, subject: subject.clone() };
        asked.check(service, &job).await;
        asked.remove(service, &job).await;
        count += 1;
    }
    client.delete_image_for_good(&subject.name, "").await.expect("an image that can be removed");
    count
}

/// The longest name, and two that differ in their letters' case alone: each job makes what it says.
async fn check_names(kind: &FileSystem, service: &Service) {
    let client = service.client();
    let longest = format!("{}.img", "n".repeat(NAME_BYTES_MAX - ".img".len()));
    for output in [longest.as_str(), "case.img", "CASE.img"] {
        let job = client.compress(compress_file(SOURCE, output)).await;
        let job = match job {
            Ok(job) => ended(&client, &job.name).await,
            Err(error) => {
                // The name is taken where both are one.
                assert!(output == "CASE.img", "{}: {output}: {error}", kind.name);
                continue;
            }
        };
        let is_made = job.state() == JobState::Succeeded;
        assert!(is_made || output == "CASE.img", "{}: {output}: {job:?}", kind.name);
        assert_eq!(is_made, service.image_path().join(output).is_file() && job.error.is_none(), "{job:?}");
    }
    for output in service.image_names().iter().filter(|name| *name != SOURCE) {
        std::fs::remove_file(service.image_path().join(output)).unwrap();
    }
}

/// Takes away what was stored, but for one of them.
async fn remove(service: &Service, ledger: &Ledger, kept: Option<usize>) {
    for (index, entry) in ledger.all().into_iter().enumerate() {
        if let (Some(image), false) = (entry.acknowledged, entry.removed || kept == Some(index)) {
            ledger.entry(index, |entry| entry.removed = true);
            service.client().delete_image_for_good(&image, "").await.expect("an image that can be removed");
        }
    }
}

/// The file system takes no writes any more, as after an error of its disk: what is stored is read, what comes is refused.
/// Mounted read-only it ends a start with one line; once it is repaired all that was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_17_read_only_in_the_middle() {
    let Some(disk) = LoopDisk::mount(&JOURNALED) else { return };
    let mut run = Run::new("rel_17");
    let rounds = run.part_of(ROUNDS, 2);
    let mut service = service_on(&mut run, &disk);
    let ledger = Arc::new(Ledger::default());
    let kept = begin(&mut run, &ledger);
    let roads = roads::present(service.http());
    roads[0].attempt(target(&service), &ledger, kept).await.expect("an image");
    let mut refused = 0;
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let uploading = {
            let (target, ledger, stop, seed) =
                (target(&service), Arc::clone(&ledger), Arc::clone(&stop), run.random.next());
            let road = roads[(round % roads.len() as u64) as usize];
            beside(move || upload_until(target, road, ledger, stop, seed))
        };
        tokio::time::sleep(Duration::from_millis(run.random.below(1_000))).await;
        let aborted =
            std::process::Command::new("mount").args(["-o", "remount,abort"]).arg(disk.path()).output();
        assert!(aborted.is_ok(), "mount runs");
        let index = begin(&mut run, &ledger);
        let taken = roads[0].attempt(target(&service), &ledger, index).await;
        taken.expect_err("expected no image on a file system that takes no writes");
        let entry = ledger.entry(kept, |entry| entry.clone());
        audit::compare(&service.client(), entry.acknowledged.as_deref().expect("an image"), &entry).await;
        assert_eq!(get(service.http(), "/healthz").status, 200, "expected a server that lives");
        stop.store(true, Ordering::Release);
        refused += join(uploading) + 1;
        let output = block_in_place(|| service.kill());
        assert!(!output.contains("panicked"), "expected no panic: {output}");

        disk.mount_again(&["e2fsck", "-p"], &["mount", "-o", "ro"]);
        let words = Server::start(service.setup()).err().expect("a start that is refused");
        let lines: Vec<_> = words.lines().filter(|line| line.starts_with("imageops-server: ")).collect();
        assert!(
            lines.len() == 1 && lines[0].contains("read-only"),
            "expected one line that says why: {words}"
        );
        disk.mount_again(&[], &["mount"]);
        block_in_place(|| service.restart());
        audit::check(&service.client(), &ledger).await;
        let index = begin(&mut run, &ledger);
        roads[0].attempt(target(&service), &ledger, index).await.expect("an image once it takes writes");
        // The file system is small.
        remove(&service, &ledger, Some(kept)).await;
    }
    let sent = ledger.all();
    let acknowledged = sent.iter().filter(|entry| entry.acknowledged.is_some()).count();
    drop(service);
    run.finish(&format!(
        "{rounds} times read-only under load: {acknowledged} of {} uploads acknowledged and there, {refused} refused; a start \
         on it ended with one line",
        sent.len()
    ));
}

/// Uploads one image after another; how many were refused.
async fn upload_until(
    target: crate::roads::Target,
    road: &'static Road,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    seed: u64,
) -> u64 {
    let (mut random, mut refused) = (crate::support::random::Random::from_seed(seed), 0);
    while !stop.load(Ordering::Acquire) {
        let content = Content::new(random.next(), MIB / 4 + random.below(MIB));
        let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
        if road.attempt(target, &ledger, index).await.is_err() {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    refused
}
