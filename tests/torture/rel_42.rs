//! rel_42: a second signal in the middle of a drain ends the process at once, and what it leaves is what a kill leaves.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use imageops::v1::JobState;
use rustix::process::Signal;
use tokio::task::block_in_place;

use crate::audit;
use crate::rel_01::Clients;
use crate::roads;
use crate::run::{Run, join};
use crate::support::jobs::{slow_compress_file, write_busy_disk};
use crate::support::wait_for;

const STOPS: u64 = 200;
const CLIENTS: u64 = 4;
const MIB: u64 = 1 << 20;
/// Stops until one has struck a drain, in so many times what was to be done.
const PATIENCE: u64 = 20;
/// Between a start and the first signal, and between that and the second: the drain is soon over.
const LIFE_MS_MAX: u64 = 500;
const DRAIN_MS_MAX: u64 = 100;
/// Of the contract.
const END_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_42_a_second_signal_is_no_worse_than_a_kill() {
    let mut run = Run::new("rel_42");
    let stops = run.part_of(STOPS, 6);
    // Nothing but the second signal ends the drain, and no number of those may stop a job.
    let arguments = ["--drain-seconds", "600", "--job-attempts", "100"].map(str::to_owned);
    let mut service = run.service(|setup| setup.arguments = arguments.to_vec());
    write_busy_disk(&service.image_path().join("busy.raw"), 8 * MIB);
    let size_bytes_max = run.part_of(256 * MIB, 16 * MIB);
    // In a drain a client comes again when it is told why it was refused.
    let mut roads = roads::present(service.http());
    roads.retain(|road| road.gives_reasons());
    let (clients, uploading) = Clients::start(&mut run, &service, roads, CLIENTS, size_bytes_max);
    let (mut jobs, mut struck, mut longest) = (Vec::new(), 0, Duration::ZERO);
    let mut stop = 0;
    while stop < stops || (struck == 0 && stop < PATIENCE * stops) {
        let request = slow_compress_file("busy.raw", &format!("out-{stop}.img"));
        jobs.push(service.client().compress(request).await.unwrap().name);
        pause(&mut run, LIFE_MS_MAX).await;
        clients.auditing.store(true, Ordering::Release);
        let both = [Signal::TERM, Signal::INT];
        service.signal(both[run.random.below(2) as usize]);
        pause(&mut run, DRAIN_MS_MAX).await;
        let begun = Instant::now();
        service.signal(both[run.random.below(2) as usize]);
        let status = block_in_place(|| service.wait());
        longest = longest.max(begun.elapsed());
        assert!(longest <= END_MAX, "expected an end within {END_MAX:?}, not {longest:?}");
        // What had nothing to do any more has ended in good order before.
        struck += u64::from(!status.success());
        block_in_place(|| service.restart());
        audit::check(&service.client(), &clients.ledger).await;
        clients.auditing.store(false, Ordering::Release);
        stop += 1;
    }
    clients.stop.store(true, Ordering::Release);
    uploading.into_iter().for_each(join);
    for job in &jobs {
        wait_for(&service.client(), job, JobState::Succeeded).await;
    }
    assert!(struck > 0, "expected second signals in the middle of a drain");
    block_in_place(|| service.restart());
    audit::check(&service.client(), &clients.ledger).await;
    audit::check_store(&service).await;
    assert_eq!(service.image_names().len(), 1 + jobs.len(), "expected the source and one output of each job");
    run.finish(&format!(
        "{stop} times two signals, {struck} times in the middle of a drain; at most {} ms to the end; {} uploads, cut {} times, \
         and {} jobs, all as they should be",
        longest.as_millis(),
        clients.ledger.all().len(),
        clients.cuts.load(Ordering::Acquire),
        jobs.len()
    ));
}

async fn pause(run: &mut Run, most_ms: u64) {
    tokio::time::sleep(Duration::from_millis(run.random.below(most_ms))).await;
}
