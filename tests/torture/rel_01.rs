//! rel_01: SIGKILL at random instants during parallel uploads over all roads, and an audit after each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::roads::{self, Road, Target};
use crate::run::{Run, beside, join, spread};
use crate::support::Service;
use crate::support::random::Random;

const KILLS: u64 = 500;
const CLIENTS: u64 = 8;
const MIB: u64 = 1 << 20;
/// Between one start and the next kill.
const LIFE_MS_MAX: u64 = 4_000;
/// What begins anew after each kill must fit between two.
const ANEW_BYTES_MAX: u64 = 4 * MIB;
/// How long one upload may be kept from its end by kills, of which each leaves it more time than it needs to go on.
const UPLOAD_LIMIT: Duration = Duration::from_secs(900);

/// What all clients share.
pub struct Clients {
    target: Target,
    pub roads: Vec<&'static Road>,
    pub ledger: Ledger,
    pub stop: AtomicBool,
    /// No upload begins between a kill and the end of its audit, which else would never catch up; what is under way goes on.
    pub auditing: AtomicBool,
    size_bytes_max: u64,
    pub cuts: AtomicU64,
}

impl Clients {
    /// So many clients that upload, over these roads in turn, until they are told to stop.
    pub fn start(
        run: &mut Run,
        service: &Service,
        roads: Vec<&'static Road>,
        count: u64,
        size_bytes_max: u64,
    ) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let clients = Arc::new(Self {
            target: target(service),
            roads,
            ledger: Ledger::default(),
            stop: AtomicBool::new(false),
            auditing: AtomicBool::new(false),
            size_bytes_max,
            cuts: AtomicU64::new(0),
        });
        let mut uploading = Vec::new();
        for number in 0..count {
            let (clients, seed) = (Arc::clone(&clients), run.random.next());
            uploading.push(beside(move || upload(clients, number, seed)));
        }
        (clients, uploading)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_01_acknowledged_uploads_outlive_sigkill() {
    let mut run = Run::new("rel_01");
    let kills = run.part_of(KILLS, 5);
    let (life_ms_max, size_bytes_max) = (run.part_of(LIFE_MS_MAX, 500), run.part_of(512 * MIB, 4 * MIB));
    // Kept at the server at most, so that a long run needs no large disk.
    let kept_bytes_max = 4 * size_bytes_max;
    let mut service = run.service(|_| {});
    let (clients, uploading) =
        Clients::start(&mut run, &service, roads::present(service.http()), CLIENTS, size_bytes_max);
    for _ in 0..kills {
        let removing = Arc::clone(&clients);
        let removing = beside(move || remove_surplus(removing, kept_bytes_max));
        let life_ms = run.random.below(life_ms_max);
        tokio::time::sleep(Duration::from_millis(life_ms)).await;
        clients.auditing.store(true, Ordering::Release);
        block_in_place(|| service.restart());
        join(removing);
        audit::check(&service.client(), &clients.ledger).await;
        clients.auditing.store(false, Ordering::Release);
        if uploading.iter().any(JoinHandle::is_finished) {
            break;
        }
    }
    clients.stop.store(true, Ordering::Release);
    uploading.into_iter().for_each(join);
    // Once more, so that what is left is what a start leaves.
    block_in_place(|| service.restart());
    audit::check(&service.client(), &clients.ledger).await;
    audit::check_store(&service).await;
    let (entries, cuts) = (clients.ledger.all(), clients.cuts.load(Ordering::Acquire));
    assert!(cuts > 0, "expected kills in the middle of uploads");
    let sent_bytes: u64 = entries.iter().map(|entry| entry.content.size_bytes).sum();
    run.finish(&format!(
        "{kills} kills; {} uploads of {} MiB over {}, all acknowledged and compared; cut {cuts} times",
        entries.len(),
        sent_bytes / MIB,
        roads::counted(&clients.roads)
    ));
}

/// One client: uploads, one after another, over the roads in turn.
async fn upload(clients: Arc<Clients>, number: u64, seed: u64) {
    let mut random = Random::from_seed(seed);
    let mut turn = number;
    while !clients.stop.load(Ordering::Acquire) {
        if clients.auditing.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let road = clients.roads[(turn % clients.roads.len() as u64) as usize];
        turn += 1;
        let most =
            if road.resumes { clients.size_bytes_max } else { ANEW_BYTES_MAX.min(clients.size_bytes_max) };
        let size_bytes = spread(&mut random, MIB, most);
        let entry = Entry::new(uuid::Uuid::new_v4(), Content::new(random.next(), size_bytes));
        let index = clients.ledger.begin(entry);
        let cuts = road.deliver(clients.target, &clients.ledger, index, UPLOAD_LIMIT).await;
        clients.cuts.fetch_add(cuts, Ordering::AcqRel);
    }
}

/// Removes the oldest images above a bound, by the trash, while the server may be killed.
pub async fn remove_surplus(clients: Arc<Clients>, kept_bytes_max: u64) {
    let kept = |entry: &Entry| entry.compared && !entry.removed;
    let mut kept_bytes: u64 =
        clients.ledger.all().iter().filter(|entry| kept(entry)).map(|entry| entry.content.size_bytes).sum();
    let client = clients.target.patient_client();
    for (index, entry) in clients.ledger.all().into_iter().enumerate() {
        let Some(image) = entry.acknowledged.as_ref().filter(|_| kept(&entry)) else { continue };
        if kept_bytes <= kept_bytes_max {
            return;
        }
        kept_bytes -= entry.content.size_bytes;
        clients.ledger.entry(index, |entry| entry.removed = true);
        let trashed = client.delete_image(image, "").await;
        // A kill may have cut the answer off: the repetition then finds it in the trash.
        trashed.map(drop).or_else(|error| if error_is_state(&error) { Ok(()) } else { Err(error) }).unwrap();
        let purged = client.purge_image(image, "").await;
        purged.or_else(|error| if error_is_state(&error) { Ok(()) } else { Err(error) }).unwrap();
    }
}

/// Whether an answer says that the thing is already so, or gone.
fn error_is_state(error: &imageops_client::Error) -> bool {
    matches!(error.code(), tonic::Code::FailedPrecondition | tonic::Code::NotFound)
}

/// Where a service listens, now and after each restart.
pub fn target(service: &Service) -> Target {
    Target { grpc: service.grpc(), http: service.http() }
}
