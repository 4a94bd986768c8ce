//! rel_25: a catalogue of a million images and a hundred thousand jobs: a page costs the same wherever it lies, nothing is
//! missed or told twice, and a start takes no longer than five seconds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use imageops::v1::{
    CheckRequest, CompressRequest, ImageOrder, JobKind, JobState, ListImagesRequest, ListJobsRequest,
    UploadMetadata,
};
use imageops_client::Client;
use tokio::task::block_in_place;

use crate::run::Run;
use crate::support::Service;
use crate::support::images::have;
use crate::support::jobs::{compress_file, ended, failed, image};
use crate::support::many::multiply;
use crate::support::upload::{metadata, try_upload};
use crate::support::usage::p99;
use crate::work::outputs;

const IMAGES: u64 = 1_000_000;
const JOBS: u64 = 100_000;
/// Images that the server makes, of which all others are copies.
const MADE: u64 = 16;
/// Of the contract: from the start to both ports.
const START_MAX: Duration = Duration::from_secs(5);
/// Images of a page that is looked at.
const PAGE: u32 = 100;
/// Images of the pages between those.
const STEP: u32 = 1_000;
/// A page takes no longer than this, nor this many times as long as the first ones: the contract's 100 ms are told, since
/// other work on the machine counts for them too.
const PAGE_MAX: Duration = Duration::from_secs(2);
const DEEPER_MAX: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_25_a_page_costs_the_same_wherever_it_lies() {
    if !have("python3") {
        return;
    }
    let mut run = Run::new("rel_25");
    // What is copied has been verified: no scrub begins by itself.
    let mut service = run.service(|_| {});
    make_rows(&mut run, &service).await;
    service.terminate();
    assert!(block_in_place(|| service.wait()).success(), "expected a stop in good order");
    let (images, jobs) = multiply(&service, run.part_of(IMAGES, 10_000), run.part_of(JOBS, 1_000));
    let begun = Instant::now();
    block_in_place(|| service.restart());
    let started = begun.elapsed();
    assert!(started <= START_MAX, "expected a start within {START_MAX:?}, not {started:?}");

    let client = service.client();
    let mut waits = Vec::new();
    for order in ORDERS {
        let request = ListImagesRequest { order: order.into(), ..Default::default() };
        let (seen, mut times) = walk_images(&client, request).await;
        assert_eq!(seen, images, "{order:?}: expected each image once");
        check_depth(&format!("{order:?}"), &mut times);
        waits.extend(times);
    }
    for (what, share, request) in filters() {
        let (seen, mut times) = walk_images(&client, request).await;
        assert!(
            seen.abs_diff(images / share) <= MADE,
            "{what}: expected a {share}th of {images}, not {seen}"
        );
        check_depth(what, &mut times);
        waits.extend(times);
    }
    let (pages, page) = (waits.len(), p99(&mut waits));
    let mut waits = walk_jobs(&client, jobs).await;
    let (job_pages, job_page) = (waits.len(), p99(&mut waits));
    run.finish(&format!(
        "{images} images and {jobs} jobs: start in {:.1} s; {pages} pages of {PAGE} images in {} orders and {} filters, 99 % \
         within {} ms; {job_pages} of jobs, within {} ms; each row once",
        started.as_secs_f64(),
        ORDERS.len(),
        filters().len(),
        page.as_millis(),
        job_page.as_millis()
    ));
}

const ORDERS: [ImageOrder; 6] = [
    ImageOrder::Newest,
    ImageOrder::Oldest,
    ImageOrder::DisplayName,
    ImageOrder::DisplayNameDesc,
    ImageOrder::Largest,
    ImageOrder::Smallest,
];

/// Filters, and which part of all images each lets through.
fn filters() -> [(&'static str, u64, ListImagesRequest); 3] {
    let labels = [("team".to_owned(), "0".to_owned())].into();
    [
        ("a label", 4, ListImagesRequest { labels, ..Default::default() }),
        ("a tag", 2, ListImagesRequest { tags: vec!["even".to_owned()], ..Default::default() }),
        ("not hidden", 1, ListImagesRequest { hidden: Some(false), ..Default::default() }),
    ]
}

/// Images with all that is said of images, and jobs that ended well and badly.
async fn make_rows(run: &mut Run, service: &Service) {
    let client = service.client();
    std::fs::write(service.image_path().join("bad.img"), b"QFI\xfb\0\0\0\x03 and nothing more").unwrap();
    for number in 0..MADE {
        let metadata = UploadMetadata {
            description: "one of many".to_owned(),
            labels: [("team".to_owned(), (number % 4).to_string())].into(),
            properties: [("number".to_owned(), number.to_string())].into(),
            tags: vec![if number % 2 == 0 { "even" } else { "odd" }.to_owned()],
            ..metadata(&format!("image-{number}"))
        };
        let size_bytes = run.spread(4 << 10, 256 << 10);
        let bytes = run.random.bytes(usize::try_from(size_bytes).unwrap());
        let made = try_upload(&client, &metadata, &bytes).await.unwrap();
        let check = CheckRequest { source: image(&made.name), ..Default::default() };
        let check = client.check(check).await.unwrap();
        ended(&client, &check.name).await;
    }
    let bad = client.compress(compress_file("bad.img", "out.img")).await.unwrap();
    failed(&client, &bad.name).await;
    let source = client.list_images(ListImagesRequest::default()).await.unwrap().images[0].name.clone();
    let compress = CompressRequest { source: image(&source), ..Default::default() };
    let compress = client.compress(compress).await.unwrap();
    let job = ended(&client, &compress.name).await;
    if let Some(made) = outputs(&job).1 {
        // Its bytes are others than those that are copied.
        client.delete_image_for_good(&made, "").await.unwrap();
    }
}

/// Goes through a list from its start to its end, in large steps with a page of the usual size before each. How many images
/// there were, each once, and how long the pages took.
async fn walk_images(client: &Client, mut request: ListImagesRequest) -> (u64, Vec<Duration>) {
    let (mut seen, mut times) = (BTreeSet::new(), Vec::new());
    loop {
        request.page_size = PAGE;
        let asked = Instant::now();
        let page = client.list_images(request.clone()).await.unwrap();
        times.push(asked.elapsed());
        request.page_size = STEP;
        let step = client.list_images(request.clone()).await.unwrap();
        let is_start = page.images.iter().zip(&step.images).all(|(one, other)| one.name == other.name);
        assert!(is_start, "expected a page to be the start of a longer one");
        for image in step.images {
            assert!(seen.insert(image.name.clone()), "expected {} once", image.name);
        }
        if step.next_page_token.is_empty() {
            return (seen.len() as u64, times);
        }
        request.page_token = step.next_page_token;
    }
}

/// The same for jobs, with and without filters.
async fn walk_jobs(client: &Client, jobs: u64) -> Vec<Duration> {
    let (mut by_filter, mut times) = (Vec::new(), Vec::new());
    let all = ListJobsRequest::default();
    let failed = ListJobsRequest { states: vec![JobState::Failed.into()], ..all.clone() };
    let compressions = ListJobsRequest { kinds: vec![JobKind::Compress.into()], ..all.clone() };
    for mut request in [all, failed, compressions] {
        request.page_size = PAGE;
        let (mut seen, mut of_filter) = (BTreeSet::new(), Vec::new());
        loop {
            let asked = Instant::now();
            let page = client.list_jobs(request.clone()).await.unwrap();
            of_filter.push(asked.elapsed());
            for job in page.jobs {
                assert!(seen.insert(job.name.clone()), "expected {} once", job.name);
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        check_depth("jobs", &mut of_filter);
        times.extend(of_filter);
        by_filter.push(seen.len() as u64);
    }
    assert_eq!(by_filter[0], jobs, "expected each job once");
    assert!(by_filter[1..].iter().all(|count| *count > 0), "expected jobs that failed, and compressions");
    times
}

/// The last pages take no longer than the first ones, whatever else the machine does meanwhile.
fn check_depth(what: &str, times: &mut [Duration]) {
    let tenth = times.len().div_ceil(10);
    let median = |times: &mut [Duration]| {
        times.sort();
        times[times.len() / 2]
    };
    let first = median(&mut times[..tenth].to_vec());
    let last = median(&mut times[times.len() - tenth..].to_vec());
    let most = (first * DEEPER_MAX).max(PAGE_MAX / 20);
    assert!(last <= most, "{what}: expected pages at the end to take {first:?} too, not {last:?}");
    let slow = p99(times);
    assert!(slow <= PAGE_MAX, "{what}: expected 99 of 100 pages within {PAGE_MAX:?}, not {slow:?}");
}
