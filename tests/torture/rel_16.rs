//! rel_16: an object store acknowledges bytes and holds others. They are found before anybody is told that there is an
//! image, and are never handed out.

use std::sync::Arc;
use std::time::Duration;

use imageops::v1::{JobState, ReplicaState};

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback};
use crate::run::Run;
use crate::support::fault_proxy::{FaultProxy, Spoiling};
use crate::support::jobs::{download, ended};
use crate::support::s3::Bucket;
use crate::support::status::eventually;
use crate::support::stores::{DEFAULT, copies};
use crate::support::upload::digests;
use crate::support::{Service, wait_for};
use crate::work::{Work, find, outputs};

/// Uploads for each place where bytes are spoiled.
const UPLOADS: u64 = 60;
/// Jobs that write into the object store, as many for each place.
const JOBS: u64 = 20;
const COLD: &str = "cold";
/// In the target of what clients put there: of objects, and of parts of them.
const OBJECT: &str = "/blobs/";
const PART: &str = "partNumber=";
/// A share of the requests: some uploads meet none, and one in several parts meets one of them.
const SOME_PERCENT: u64 = 40;
const MIB: u64 = 1 << 20;
/// Length of what is put in one piece, or in parts, and of what is put in parts alone.
const UPLOAD_BYTES: [u64; 2] = [MIB / 4, 9 * MIB];
const PARTS_BYTES: [u64; 2] = [9 * MIB, 17 * MIB];
/// Between two tries of a client that was refused.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an upload may take once nothing is spoiled.
const LIMIT: Duration = Duration::from_secs(60);

/// Where bytes become others.
struct Place {
    spoiling: Spoiling,
    /// What the target of the requests holds that are meant.
    within: &'static str,
    size_bytes: [u64; 2],
}

/// A server with an object store that lies.
struct Lying {
    bucket: Arc<Bucket>,
    proxy: FaultProxy,
    service: Service,
    ledger: Ledger,
    refused: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_16_other_bytes_than_were_sent_are_never_taken_for_good() {
    let Some(bucket) = Bucket::start() else { return };
    let mut run = Run::new("rel_16");
    let proxy = FaultProxy::start(bucket.address, run.random.next());
    let service = run.service(|setup| Bucket::add_store(setup, COLD, proxy.address, 9));
    let mut lying = Lying { bucket: Arc::new(bucket), proxy, service, ledger: Ledger::default(), refused: 0 };
    let roads = roads::present(lying.service.http());
    let at_rest = Arc::clone(&lying.bucket);
    let places = [
        Place { spoiling: Spoiling::OnTheWay, within: OBJECT, size_bytes: UPLOAD_BYTES },
        // Of parts alone: the tag that proves an object is made of them when it is completed. A server that keeps the tag of
        // what came beside other bytes is found by the scrub.
        Place {
            spoiling: Spoiling::AtRest(Arc::new(move || at_rest.spoil_newest_part())),
            within: PART,
            size_bytes: PARTS_BYTES,
        },
    ];

    let (uploads, jobs) = (run.part_of(UPLOADS, 3), run.part_of(JOBS, 1));
    for (turn, place) in (0..).zip(&places) {
        let [least, most] = place.size_bytes;
        for number in 0..uploads {
            let road = roads[((turn * uploads + number) % roads.len() as u64) as usize];
            let size_bytes = if number == 0 { most } else { run.spread(least, most) };
            let share_percent = if number % 2 == 0 { 100 } else { SOME_PERCENT };
            let content = Content::new(run.random.next(), size_bytes);
            lying.upload(road, content, share_percent, place).await;
        }
        for number in 0..jobs {
            let work =
                find(["copy into another store", "convert of an image"][((turn + number) % 2) as usize]);
            let size_bytes = run.spread(least, most);
            lying.job(work, Content::new(run.random.next(), size_bytes), place).await;
        }
    }
    let (spoiled, refused) = (lying.proxy.spoiled(), lying.refused);
    assert!(refused > 0, "expected refusals of {spoiled} requests that were spoiled");
    lying.take_all_away().await;
    run.finish(&format!(
        "{spoiled} requests spoiled, on the way to an object store and at it: {} uploads over {} and {} jobs, {refused} \
         refused and then taken; none with other bytes",
        2 * uploads,
        roads::counted(&roads),
        2 * jobs
    ));
}

impl Lying {
    /// An upload whose bytes are spoiled: it is refused, or becomes an image of the right bytes. Then it is tried until it
    /// is one, with nothing spoiled.
    async fn upload(&mut self, road: &Road, content: Content, share_percent: u64, place: &Place) {
        let index = self.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content));
        let before = self.proxy.spoiled();
        self.proxy.spoil(share_percent, place.within, place.spoiling.clone());
        let result = road.attempt(target(&self.service), &self.ledger, index).await;
        self.proxy.pass();
        let is_spoiled = self.proxy.spoiled() > before;
        assert!(is_spoiled || share_percent < 100, "{}: expected requests that are spoiled", road.name);
        audit::check(&self.service.client(), &self.ledger).await;
        let Err(setback) = result else { return };
        assert!(
            is_spoiled && is_refused(&setback),
            "{}: expected an image, or other bytes: {setback}",
            road.name
        );
        self.refused += 1;
        let begun = std::time::Instant::now();
        while let Err(setback) = road.attempt(target(&self.service), &self.ledger, index).await {
            assert!(
                is_refused(&setback) && begun.elapsed() < LIMIT,
                "{}: expected an image once nothing is spoiled: {setback}",
                road.name
            );
            tokio::time::sleep(PAUSE).await;
        }
        audit::check(&self.service.client(), &self.ledger).await;
    }

    /// A job whose output is spoiled: it fails and leaves none, or has the right one.
    async fn job(&mut self, work: &Work, content: Content, place: &Place) {
        let client = self.service.client();
        let options = imageops_client::UploadOptions { store: DEFAULT.to_owned(), ..Default::default() };
        let source = client.upload(&mut content.reader(0, &Arc::default()), &options, |_| {}).await;
        let source = source.expect("an image that is taken").image.name;
        self.proxy.spoil(100, place.within, place.spoiling.clone());
        let job = self.start(work, &source).await;
        let spoiled = ended(&client, &job).await;
        self.proxy.pass();
        if spoiled.state() == JobState::Failed {
            let error = spoiled.error.clone().unwrap_or_default();
            assert!(REASONS.contains(&error.reason.as_str()), "{}: {error:?}", work.name);
            assert_eq!(outputs(&spoiled), (None, None), "{}: expected no output", work.name);
            self.refused += 1;
        }
        self.proxy_is_asked_again().await;
        let job = self.start(work, &source).await;
        let job = wait_for(&client, &job, JobState::Succeeded).await;
        if let (_, Some(image)) = outputs(&job) {
            let image = client.get_image(&image).await.expect("an image that was made");
            assert_eq!(image.digests, Some(digests(&download(&client, &image.name).await)), "{}", work.name);
            client.delete_image_for_good(&image.name, "").await.expect("an image that can be removed");
        }
        let stored = client.get_image(&source).await.expect("an image that is known");
        let states = copies(&self.service, &stored).await;
        assert!(states.iter().all(|(_, state)| *state == ReplicaState::Ready), "{}: {states:?}", work.name);
        assert!(digests(&download(&client, &source).await) == content.digests(), "expected its bytes");
        client.delete_image_for_good(&source, "").await.expect("an image that can be removed");
    }

    /// A store that was refused a few times is not asked for a moment.
    async fn proxy_is_asked_again(&self) {
        let client = self.service.client();
        let content = Content::new(1, MIB);
        let options = imageops_client::UploadOptions { store: COLD.to_owned(), ..Default::default() };
        let image = eventually("an object store that is asked again", || async {
            client.upload(&mut content.reader(0, &Arc::default()), &options, |_| {}).await.ok()
        });
        let image = image.await.image.name;
        client.delete_image_for_good(&image, "").await.expect("an image that can be removed");
    }

    async fn start(&self, work: &Work, source: &str) -> String {
        let client = self.service.client();
        let job = match work.name {
            "copy into another store" => client.copy_image(source, COLD).await,
            _ => work.start(&client, source, "").await,
        };
        job.unwrap_or_else(|error| panic!("{}: {error}", work.name)).name
    }

    /// Everything is compared once more and removed; nothing is left in the bucket.
    async fn take_all_away(mut self) {
        let client = self.service.client();
        for index in 0..self.ledger.all().len() {
            self.ledger.entry(index, |entry| entry.compared = false);
        }
        audit::check(&client, &self.ledger).await;
        for image in audit::images(&client).await {
            client.delete_image_for_good(&image.name, "").await.expect("an image that can be removed");
        }
        eventually("an empty bucket", || async { self.bucket.blobs().is_empty().then_some(()) }).await;
        audit::check_store(&self.service).await;
        audit::check_log(&self.service.kill());
    }
}

/// What a client is told of bytes that arrived as others: not the same, or that they could not be sent.
const REASONS: [&str; 2] = ["BYTES_DAMAGED", "STORE_DISCONNECTED"];

fn is_refused(setback: &Setback) -> bool {
    match setback {
        Setback::Refused { reason, .. } if REASONS.contains(&reason.as_str()) => true,
        _ => setback.is_store_away(),
    }
}
