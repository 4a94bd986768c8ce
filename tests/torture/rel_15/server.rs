//! A server whose store is an object store that fails: nothing acknowledged is lost, refusals are clear and quick, other
//! stores serve, and when it is over everything goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use imageops::v1::job::Result as JobResult;
use imageops::v1::{Digests, Job, JobState, ReplicaState};
use imageops_client::UploadOptions;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback};
use crate::run::Run;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::http::get;
use crate::support::jobs::ended;
use crate::support::s3::Bucket;
use crate::support::status::eventually;
use crate::support::stores::{DEFAULT, copies};
use crate::support::{DEADLINE, Service};
use crate::work::{WORKS, Work, outputs};

const COLD: &str = "cold";
const MIB: u64 = 1 << 20;
/// Some are put in one piece, some in parts.
const UPLOAD_BYTES: [u64; 2] = [MIB / 2, 20 * MIB];
/// Shares of the requests that are struck, the rounds at each, and how many of them there are at least.
const SHARES: [(u64, u64, u64); 2] = [(10, 300, 6), (50, 60, 3)];
/// Of all operations at 10 %, one in so many may be refused: failures do come in a row.
const REFUSED_AT_10_PERCENT: u64 = 50;
/// Nothing gets through.
const OUTAGE: [Fault; 3] = [Fault::InternalError, Fault::Unavailable, Fault::Reset];
const OUTAGE_MS: u64 = 60_000;
const REFUSED_MAX: Duration = Duration::from_secs(2);
const RECOVERED_MAX: Duration = Duration::from_secs(10);
/// Between two tries of a client that was refused.
const PAUSE: Duration = Duration::from_millis(50);

/// A server, and an object store that it reaches through a proxy.
struct Faulty {
    bucket: Bucket,
    proxy: FaultProxy,
    service: Service,
    ledger: Ledger,
    roads: Vec<&'static Road>,
}

/// What operations came to.
#[derive(Default)]
struct Figures {
    done: u64,
    refused: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_15_a_faulty_object_store_loses_nothing() {
    let Some(bucket) = Bucket::start() else { return };
    let mut run = Run::new("rel_15");
    let proxy = FaultProxy::start(bucket.address, run.random.next());
    let service = run.service(|setup| Bucket::add_store(setup, COLD, proxy.address, 9));
    let roads = roads::present(service.http());
    let mut faulty = Faulty { bucket, proxy, service, ledger: Ledger::default(), roads };
    let (there, doomed) = (faulty.upload(&mut run).await, faulty.upload(&mut run).await);

    let mut told = Vec::new();
    for (share_percent, rounds, least) in SHARES {
        let mut figures = Figures::default();
        faulty.proxy.strike(share_percent, &Fault::ALL);
        for round in 0..run.part_of(rounds, least) {
            faulty.round(&mut run, round, &mut figures).await;
        }
        faulty.proxy.pass();
        faulty.check().await;
        let Figures { done, refused } = figures;
        assert!(
            share_percent > 10 || refused <= 1 + done / REFUSED_AT_10_PERCENT,
            "expected {done} operations with hardly a refusal, there were {refused}"
        );
        told.push(format!("at {share_percent} %: {done} operations, {refused} refused before"));
    }

    let (slowest, recovered) = faulty.outage(&mut run, there, doomed).await;
    told.push(format!("at 100 %: refused within {slowest:?}, back after {recovered:?}"));
    faulty.silence(&mut run, there).await;
    faulty.restart_in_an_outage(&mut run, there).await;
    let left = faulty.take_all_away().await;
    told.push(format!("{left} objects left to the collector"));
    run.finish(&format!("a server over {}: {}", roads::counted(&faulty.roads), told.join("; ")));
}

impl Faulty {
    fn begin(&self, run: &mut Run) -> usize {
        let size_bytes = run.spread(UPLOAD_BYTES[0], UPLOAD_BYTES[1]);
        let content = Content::new(run.random.next(), size_bytes);
        self.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content))
    }

    /// An upload that nothing disturbs.
    async fn upload(&self, run: &mut Run) -> usize {
        let index = self.begin(run);
        self.roads[0].attempt(target(&self.service), &self.ledger, index).await.expect("an image");
        index
    }

    /// An upload, a download and a job, each until it is done.
    async fn round(&self, run: &mut Run, round: u64, figures: &mut Figures) {
        let works: Vec<_> = works().collect();
        let road = self.roads[(round % self.roads.len() as u64) as usize];
        let work = works[(round % works.len() as u64) as usize];
        let index = self.begin(run);
        let upload = async || road.attempt(target(&self.service), &self.ledger, index).await.map(drop);
        figures.until_done(road.name, upload).await;
        figures.until_done("download", async || self.download(index).await).await;
        figures.until_done(work.name, async || self.job(work, index).await).await;
    }

    fn image(&self, index: usize) -> String {
        self.ledger.entry(index, |entry| entry.acknowledged.clone()).expect("an image")
    }

    /// One attempt at a download.
    async fn download(&self, index: usize) -> Result<(), Setback> {
        let mut bytes = self.ledger.entry(index, |entry| entry.content.comparer());
        let client = target(&self.service).client();
        client.download(&self.image(index), 0, &mut bytes, |_| {}).await?;
        assert!(bytes.is_complete(), "expected all bytes");
        Ok(())
    }

    /// The same over REST, where it is refused before it begins.
    fn rest_download(&self, index: usize) -> Result<(), Setback> {
        let answer = get(self.service.http(), &format!("/v1/{}/content", self.image(index)));
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 200 { Ok(()) } else { Err(Setback::Refused { reason: String::new(), text }) }
    }

    /// One attempt at a job. What it makes is looked at and goes.
    async fn job(&self, work: &Work, index: usize) -> Result<(), Setback> {
        let target = target(&self.service);
        let job = work.start(&target.client(), &self.image(index), "").await?;
        let job = ended(&target.patient_client(), &job.name).await;
        if job.state() == JobState::Failed {
            assert_eq!(
                (&job.result, outputs(&job)),
                (&None, (None, None)),
                "{}: expected no output",
                work.name
            );
            let error = job.error.unwrap_or_default();
            return Err(Setback::Refused { reason: error.reason, text: error.message });
        }
        assert_eq!(job.state(), JobState::Succeeded, "{}: {job:?}", work.name);
        self.check_result(work, index, &job);
        let Some(image) = outputs(&job).1 else { return Ok(()) };
        let client = target.patient_client();
        // Compared with its digest on the way.
        let read = client.download(&image, 0, &mut tokio::io::sink(), |_| {}).await;
        client.delete_image_for_good(&image, "").await?;
        Ok(read.map(drop)?)
    }

    fn check_result(&self, work: &Work, index: usize, job: &Job) {
        if let Some(JobResult::Check(result)) = &job.result {
            // A check takes no CRC.
            let digests = self.ledger.entry(index, |entry| Digests { crc32: None, ..entry.digests.clone() });
            assert_eq!(result.digests, Some(digests), "{}: expected the digests of its source", work.name);
        }
    }

    /// An upload into this very store, its download and its end.
    async fn upload_into(&self, store: &str, run: &mut Run) -> Result<(), Setback> {
        let content = Content::new(run.random.next(), MIB);
        let client = target(&self.service).client();
        let options = UploadOptions { store: store.to_owned(), ..UploadOptions::default() };
        let uploaded = client.upload(&mut content.reader(0, &Arc::default()), &options, |_| {}).await?;
        let (name, mut bytes) = (uploaded.image.name, content.comparer());
        client.download(&name, 0, &mut bytes, |_| {}).await?;
        assert!(bytes.is_complete());
        Ok(client.delete_image_for_good(&name, "").await.map(drop)?)
    }

    /// Another store takes and hands out bytes; how long that took.
    async fn serve_elsewhere(&self, run: &mut Run) -> Duration {
        let start = Instant::now();
        assert_eq!(get(self.service.http(), "/healthz").status, 200, "expected a server that lives");
        let served = self.upload_into(DEFAULT, run).await;
        served.unwrap_or_else(|setback| panic!("expected another store to serve: {setback}"));
        start.elapsed()
    }

    /// An attempt that is refused, or goes into another store: that is where it goes once the server has noticed. How long
    /// it took to be told.
    async fn upload_in_an_outage(&self, road: &Road, index: usize) -> Duration {
        if self.ledger.entry(index, |entry| entry.acknowledged.is_some()) {
            return Duration::ZERO;
        }
        let start = Instant::now();
        match road.attempt(target(&self.service), &self.ledger, index).await {
            Ok(image) => {
                let image = self.service.client().get_image(&image).await.unwrap();
                let copies = copies(&self.service, &image).await;
                assert_eq!(copies, [(DEFAULT.to_owned(), ReplicaState::Ready)], "{}", road.name);
                Duration::ZERO
            }
            Err(setback) => {
                expect_away(road.name, Err::<(), _>(setback));
                start.elapsed()
            }
        }
    }

    /// Nothing gets through for a while: the slowest refusal, and the time until all is well again.
    async fn outage(&mut self, run: &mut Run, there: usize, doomed: usize) -> (Duration, Duration) {
        let normal = self.serve_elsewhere(run).await;
        let waiting: Vec<_> = self.roads.iter().map(|road| (*road, self.begin(run))).collect();
        let time = Duration::from_millis(run.part_of(OUTAGE_MS, 3_000));
        self.proxy.strike(100, &OUTAGE);
        // Short disturbances are waited for; from then on nobody has to.
        expect_away("the first download", self.download(there).await);
        // What is removed now is gone, whenever its bytes go.
        let client = target(&self.service).client();
        client.delete_image_for_good(&self.image(doomed), "").await.expect("an image that can be removed");
        self.ledger.entry(doomed, |entry| entry.removed = true);
        let (start, mut slowest) = (Instant::now(), Duration::ZERO);
        while start.elapsed() < time {
            for (road, index) in &waiting {
                slowest = slowest.max(self.upload_in_an_outage(road, *index).await);
            }
            slowest = slowest.max(refused_after("download", self.download(there)).await);
            let rest = async { block_in_place(|| self.rest_download(there)) };
            slowest = slowest.max(refused_after("download over REST", rest).await);
            for work in works() {
                slowest = slowest.max(refused_after(work.name, self.job(work, there)).await);
            }
            self.serve_elsewhere(run).await;
        }
        // What it sends is staged first.
        let allowed = REFUSED_MAX + 5 * normal;
        assert!(slowest <= allowed, "expected refusals within {allowed:?}, not {slowest:?}");

        self.proxy.pass();
        let (start, mut figures) = (Instant::now(), Figures::default());
        figures.until_done("download", async || self.download(there).await).await;
        figures.until_done("upload", async || self.upload_into(COLD, run).await).await;
        let recovered = start.elapsed();
        let allowed = RECOVERED_MAX + 5 * normal;
        assert!(recovered <= allowed, "expected a store that is back within {allowed:?}: {recovered:?}");
        for (road, index) in waiting {
            if self.ledger.entry(index, |entry| entry.acknowledged.is_some()) {
                continue;
            }
            let upload = async || road.attempt(target(&self.service), &self.ledger, index).await.map(drop);
            figures.until_done(road.name, upload).await;
        }
        self.check().await;
        (slowest, recovered)
    }

    /// The object store takes requests and does not answer: who waits for it holds up nobody else.
    async fn silence(&self, run: &mut Run, there: usize) {
        const WAITING: usize = 16;
        let normal = self.serve_elsewhere(run).await;
        self.proxy.strike(100, &[Fault::Silence]);
        let before = self.proxy.struck().len();
        let waiting = futures::future::join_all((0..WAITING).map(|_| self.download(there)));
        let elsewhere = async {
            eventually("a request that gets no answer", || async {
                (self.proxy.struck().len() > before).then_some(())
            })
            .await;
            let taken = self.serve_elsewhere(run).await;
            self.proxy.pass();
            taken
        };
        let (ends, taken) = futures::future::join(waiting, elsewhere).await;
        for end in ends {
            assert!(end.as_ref().is_err_and(Setback::is_store_away) || end.is_ok(), "{end:?}");
        }
        let allowed = REFUSED_MAX + 5 * normal;
        assert!(taken <= allowed, "expected another store to serve within {allowed:?}, not {taken:?}");
        Figures::default().until_done("download", async || self.download(there).await).await;
    }

    /// A server that starts while its object store is away serves the others, and finds it when it is back.
    async fn restart_in_an_outage(&mut self, run: &mut Run, there: usize) {
        let normal = self.serve_elsewhere(run).await;
        self.proxy.strike(100, &OUTAGE);
        audit::check_log(&self.service.kill());
        block_in_place(|| self.service.restart());
        expect_away("a download after a start", self.download(there).await);
        self.serve_elsewhere(run).await;
        self.proxy.pass();
        let start = Instant::now();
        Figures::default().until_done("download", async || self.download(there).await).await;
        let found = start.elapsed();
        let allowed = RECOVERED_MAX + 5 * normal;
        assert!(found <= allowed, "expected a store that is found within {allowed:?}: {found:?}");
        self.check().await;
    }

    /// All that was acknowledged is there, and nothing else is visible.
    async fn check(&self) {
        audit::check(&self.service.client(), &self.ledger).await;
    }

    /// Compares every image once more and removes it. How many objects are left of calls that were cut off.
    async fn take_all_away(&mut self) -> usize {
        let client = self.service.client();
        for index in 0..self.ledger.all().len() {
            self.ledger.entry(index, |entry| entry.compared = false);
        }
        self.check().await;
        let stored = self.bucket.blobs().len();
        let images = audit::images(&client).await;
        let cold = client.get_store(COLD).await.unwrap().name;
        let named =
            images.iter().filter(|image| image.replicas.iter().any(|copy| copy.store == cold)).count();
        let left = stored.checked_sub(named).expect("an object for each image");
        for image in &images {
            client.delete_image_for_good(&image.name, "").await.unwrap();
        }
        // Those of the image that was removed in the outage, too.
        eventually(&format!("at most {left} objects"), || async {
            (self.bucket.blobs().len() <= left).then_some(())
        })
        .await;
        audit::check_store(&self.service).await;
        audit::check_log(&self.service.kill());
        left
    }
}

impl Figures {
    /// Tries until it succeeds. Each refusal must say that the store is away.
    async fn until_done(&mut self, what: &str, mut attempt: impl AsyncFnMut() -> Result<(), Setback>) {
        let deadline = Instant::now() + DEADLINE * 3;
        while let Err(setback) = attempt().await {
            assert!(setback.is_store_away(), "{what}: expected success, or a store that is away: {setback}");
            assert!(Instant::now() < deadline, "{what}: expected success by now: {setback}");
            self.refused += 1;
            tokio::time::sleep(PAUSE).await;
        }
        self.done += 1;
    }
}

fn expect_away<T>(what: &str, result: Result<T, Setback>) {
    match result {
        Ok(_) => panic!("{what}: expected a store that is away"),
        Err(setback) => {
            assert!(setback.is_store_away(), "{what}: expected a store that is away: {setback}");
        }
    }
}

/// The jobs that read an image and make another, or nothing.
fn works() -> impl Iterator<Item = &'static Work> {
    WORKS.iter().filter(|work| work.name.ends_with("an image"))
}

/// How long it took to be told that the store is away.
async fn refused_after<T>(what: &str, attempt: impl Future<Output = Result<T, Setback>>) -> Duration {
    let start = Instant::now();
    expect_away(what, attempt.await);
    start.elapsed()
}
