//! rel_24: a large disk that is nearly empty, on every way through the service: it costs the memory and the room of what is
//! in it, not of what it could hold.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use imageops::v1::{CheckRequest, CompressRequest, ConvertRequest, ImageFormat, Job, JobState};
use imageops_client::{Client, Error};
use tokio::task::block_in_place;

use crate::run::{Run, join};
use crate::support::Service;
use crate::support::images::{assert_same_content, have, qemu_img};
use crate::support::jobs::image;
use crate::support::sparse::Sparse;
use crate::support::usage::{allocated_bytes, peak_bytes, staged_bytes};
use crate::work::outputs;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DISK_BYTES: u64 = 100 * GIB;
const DATA_BYTES: u64 = GIB;
/// So large a part of the disk is sent as it is. Users send such a disk as QCOW2: the rest of the way is the same.
const SENT_RAW: u64 = 8;
/// Zeros are left out in blocks of this size, as in the clusters of QCOW2: pieces of data that are smaller, or cross the
/// border of two, take more room than they have bytes.
const BLOCK_BYTES: u64 = 64 << 10;
/// Longest piece of data.
const PIECE_BYTES_MAX: u64 = 4 * MIB;
/// Of the contract.
const PEAK_BYTES_MAX: u64 = 256 * MIB;
/// Of the contract, in per cent of what the disk takes.
const STAGED_PERCENT_MAX: u64 = 120;
/// Bytes that a job on the whole disk reads, zeros too, in a second: less than any machine does.
const BYTES_PER_SECOND_MIN: u64 = 10 * MIB;
/// Between two looks at what is staged.
const PAUSE: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_24_a_sparse_disk_costs_what_is_in_it() {
    if !have("qemu-img") {
        return;
    }
    let mut run = Run::new("rel_24");
    // Those of the reference machine: memory grows with threads.
    let service = run.service(|setup| {
        setup.arguments = ["--workers", "2", "--job-threads", "2"].map(str::to_owned).to_vec();
    });
    let (disk_bytes, data_bytes) = (run.part_of(DISK_BYTES, GIB), run.part_of(DATA_BYTES, 8 * MIB));
    let whole = write_sparse_disk(&mut run, &service.scratch().join("whole.raw"), disk_bytes, data_bytes);
    let packed = whole.with_extension("qcow2");
    let converted = qemu_img([Path::new("convert"), "-Oqcow2".as_ref(), &whole, &packed]);
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    // Zeros too go over the wire.
    let part = service.scratch().join("part.raw");
    let part = write_sparse_disk(&mut run, &part, disk_bytes / SENT_RAW, data_bytes);

    let mut figures = Vec::new();
    for (content, disk, other) in [(&whole, &packed, ImageFormat::Raw), (&part, &part, ImageFormat::Qcow2)] {
        let room = Room::watch(&service);
        go_through(&service, content, disk, disk_bytes, other).await;
        let (staged, taken) = (room.end(), allocated_bytes(&fs::metadata(disk).unwrap()));
        let format = disk.extension().unwrap().display();
        assert!(staged > 0, "{format}: expected staged bytes");
        assert!(
            staged * 100 <= taken * STAGED_PERCENT_MAX,
            "{format}: expected at most {STAGED_PERCENT_MAX} % of {taken} bytes in staging, not {staged}"
        );
        let mib = fs::metadata(content).unwrap().len() / MIB;
        figures.push(format!(
            "{mib} MiB as {format}, of which {} MiB are stored: at most {} MiB staged",
            taken / MIB,
            staged / MIB
        ));
    }
    let peak = peak_bytes(service.id());
    assert!(peak <= PEAK_BYTES_MAX, "expected at most {PEAK_BYTES_MAX} bytes of memory, not {peak}");
    run.finish(&format!(
        "uploaded, checked, compressed, converted and downloaded: {}; peak {} MiB",
        figures.join(", "),
        peak / MIB
    ));
}

/// Pieces of noise at random places, and holes.
fn write_sparse_disk(run: &mut Run, path: &Path, disk_bytes: u64, data_bytes: u64) -> PathBuf {
    let file = File::create(path).unwrap();
    file.set_len(disk_bytes).unwrap();
    let mut written = 0;
    while written < data_bytes {
        let length = run.spread(BLOCK_BYTES, PIECE_BYTES_MAX) / BLOCK_BYTES * BLOCK_BYTES;
        let blocks = (disk_bytes - length) / BLOCK_BYTES;
        let bytes = run.random.bytes(usize::try_from(length).unwrap());
        file.write_all_at(&bytes, run.random.below(blocks) * BLOCK_BYTES).unwrap();
        written += length;
    }
    // Only what is on the disk has blocks.
    file.sync_all().unwrap();
    path.to_owned()
}

/// Every way through the service; what comes out must be `content`.
async fn go_through(service: &Service, content: &Path, disk: &Path, disk_bytes: u64, other: ImageFormat) {
    let client = service.client();
    let mut reader = tokio::fs::File::open(disk).await.unwrap();
    let uploaded = client.upload(&mut reader, &Default::default(), |_| {}).await;
    let name = uploaded.expect("an image that is taken").image.name;
    let limit = Duration::from_secs(60 + disk_bytes / BYTES_PER_SECOND_MIN);
    let source = image(&name);
    let check = |source| client.check(CheckRequest { source, ..Default::default() });
    succeed(&client, limit, check(source.clone())).await;
    let request = CompressRequest { source: source.clone(), ..Default::default() };
    let compressed = succeed(&client, limit, client.compress(request)).await;
    let request = ConvertRequest { source, format: other.into(), ..Default::default() };
    let converted = succeed(&client, limit, client.convert(request)).await;
    succeed(&client, limit, check(image(&outputs(&converted).1.expect("an image")))).await;
    let made = [compressed, converted].map(|job| outputs(&job).1.expect("an image"));
    for name in made.iter().chain([&name]) {
        let target = service.scratch().join("downloaded");
        let mut file = Sparse(File::create(&target).unwrap());
        client.download_to(name, ImageFormat::Unspecified, 0, &mut file, |_| {}).await.unwrap();
        block_in_place(|| assert_same_content(content, &target));
        client.delete_image_for_good(name, "").await.unwrap();
    }
}

async fn succeed(client: &Client, limit: Duration, asked: impl Future<Output = Result<Job, Error>>) -> Job {
    let job = asked.await.expect("a job");
    let job = client.wait_job(&job.name, Some(limit)).await.expect("a job that is known");
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    job
}

/// A look at what is staged, again and again.
struct Room {
    over: Arc<AtomicBool>,
    watching: JoinHandle<u64>,
}

impl Room {
    fn watch(service: &Service) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (process, staging, told) =
            (service.id(), service.data_dir().join("store/staging"), Arc::clone(&over));
        let watching = thread::spawn(move || {
            let mut most = 0;
            while !told.load(Ordering::Acquire) {
                most = most.max(staged_bytes(process, &[&staging]));
                thread::sleep(PAUSE);
            }
            most
        });
        Self { over, watching }
    }

    /// The most that was staged at once.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Release);
        join(self.watching)
    }
}
