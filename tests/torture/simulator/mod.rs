//! A simulator of uploads and jobs. The state machines are the real ones, with the catalogue that keeps them: its steps run
//! on an SQLite file, with ids and moments that are handed in. What stands around them is simulated: servers that do what
//! `server/src/upload`, `server/src/worker` and `server/src/sweep.rs` do in the same order ([`uploads`], [`worker`],
//! [`sweeper`]), their disks ([`disk`]), the network and those who use it ([`client`]). Between any two steps of one, others
//! go on, a server is killed or loses power, or stands still for longer than a lease ([`schedule`]).
//!
//! After each step that changed something, [`reference`] compares rows and disks with what was acknowledged. All chance is
//! the seed's, and time is simulated: a seed always takes the same course.

mod client;
mod disk;
mod reference;
mod schedule;
mod server;
mod sweeper;
mod uploads;
mod worker;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::rc::Rc;

use imageops_catalogue::{Catalogue as _, Error, ImageRow, Replica, SqliteCatalogue};
use imageops_model::{ImageDetails, ImageId, ImageState, Label, Micros, ReplicaState, StoreId, Tenant};
use uuid::Uuid;

use self::disk::{Disk, Place};
use self::reference::Reference;
use self::schedule::{Owner, Step, Task, yield_once};
use crate::support::random::Random;

/// When time begins.
const START: Micros = Micros(1_700_000_000_000_000);
/// So long things go wrong.
const CHAOS_MS: i64 = 15 * 60_000;
/// How long everything may take to come to rest after that: R-5 gives orphans an hour.
const SETTLE_MS: i64 = 75 * 60_000;
/// More steps than any seed takes.
const STEPS_MAX: u64 = 200_000;
/// Steps of one seed that are kept for whoever reads why it failed.
const TRACE_MAX: usize = 60;
const CLIENTS: u64 = 3;
/// Servers on one bucket: two or three.
const SERVERS: std::ops::Range<u64> = 2..4;

/// The one store.
const STORE: StoreId = StoreId(Uuid::from_u128(5));

/// What one seed came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Steps that were taken.
    pub steps: u64,
    /// Digest of all that happened, in its order.
    pub trace: u64,
    /// Servers that were killed.
    pub kills: u64,
    /// Servers that lost their power.
    pub power_losses: u64,
    /// Servers that stood still for longer than a lease.
    pub freezes: u64,
    /// Uploads that were acknowledged.
    pub uploads: u64,
    /// Jobs that ended.
    pub jobs: u64,
    /// Writes that were refused because another worker had the job.
    pub fenced: u64,
}

/// Why a seed failed.
#[derive(Debug)]
pub struct Violation {
    /// What was expected, and what was found.
    pub what: String,
    /// The last steps before it.
    pub trace: Vec<String>,
}

/// Why a call to the catalogue gave no answer of the catalogue.
#[derive(Debug)]
pub enum Trouble {
    /// It may have been done or not.
    Unavailable,
    /// It was refused.
    Refused(Error),
}

/// Everything that there is.
pub struct World {
    now: Cell<Micros>,
    rest: Cell<Option<Micros>>,
    random: RefCell<Random>,
    catalogue: SqliteCatalogue,
    /// Blobs lie in a bucket that several servers share, or else on the disk of the only one.
    bucket: Option<RefCell<BTreeMap<String, Vec<u8>>>>,
    machines: Vec<Machine>,
    newcomers: RefCell<Vec<Task>>,
    reference: RefCell<Reference>,
    figures: Cell<Figures>,
    trace: RefCell<Trace>,
    has_changed: Cell<bool>,
    /// Nothing goes wrong any more.
    is_calm: Cell<bool>,
    /// No job will come any more, and none is left.
    is_idle: Cell<bool>,
    calls: Cell<u64>,
    answers: RefCell<BTreeMap<u64, server::Answer>>,
}

/// What a server runs on.
struct Machine {
    disk: RefCell<Disk>,
    /// The server, while it is up.
    life: RefCell<Option<Rc<server::Life>>>,
    frozen_until: Cell<Micros>,
    /// When a server that was told to stop has stopped.
    stops_at: Cell<Option<Micros>>,
}

#[derive(Default)]
struct Trace {
    hasher: DefaultHasher,
    last: VecDeque<String>,
}

/// Runs one seed on the empty catalogue in this file, which it fills.
pub async fn run(seed: u64, catalogue: &Path) -> Result<Figures, Violation> {
    let catalogue = SqliteCatalogue::open(catalogue).await.expect("a catalogue");
    let world = Rc::new(World::new(seed, catalogue));
    let outcome = world.clone().live().await;
    world.catalogue.close().await;
    match outcome {
        Ok(()) => {
            let trace = world.trace.borrow().hasher.finish();
            Ok(Figures { trace, fenced: world.reference.borrow().fenced(), ..world.figures.get() })
        }
        Err(what) => Err(Violation { what, trace: world.trace.borrow().last.iter().cloned().collect() }),
    }
}

impl World {
    fn new(seed: u64, catalogue: SqliteCatalogue) -> Self {
        let mut random = Random::from_seed(seed);
        let is_bucket = random.below(2) == 0;
        let machines = if is_bucket { SERVERS.start + random.below(SERVERS.end - SERVERS.start) } else { 1 };
        let machine = |_| Machine {
            disk: RefCell::default(),
            life: RefCell::default(),
            frozen_until: Cell::default(),
            stops_at: Cell::default(),
        };
        Self {
            now: Cell::new(START),
            rest: Cell::default(),
            random: RefCell::new(random),
            catalogue,
            bucket: is_bucket.then(RefCell::default),
            machines: (0..machines).map(machine).collect(),
            newcomers: RefCell::default(),
            reference: RefCell::default(),
            figures: Cell::default(),
            trace: RefCell::default(),
            has_changed: Cell::default(),
            is_calm: Cell::default(),
            is_idle: Cell::default(),
            calls: Cell::default(),
            answers: RefCell::default(),
        }
    }

    /// All of it: some time in which everything goes wrong, then one in which nothing does and what was begun must end.
    async fn live(self: Rc<Self>) -> Result<(), String> {
        for number in 0..self.machines.len() {
            server::start(&self, number, 0);
        }
        for number in 0..CLIENTS {
            self.spawn(Owner::Client, client::run(Rc::clone(&self), number));
        }
        let (mut tasks, mut is_done) = (Vec::<Task>::new(), false);
        for step in 0..STEPS_MAX {
            self.disturb(&mut tasks);
            tasks.append(&mut self.newcomers.borrow_mut());
            let now = self.now.get();
            is_done = is_done || !tasks.iter().any(|task| task.owner == Owner::Client);
            self.is_calm.set(is_done || now >= START.plus_ms(CHAOS_MS));
            self.is_idle.set(is_done && self.reference.borrow().live_jobs() == 0);
            if is_done && self.reference.borrow().is_settled() {
                self.figures.set(Figures { steps: step, ..self.figures.get() });
                return Ok(());
            }
            if now >= START.plus_ms(CHAOS_MS + SETTLE_MS) {
                let left = self.reference.borrow().unsettled();
                let clients = tasks.iter().filter(|task| task.owner == Owner::Client).count();
                return Err(format!("R-4, R-5: expected rest; {clients} clients are not done; {left}"));
            }
            let Some(place) = self.next(&tasks) else {
                return Err("R-4: nothing goes on any more".to_owned());
            };
            let mut task = tasks.swap_remove(place);
            if task.run(&self.rest).await == Step::Rests {
                tasks.push(task);
            }
            if self.has_changed.take() {
                self.check(is_done).await;
            }
            if let Some(what) = self.reference.borrow_mut().take_violation() {
                return Err(what);
            }
        }
        Err(format!("expected an end within {STEPS_MAX} steps"))
    }

    /// Which task goes on: one of those that may now, or when there is none, the first that will.
    fn next(&self, tasks: &[Task]) -> Option<usize> {
        let wakes = |task: &Task| match task.owner {
            Owner::Server(number) => task.wakes.max(self.machines[number].frozen_until.get()),
            Owner::Client | Owner::Network => task.wakes,
        };
        let now = self.now.get();
        let ready: Vec<_> = (0..tasks.len()).filter(|&place| wakes(&tasks[place]) <= now).collect();
        if ready.is_empty() {
            let place = (0..tasks.len()).min_by_key(|&place| wakes(&tasks[place]))?;
            self.now.set(wakes(&tasks[place]));
            return Some(place);
        }
        // Steps take time.
        self.now.set(Micros(now.0 + self.below(3_000).cast_signed()));
        Some(ready[self.below(ready.len() as u64) as usize])
    }

    /// Now and then a server is killed, loses power, stands still, or is told to stop.
    fn disturb(self: &Rc<Self>, tasks: &mut Vec<Task>) {
        const ONE_IN: u64 = 300;
        let now = self.now.get();
        let is_due = |machine: &Machine| machine.stops_at.get().is_some_and(|at| at <= now);
        if let Some(number) = self.machines.iter().position(is_due) {
            return self.end_life(number, tasks, "stops");
        }
        if self.is_calm.get() || !self.happens(ONE_IN) {
            return;
        }
        let number = self.below(self.machines.len() as u64) as usize;
        let (machine, figures) = (&self.machines[number], self.figures.get());
        match self.below(5) {
            0 | 1 => {
                // Longer than a lease, shorter than the collector waits.
                let ms = 1_000 + self.below(90_000).cast_signed();
                machine.frozen_until.set(now.plus_ms(ms));
                self.figures.set(Figures { freezes: figures.freezes + 1, ..figures });
                self.tell(&format!("server {number} stands still for {ms} ms"));
            }
            2 => {
                if let Some(life) = &*machine.life.borrow() {
                    life.drain();
                    machine.stops_at.set(Some(now.plus_ms(self.below(10_000).cast_signed())));
                    self.tell(&format!("server {number} is told to stop"));
                }
            }
            3 => {
                self.figures.set(Figures { power_losses: figures.power_losses + 1, ..figures });
                machine.disk.borrow_mut().lose_power(&mut self.random.borrow_mut());
                self.end_life(number, tasks, "loses power");
            }
            _ => {
                self.figures.set(Figures { kills: figures.kills + 1, ..figures });
                self.end_life(number, tasks, "is killed");
            }
        }
    }

    /// All that the server was at ends where it is; it starts again.
    fn end_life(self: &Rc<Self>, number: usize, tasks: &mut Vec<Task>, why: &str) {
        self.tell(&format!("server {number} {why}"));
        tasks.retain(|task| task.owner != Owner::Server(number));
        self.newcomers.borrow_mut().retain(|task| task.owner != Owner::Server(number));
        let machine = &self.machines[number];
        machine.life.take();
        machine.stops_at.take();
        machine.frozen_until.take();
        self.has_changed.set(true);
        server::start(self, number, self.below(20_000).cast_signed());
    }

    /// Adds a task.
    fn spawn(&self, owner: Owner, work: impl Future<Output = ()> + 'static) {
        self.newcomers.borrow_mut().push(Task::new(owner, self.now.get(), work));
    }

    /// Rests for at least so long; others go on.
    async fn sleep(&self, ms: i64) {
        self.rest.set(Some(self.now.get().plus_ms(ms)));
        yield_once().await;
    }

    /// Rests for as long as a disk takes: mostly not at all, now and then very long.
    async fn wait_for_disk(&self) {
        let ms = if !self.is_calm.get() && self.happens(30) { self.below(40_000) } else { self.below(20) };
        self.sleep(ms.cast_signed()).await;
    }

    /// One call to the catalogue, which is one step: done whole, or not at all, and its answer may be lost.
    async fn ask<T, F>(&self, what: &str, call: impl FnOnce(SqliteCatalogue) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = imageops_catalogue::Result<T>>,
    {
        const LOST_ONE_IN: u64 = 80;
        self.sleep(self.below(5).cast_signed()).await;
        let is_lost = !self.is_calm.get() && self.happens(LOST_ONE_IN);
        if is_lost && self.happens(2) {
            self.tell(&format!("{what}: the catalogue does not answer"));
            return Err(Trouble::Unavailable);
        }
        let answer = call(self.catalogue.clone()).await;
        match &answer {
            Ok(_) => self.tell(&format!("{what}{}", if is_lost { ", whose answer is lost" } else { "" })),
            Err(error) => self.tell(&format!("{what}: {error}")),
        }
        if is_lost { Err(Trouble::Unavailable) } else { answer.map_err(Trouble::Refused) }
    }

    /// A call that may change rows: what was acknowledged is compared after it.
    async fn change<T, F>(&self, what: &str, call: impl FnOnce(SqliteCatalogue) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = imageops_catalogue::Result<T>>,
    {
        let answer = self.ask(what, call).await;
        self.has_changed.set(true);
        answer
    }

    /// One of so many times.
    fn happens(&self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.borrow_mut().below(bound)
    }

    fn uuid(&self) -> Uuid {
        let mut random = self.random.borrow_mut();
        Uuid::from_u64_pair(random.next(), random.next())
    }

    /// Notes what happened.
    fn tell(&self, what: &str) {
        let line = format!("{:>10.3} s: {what}", (self.now.get().0 - START.0) as f64 / 1e6);
        let mut trace = self.trace.borrow_mut();
        line.hash(&mut trace.hasher);
        if trace.last.len() == TRACE_MAX {
            trace.last.pop_front();
        }
        trace.last.push_back(line);
    }

    /// Bytes of a blob that no loss of power takes.
    fn durable_blob(&self, blob: &str) -> Option<Vec<u8>> {
        match &self.bucket {
            Some(objects) => objects.borrow().get(blob).cloned(),
            None => self.machines[0].disk.borrow().read_durable(Place::Blobs, blob).map(<[u8]>::to_vec),
        }
    }

    /// Names of all blobs.
    fn blobs(&self) -> Vec<String> {
        match &self.bucket {
            Some(objects) => objects.borrow().keys().cloned().collect(),
            None => self.machines[0].disk.borrow().names(Place::Blobs),
        }
    }
}

/// A digest without collisions.
fn digest(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// An image as `server/src/stored.rs` writes its row.
fn image_row(world: &World, id: ImageId, bytes: &[u8], blob: &str) -> ImageRow {
    let now = world.now.get();
    ImageRow {
        id,
        tenant: Tenant::built_in(),
        label: Label::default(),
        state: ImageState::Active,
        format: "raw".to_owned(),
        size_bytes: bytes.len() as u64,
        virtual_size_bytes: Some(bytes.len() as u64),
        md5: digest(bytes),
        sha256: digest(bytes),
        sha512: None,
        crc32: None,
        replicas: vec![Replica {
            store: STORE,
            blob: blob.to_owned(),
            state: ReplicaState::Ready,
            create_time: now,
            update_time: now,
            verify_time: None,
        }],
        derived_from: None,
        companion: None,
        use_time: None,
        details: ImageDetails::default(),
        enabled: true,
        quarantine: None,
        check: None,
        slim: None,
        upload: None,
        revision: 1,
        create_time: now,
        update_time: now,
        trash_time: None,
        purge_time: None,
    }
}
