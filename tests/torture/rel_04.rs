//! rel_04: the process stops between two steps of a commit, once at each step, on each road.
//!
//! Needs a server that was built with the feature `fail-points`; `cargo xtask torture` makes one.

use std::path::PathBuf;
use std::time::Duration;

use imageops::v1::{UploadCommit, UploadState};
use tokio::task::block_in_place;
use tonic::Code;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback, Target};
use crate::run::Run;
use crate::support::images::skip;
use crate::support::jobs::download;
use crate::support::upload::{Stream, metadata, name_of, upload};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Where the process stops, and what a client must find after the next start.
struct Point {
    name: &'static str,
    /// The image is there, although its client was never told.
    image: bool,
    /// The one road that leads there; `None`: all do.
    road: Option<&'static str>,
}

/// What must be found: nothing before the row, everything after it.
const POINTS: [Point; 9] = [
    Point { name: "composition-begun", image: false, road: Some("EdgeGallery chunks") },
    Point { name: "before-data-flush", image: false, road: None },
    Point { name: "after-data-flush", image: false, road: None },
    Point { name: "before-link", image: false, road: None },
    Point { name: "after-link", image: false, road: None },
    Point { name: "after-directory-flush", image: false, road: None },
    Point { name: "before-row-commit", image: false, road: None },
    Point { name: "after-row-commit", image: true, road: None },
    Point { name: "before-answer", image: true, road: None },
];

#[tokio::test(flavor = "multi_thread")]
async fn rel_04_a_stop_at_each_step_of_a_commit() {
    let Some(server) = server() else { return };
    let mut run = Run::new("rel_04");
    let roads = roads::present(run.service(|_| {}).http());
    // In full each point on each road; else each point on one.
    let roads_of_a_point = run.part_of(roads.len() as u64, 1);
    // At one per cent the first point comes with the one road that leads there.
    let first = roads.iter().position(|road| Some(road.name) == POINTS[0].road).unwrap_or_default() as u64;
    let mut stops = 0;
    for (turn, point) in (first..).zip(&POINTS) {
        for number in 0..roads_of_a_point {
            let road = roads[((turn + number) % roads.len() as u64) as usize];
            if point.road.is_none_or(|only| only == road.name) {
                stop_and_audit(&mut run, &server, point, road).await;
                stops += 1;
            }
        }
    }
    run.finish(&format!(
        "{stops} stops at {} points on {}; each as the table says",
        POINTS.len(),
        roads::counted(&roads)
    ));
}

/// An upload of bytes that are stored already stops right before its row, and goes on with others: what is stored is not
/// what it writes into.
#[tokio::test(flavor = "multi_thread")]
async fn rel_04_stored_bytes_outlive_an_upload_of_the_same() {
    let Some(server) = server() else { return };
    let mut run = Run::new("rel_04");
    let mut service = run.service(|setup| setup.binary = server);
    let content = Content::new(run.random.next(), 3 * MIB);
    let data = content.bytes(0, content.size_bytes);
    let image = upload(&service.client(), &data).await.name;
    service.setup_mut().environment.push(("IMAGEOPS_FAIL_POINT".to_owned(), "before-row-commit".to_owned()));
    block_in_place(|| service.restart());
    let metadata = metadata("the same");
    let stream = Stream::begin(&service.client(), &metadata).await;
    stream.chunks(0, &data).await;
    stream.commit(UploadCommit::default()).await.expect_err("expected no answer");
    block_in_place(|| service.wait());

    service.setup_mut().environment.clear();
    block_in_place(|| service.restart());
    let client = service.client();
    let durable_bytes = client.get_upload(&name_of(&metadata)).await.unwrap().durable_bytes;
    let stream = Stream::resume(&client, &name_of(&metadata), durable_bytes).await;
    stream.chunk(durable_bytes, b"other bytes").await;
    stream.close().await.unwrap();
    assert!(download(&client, &image).await == data, "expected the stored bytes as they were");
    run.finish(
        "an upload of stored bytes stopped before its row and went on with others; the stored ones are whole",
    );
}

/// A server without fail points does not know the variable.
#[tokio::test(flavor = "multi_thread")]
async fn rel_04_other_builds_have_no_fail_points() {
    let mut run = Run::new("rel_04");
    let variable = ("IMAGEOPS_FAIL_POINT".to_owned(), POINTS[0].name.to_owned());
    let service = run.service(|setup| setup.environment.push(variable));
    let ledger = Ledger::default();
    let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), MIB)));
    let roads = roads::present(service.http());
    roads[0].attempt(target(&service), &ledger, index).await.expect("an image");
    run.finish("a build without the feature stops nowhere");
}

async fn stop_and_audit(run: &mut Run, server: &PathBuf, point: &Point, road: &'static Road) {
    let case = format!("{} at {}", road.name, point.name);
    eprintln!("{case}");
    let variable = ("IMAGEOPS_FAIL_POINT".to_owned(), point.name.to_owned());
    let mut service = run.service(|setup| {
        setup.binary.clone_from(server);
        setup.environment.push(variable);
    });
    let ledger = Ledger::default();
    let size_bytes = run.spread(MIB, 3 * MIB);
    let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), size_bytes)));
    let result = road.attempt(target(&service), &ledger, index).await;
    assert!(matches!(result, Err(Setback::Cut(_))), "{case}: expected no answer: {result:?}");
    let status = block_in_place(|| service.wait());
    assert!(!status.success(), "{case}: expected the process to stop: {status}");

    service.setup_mut().environment.clear();
    block_in_place(|| service.restart());
    let client = service.client();
    let images = audit::images(&client).await;
    assert_eq!(images.len(), usize::from(point.image), "{case}: expected images after the start");
    assert_eq!(service.blobs().len(), images.len(), "{case}: expected bytes for each image, and no others");
    let entry = ledger.entry(index, |entry| entry.clone());
    if let Some(image) = images.first() {
        audit::compare(&client, &image.name, &entry).await;
    }
    check_upload(target(&service), &entry, point, &case).await;
    if !road.remembers && point.image {
        // Its client cannot know of the image, and makes another.
        ledger.entry(index, |entry| entry.images_max += 1);
    }
    road.deliver(target(&service), &ledger, index, LIMIT).await;
    audit::check(&service.client(), &ledger).await;
    audit::check_store(&service).await;
    let images = audit::images(&service.client()).await.len();
    assert_eq!(
        images,
        if road.remembers || !point.image { 1 } else { 2 },
        "{case}: expected images in the end"
    );
}

/// An upload that the client has named is open before the row, and committed after it.
async fn check_upload(target: Target, entry: &Entry, point: &Point, case: &str) {
    let expected = if point.image { UploadState::Committed } else { UploadState::Open };
    match target.client().get_upload(&format!("uploads/{}", entry.id)).await {
        Ok(upload) => {
            assert_eq!(upload.state(), expected, "{case}: state of the upload");
            entry.check_offset(upload.durable_bytes);
        }
        // The legacy roads name theirs otherwise.
        Err(error) => {
            assert!(error.code() == Code::NotFound && case.starts_with("EdgeGallery"), "{case}: {error}")
        }
    }
}

/// The server with fail points.
pub fn server() -> Option<PathBuf> {
    let path = std::env::var_os("IMAGEOPS_FAIL_POINT_SERVER").map(PathBuf::from);
    if path.is_none() {
        skip("IMAGEOPS_FAIL_POINT_SERVER is not set; cargo xtask torture builds the server and sets it");
    }
    path
}
