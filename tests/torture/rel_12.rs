//! rel_12: a flush fails, and the next one succeeds. Bytes whose flush has failed are never acknowledged.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use imageops::v1::{UploadCommit, UploadMetadata};
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::rel_04::server;
use crate::roads::{self, Road, Setback};
use crate::run::Run;
use crate::strace::Injection;
use crate::support::Service;
use crate::support::upload::{Stream, metadata};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// What of the server's is flushed in vain, below its data directory.
const FLUSHED: [&str; 4] = ["store/staging/{upload}", "store/staging", "store/blobs", "catalogue.sqlite-wal"];

#[tokio::test(flavor = "multi_thread")]
async fn rel_12_bytes_whose_flush_failed_are_not_acknowledged() {
    let mut run = Run::new("rel_12");
    let mut service = run.service(|_| {});
    let ledger = Ledger::default();
    let roads: Vec<_> = roads::present(service.http());
    let roads_of_a_file = run.part_of(roads.len() as u64, 1);
    let first = run.random.below(roads.len() as u64);
    let (mut failed, mut resumed) = (0, 0);
    for (turn, flushed) in (first..).zip(FLUSHED) {
        for number in 0..roads_of_a_file {
            let road = roads[((turn + number) % roads.len() as u64) as usize];
            let is_in_chunks = road.name == "EdgeGallery chunks";
            if (!road.remembers || is_in_chunks) && flushed.contains("{upload}") {
                // Nobody knows the name of its staged file, or of those of its chunks.
                continue;
            }
            let content = Content::new(run.random.next(), run.spread(MIB, 3 * MIB));
            let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
            let Some(count) = fail_once(&service, road, flushed, &ledger, index).await else { return };
            failed += count;
            // What a crash right after the failure leaves is no image either.
            block_in_place(|| service.restart());
            audit::check(&service.client(), &ledger).await;
            resumed += u64::from(go_on(&service, road, &ledger, index, &mut run).await);
        }
    }
    audit::check(&service.client(), &ledger).await;
    audit::check_store(&service).await;
    run.finish(&format!(
        "{failed} flushes failed of {} files on {}; none acknowledged; {resumed} uploads went on, the others were refused",
        FLUSHED.len(),
        roads::counted(&roads)
    ));
}

/// An upload during which flushes of one file fail; how many did. `None` when that cannot be done here.
async fn fail_once(
    service: &Service,
    road: &Road,
    flushed: &str,
    ledger: &Ledger,
    index: usize,
) -> Option<usize> {
    let id = ledger.entry(index, |entry| entry.id.to_string());
    let path = service.data_dir().join(flushed.replace("{upload}", &id));
    let case = format!("{} with a failed flush of {flushed}", road.name);
    let failing = Injection::into_flushes(service.id(), &path, &log(service))?;
    let result = road.attempt(target(service), ledger, index).await;
    let count = failing.end();
    assert!(count > 0, "{case}: expected a flush of it: {result:?}");
    assert!(result.is_err(), "{case}: expected no acknowledgement: {result:?}");
    audit::check(&service.client(), ledger).await;
    let images = audit::images(&service.client()).await;
    let digests = ledger.entry(index, |entry| entry.digests.clone());
    let made = images.iter().find(|image| image.digests.as_ref() == Some(&digests));
    assert!(made.is_none(), "{case}: expected no image: {made:?}");
    Some(count)
}

/// The same upload again: it becomes an image, or is refused for good and another one does. Whether it went on.
async fn go_on(service: &Service, road: &Road, ledger: &Ledger, index: usize, run: &mut Run) -> bool {
    match road.attempt(target(service), ledger, index).await {
        Ok(_) => true,
        Err(Setback::Cut(why)) => panic!("{}: expected an answer once flushes succeed: {why}", road.name),
        Err(Setback::Refused { .. }) => {
            let content = Content::new(run.random.next(), MIB);
            let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
            road.deliver(target(service), ledger, index, LIMIT).await;
            false
        }
    }
}

/// The flush that would have made the row durable fails, and the process dies right behind that. The next start may find
/// the row in the catalogue's log all the same: then its bytes are there too.
#[tokio::test(flavor = "multi_thread")]
async fn rel_12_a_row_whose_flush_failed_has_its_bytes() {
    let Some(server) = server() else { return };
    let mut run = Run::new("rel_12");
    let variable = ("IMAGEOPS_FAIL_POINT".to_owned(), "after-failed-row-commit".to_owned());
    let mut service = run.service(|setup| {
        setup.binary = server;
        setup.environment.push(variable);
    });
    let entry = Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), 2 * MIB));
    let metadata = UploadMetadata { request_id: entry.id.to_string(), ..metadata("row") };
    let client = service.client();
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunks(0, &entry.content.bytes(0, entry.content.size_bytes)).await;
    stream.close().await.unwrap();
    let wal = service.data_dir().join("catalogue.sqlite-wal");
    let Some(failing) = Injection::into_flushes(service.id(), &wal, &log(&service)) else { return };
    let stream = Stream::resume(&client, &format!("uploads/{}", entry.id), entry.content.size_bytes).await;
    let answer = stream.commit(UploadCommit::default()).await;
    assert!(answer.is_err(), "expected no acknowledgement: {answer:?}");
    let status = block_in_place(|| service.wait());
    assert!(!status.success(), "expected the process to stop: {status}");
    assert!(failing.end() > 0, "expected a flush of the catalogue's log");

    service.setup_mut().environment.clear();
    block_in_place(|| service.restart());
    let images = audit::images(&service.client()).await;
    for image in &images {
        audit::compare(&service.client(), &image.name, &entry).await;
    }
    entry.sent_bytes.store(entry.content.size_bytes, Ordering::Release);
    let ledger = Ledger::default();
    let index = ledger.begin(entry);
    roads::present(service.http())[0].deliver(target(&service), &ledger, index, LIMIT).await;
    audit::check(&service.client(), &ledger).await;
    audit::check_store(&service).await;
    let found = if images.is_empty() { "none" } else { "the row, with its bytes" };
    run.finish(&format!("the flush of a row failed and the process died; after the start: {found}"));
}

fn log(service: &Service) -> PathBuf {
    service.scratch().join("strace.log")
}
