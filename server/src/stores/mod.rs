//! The stores of the service: which there are, which of them are there, and which gets new bytes.
//!
//! Their records lie in the catalogue; [`Stores`] holds them open. A store whose place is empty or holds another one is
//! disconnected: nothing is written to it, and it is looked for again with each probe.

mod open;
mod place;
mod setting;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use imageops_catalogue::{Catalogue, Created, StoreRow};
use imageops_model::{Micros, StoreId, StoreKind, StoreState};
use imageops_store::{Error, ImageRoot, Space, Store};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tonic::Code;
use uuid::Uuid;

pub use self::open::Credentials;
use self::open::{Opener, sentence};
use self::place::{Candidate, place};
pub use self::setting::{InvalidStoreSetting, StoreSetting, has_limit, is_store_name};
pub use self::usage::Counts;
use crate::app::blocking;
use crate::clock::now;
use crate::failure::{Failure, Result, no_space};
use crate::reason;

/// Name of the store in the data directory, which every server has.
pub const DEFAULT_STORE: &str = "default";
/// Its weight at first: it takes what the stores that the operator names have no room for.
const DEFAULT_WEIGHT: i32 = -1;
/// How long a probe may take before its store counts as one that does not answer.
const PROBE_MAX: Duration = Duration::from_secs(10);
/// How long a store is waited for that is asked for its room: new bytes go elsewhere then.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// So many ask a store at a time. If it hangs, each of them holds a thread.
const ROOM_ASKED: usize = 8;
/// Most stores.
pub const STORES_MAX: usize = 256;

/// All stores.
pub struct Stores {
    slots: RwLock<BTreeMap<StoreId, Slot>>,
    opener: Opener,
    default: StoreId,
    /// The catalogue that the stores must belong to.
    catalogue: Uuid,
    /// Those with a call that failed: whether they take writes, a probe finds out.
    suspects: Mutex<BTreeSet<StoreId>>,
    suspected: Notify,
    /// How much is in them.
    pub counts: Counts,
}

/// A store as it is now.
#[derive(Clone)]
pub struct Slot {
    /// Its record.
    pub row: StoreRow,
    /// The store itself, while it is there.
    pub store: Option<Arc<dyn Store>>,
    /// Why nothing is written to it, for the operator; empty: it is connected.
    pub problem: String,
    /// When it was last probed.
    pub probe_time: Micros,
    /// Its room at that time.
    pub space: Space,
    is_probing: Arc<AtomicBool>,
    asking: Arc<Semaphore>,
}

impl Slot {
    fn disconnected(row: StoreRow, problem: String) -> Self {
        Self {
            row,
            store: None,
            problem,
            probe_time: now(),
            space: Space::default(),
            is_probing: Arc::default(),
            asking: Arc::new(Semaphore::new(ROOM_ASKED)),
        }
    }

    /// Blocks.
    fn connected(row: StoreRow, store: Arc<dyn Store>) -> Self {
        store.set_limit(row.limit_bytes);
        let space = store.space().unwrap_or_default();
        Self { store: Some(store), space, ..Self::disconnected(row, String::new()) }
    }

    /// The same store with a changed record.
    pub fn with(self, row: StoreRow) -> Self {
        Self { row, ..self }
    }

    /// Whether bytes can be written to it.
    pub fn is_connected(&self) -> bool {
        self.store.is_some() && self.problem.is_empty()
    }

    fn takes_bytes(&self) -> bool {
        self.row.state == StoreState::Enabled && self.is_connected()
    }
}

impl Stores {
    /// Opens the default store, which must be there and whose lock makes this process alone on the data directory, then
    /// those that the catalogue knows or the configuration names; of these, what cannot be opened now is disconnected.
    pub async fn open(
        catalogue: &dyn Catalogue,
        default: Arc<dyn Store>,
        default_path: &Path,
        settings: &[StoreSetting],
        credentials: Credentials,
        staging: PathBuf,
        image_root: Arc<ImageRoot>,
    ) -> Result<Self> {
        let opener = Opener { staging, credentials, image_root, runtime: Handle::current() };
        let path = default_path.display().to_string();
        let catalogue_id = catalogue.identity().await?;
        let owned = Arc::clone(&default);
        let owned = blocking(move || own(&*owned, catalogue_id)).await?;
        owned.map_err(|error| unusable(DEFAULT_STORE, &error))?;
        let row = row(default.id(), DEFAULT_STORE, StoreKind::Directory { path }, DEFAULT_WEIGHT, None);
        let (Created::New(row) | Created::Existing(row)) = catalogue.register_store(row).await?;
        let stores = Self {
            slots: RwLock::default(),
            opener,
            default: row.id,
            catalogue: catalogue_id,
            suspects: Mutex::default(),
            suspected: Notify::new(),
            counts: Counts::default(),
        };
        let slot = connected(row, default).await?;
        stores.write().insert(slot.row.id, slot);
        for setting in settings {
            let slot = stores.open_setting(catalogue, setting).await?;
            log_change("", &slot);
            stores.write().insert(slot.row.id, slot);
        }
        for row in catalogue.list_stores().await? {
            if !stores.read().contains_key(&row.id) {
                let slot = stores.open_row(row).await?;
                log_change("", &slot);
                stores.write().insert(slot.row.id, slot);
            }
        }
        Ok(stores)
    }

    /// Opens what the configuration names: as the store that the catalogue knows by this name, or as a new one.
    async fn open_setting(&self, catalogue: &dyn Catalogue, setting: &StoreSetting) -> Result<Slot> {
        if let Some(known) = catalogue.find_store(&setting.name).await? {
            // The place may be a new one; it is the same store only when its stamp says so.
            let slot = self.open_row(StoreRow { kind: setting.kind.clone(), ..known.clone() }).await?;
            if slot.is_connected() && known.kind != setting.kind {
                let row = StoreRow { kind: setting.kind.clone(), ..known };
                let (Created::New(row) | Created::Existing(row)) = catalogue.register_store(row).await?;
                return Ok(Slot { row, ..slot });
            }
            return Ok(slot);
        }
        self.refuse_place(&setting.kind).await?;
        let store = self.connect(&setting.name, &setting.kind, None).await?;
        let store = store.map_err(|error| unusable(&setting.name, &error))?;
        let row = row(store.id(), &setting.name, setting.kind.clone(), setting.weight, setting.limit_bytes);
        let (Created::New(row) | Created::Existing(row)) = catalogue.register_store(row).await?;
        connected(row, store).await
    }

    /// Refuses what is no directory, a store that is open under another name, and a directory in another store, or around
    /// one: what one of them holds the other would take for its own.
    async fn refuse_place(&self, kind: &StoreKind) -> Result<()> {
        let StoreKind::Directory { path } = kind.clone() else { return Ok(()) };
        let slots = self.all();
        blocking(move || {
            let place = real_path(&path);
            if place.exists() && !place.is_dir() {
                let message = "there is a file at this path, no directory; name another one";
                return Err(Failure::invalid("store.directory.path", message));
            }
            for slot in slots {
                let is_connected = slot.is_connected();
                let StoreRow { name, kind: StoreKind::Directory { path }, .. } = slot.row else { continue };
                let other = real_path(&path);
                if place == other && is_connected {
                    let message = format!("the directory is the store {name} already; name another one");
                    return Err(Failure::new(Code::AlreadyExists, reason::STORE_EXISTS, message));
                }
                if place != other && (place.starts_with(&other) || other.starts_with(&place)) {
                    let message =
                        format!("the directory lies in the store {name}, or around it; name another one");
                    return Err(Failure::invalid("store.directory.path", message));
                }
            }
            Ok(())
        })
        .await?
    }

    async fn open_row(&self, row: StoreRow) -> Result<Slot> {
        match self.connect(&row.name, &row.kind, Some(row.id)).await? {
            Ok(store) => connected(row, store).await,
            Err(error) => Ok(Slot::disconnected(row, sentence(&error))),
        }
    }

    async fn connect(
        &self,
        name: &str,
        kind: &StoreKind,
        id: Option<StoreId>,
    ) -> Result<imageops_store::Result<Arc<dyn Store>>> {
        let (opener, name, kind, catalogue) =
            (self.opener.clone(), name.to_owned(), kind.clone(), self.catalogue);
        blocking(move || {
            let store = opener.open(&name, &kind, id)?;
            own(&*store, catalogue)?;
            Ok(store)
        })
        .await
    }

    /// Opens a store that an operator names, and takes it in.
    pub async fn register(&self, catalogue: &dyn Catalogue, setting: &StoreSetting) -> Result<Slot> {
        // Open already: a second handle would not get the lock of the first.
        if let Some(slot) =
            self.find(&setting.name).filter(|slot| slot.is_connected() && slot.row.kind == setting.kind)
        {
            return Ok(slot);
        }
        if self.read().len() >= STORES_MAX {
            let message = format!("there are {STORES_MAX} stores already; remove one first");
            return Err(Failure::new(Code::ResourceExhausted, reason::LIMIT_REACHED, message));
        }
        let slot = self.open_setting(catalogue, setting).await?;
        self.write().insert(slot.row.id, slot.clone());
        Ok(slot)
    }

    /// Takes a changed record in.
    pub fn update(&self, row: StoreRow) {
        if let Some(slot) = self.write().get_mut(&row.id) {
            if let Some(store) = &slot.store {
                store.set_limit(row.limit_bytes);
            }
            slot.row = row;
        }
    }

    /// Lets go of a store that was forgotten.
    pub fn remove(&self, id: StoreId) {
        self.write().remove(&id);
    }

    /// The store in the data directory.
    pub fn default_id(&self) -> StoreId {
        self.default
    }

    /// All stores as they are, the highest weight first, then by name.
    pub fn all(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.read().values().cloned().collect();
        slots.sort_by(|a, b| b.row.weight.cmp(&a.row.weight).then_with(|| a.row.name.cmp(&b.row.name)));
        slots
    }

    /// A store by its id, `stores/{uuid}`, or its name.
    pub fn find(&self, name: &str) -> Option<Slot> {
        let slots = self.read();
        match name.parse::<StoreId>() {
            Ok(id) => slots.get(&id).cloned(),
            Err(_) => slots.values().find(|slot| slot.row.name == name).cloned(),
        }
    }

    /// A store to write to; UNAVAILABLE while it is not there.
    pub fn writable(&self, id: StoreId) -> Result<Arc<dyn Store>> {
        let slots = self.read();
        let slot = slots.get(&id).filter(|slot| slot.is_connected());
        slot.and_then(|slot| slot.store.clone()).ok_or_else(disconnected)
    }

    /// A store to read from or to tidy, also one that takes no writes now; `None` while it is not there.
    pub fn readable(&self, id: StoreId) -> Option<Arc<dyn Store>> {
        self.read().get(&id).and_then(|slot| slot.store.clone())
    }

    /// Chooses the store for so many new bytes: `wanted` by its name, or else by weight and room among all but `without`.
    pub async fn place(
        self: &Arc<Self>,
        wanted: &str,
        size_bytes: Option<u64>,
        without: &[StoreId],
    ) -> Result<StoreId> {
        if !wanted.is_empty() {
            let slot = self.find(wanted).ok_or_else(|| no_store(wanted))?;
            if slot.row.state != StoreState::Enabled {
                let message = "the store takes no new bytes; enable it, or name another one";
                return Err(Failure::new(Code::FailedPrecondition, reason::STORE_DISABLED, message));
            }
            if !slot.is_connected() {
                return Err(disconnected());
            }
        }
        let mut slots = self.all();
        slots.retain(|slot| slot.takes_bytes() && !without.contains(&slot.row.id));
        if !wanted.is_empty() {
            slots.retain(|slot| slot.row.name == wanted || slot.row.id.to_string() == wanted);
        }
        let candidates: Vec<_> = join_all(slots.into_iter().map(|slot| self.candidate(slot))).await;
        let candidates: Vec<_> = candidates.into_iter().flatten().collect();
        if candidates.is_empty() {
            return Err(disconnected());
        }
        place(&candidates, size_bytes).ok_or_else(no_space)
    }

    /// Asks a store for its room; `None` when it does not answer, which a probe looks into.
    async fn candidate(&self, slot: Slot) -> Option<Candidate> {
        let (id, weight) = (slot.row.id, slot.row.weight);
        let store = slot.store?;
        let answer = timeout(ROOM_WAIT, async {
            let place = slot.asking.acquire_owned().await.ok()?;
            let asked = move || {
                let _place = place;
                // What is staged must fit as well as what is stored.
                Some((store.space().ok()?, store.staging_space().ok()?))
            };
            blocking(asked).await.ok()?
        });
        let Ok(answer) = answer.await else {
            self.suspect(id);
            return None;
        };
        let (space, staging) = answer?;
        let free_bytes = match (space.free_bytes, staging.free_bytes) {
            (Some(stored), Some(staged)) => Some(stored.min(staged)),
            (one, other) => one.or(other),
        };
        Some(Candidate { id, weight, free_bytes })
    }

    /// Whether new bytes are taken: some store is enabled and there.
    pub fn take_bytes(&self) -> bool {
        self.read().values().any(Slot::takes_bytes)
    }

    /// Notes what a call to a store came to: one that is gone takes no writes from now on, one that failed is probed.
    pub fn report(&self, id: StoreId, error: &Error) {
        if let Error::Gone(problem) = error
            && let Some(slot) = self.write().get_mut(&id)
            && slot.problem.is_empty()
        {
            tracing::error!(store = slot.row.name, problem, "a store is gone; nothing is written to it");
            slot.problem.clone_from(problem);
        }
        if matches!(error, Error::Gone(_) | Error::Unusable(_) | Error::Io(_)) {
            self.suspect(id);
        }
    }

    /// Has a store probed, because a call to it failed. One call may have met a bad block: that alone stops no writes.
    pub fn suspect(&self, id: StoreId) {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        self.suspected.notify_one();
    }

    /// Comes back once a store is suspected.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Probes all stores, and looks for those that are not there.
    pub async fn probe_all(&self) -> Result<()> {
        self.probe_each(self.all()).await
    }

    /// Looks for the stores that are not there, and at those that are suspected.
    pub async fn probe_doubtful(&self) -> Result<()> {
        let suspects = std::mem::take(&mut *self.suspects.lock().unwrap_or_else(PoisonError::into_inner));
        let mut slots = self.all();
        slots.retain(|slot| !slot.is_connected() || suspects.contains(&slot.row.id));
        self.probe_each(slots).await
    }

    /// All at the same time: one that hangs keeps no other from being probed.
    async fn probe_each(&self, slots: Vec<Slot>) -> Result<()> {
        try_join_all(slots.into_iter().map(|slot| self.probe_one(slot))).await.map(drop)
    }

    async fn probe_one(&self, before: Slot) -> Result<()> {
        let id = before.row.id;
        let after = match before.store.clone() {
            Some(store) => self.probe(before, store).await?,
            None => self.open_row(before.row).await?,
        };
        let mut slots = self.write();
        if let Some(slot) = slots.get_mut(&id) {
            log_change(&slot.problem, &after);
            // The record may have changed meanwhile.
            *slot = Slot { row: slot.row.clone(), ..after };
            if let Some(store) = &slot.store {
                store.set_limit(slot.row.limit_bytes);
            }
            let up = if slot.is_connected() { 1.0 } else { 0.0 };
            let name = slot.row.name.clone();
            metrics::gauge!("imageops_store_up", "store" => name.clone()).set(up);
            if let Some(free_bytes) = slot.space.free_bytes {
                metrics::gauge!("imageops_store_free_bytes", "store" => name).set(free_bytes as f64);
            }
        }
        Ok(())
    }

    async fn probe(&self, before: Slot, store: Arc<dyn Store>) -> Result<Slot> {
        let (probed, is_probing) = (Arc::clone(&store), Arc::clone(&before.is_probing));
        // A probe that hangs holds its thread; no second one is given to the same store.
        let probe = (!is_probing.swap(true, Ordering::AcqRel)).then(|| {
            blocking(move || {
                let probed = (probed.probe(), probed.space().unwrap_or_default());
                is_probing.store(false, Ordering::Release);
                probed
            })
        });
        let answer = match probe {
            Some(probe) => timeout(PROBE_MAX, probe).await.ok(),
            None => None,
        };
        let Some(answer) = answer else {
            let problem = "it does not answer".to_owned();
            return Ok(Slot { store: Some(store), problem, probe_time: now(), ..before });
        };
        let (result, space) = answer?;
        let (store, problem) = match result {
            // A full store is there: it is read, and takes bytes again once there is room.
            Ok(()) | Err(Error::NoSpace(_)) => (Some(store), String::new()),
            // Letting go of it lets an operator unmount what is left of it.
            Err(error @ Error::Gone(_)) if before.row.id != self.default => (None, sentence(&error)),
            Err(error) => (Some(store), sentence(&error)),
        };
        Ok(Slot { store, problem, probe_time: now(), space, ..before })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<StoreId, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<StoreId, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connected(row: StoreRow, store: Arc<dyn Store>) -> Result<Slot> {
    blocking(move || Slot::connected(row, store)).await
}

/// Where a path leads whose last component may not be there yet. Blocks.
fn real_path(path: &str) -> PathBuf {
    let path = Path::new(path);
    path.canonicalize().unwrap_or_else(|_| {
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok()).unwrap_or_default();
        parent.join(path.file_name().unwrap_or_default())
    })
}

/// Takes a store for the catalogue, unless it is another one's: what that one stored here would be leftovers to this one.
fn own(store: &dyn Store, catalogue: Uuid) -> imageops_store::Result<()> {
    match store.owner()? {
        Some(owner) if owner == catalogue => Ok(()),
        Some(_) => Err(Error::Unusable(
            "it belongs to another catalogue, as its file `catalogue` says; name that catalogue, or remove the file if the \
             catalogue is gone for good"
                .to_owned(),
        )),
        None => store.set_owner(catalogue),
    }
}

fn unusable(name: &str, error: &Error) -> Failure {
    let message = format!("the store {name} cannot be used: {}", sentence(error));
    Failure::new(Code::FailedPrecondition, reason::STORE_DISCONNECTED, message)
}

/// Tells the operator what has changed; what stays as it is, is told once.
fn log_change(problem_before: &str, now: &Slot) {
    let (store, problem) = (&now.row.name, &now.problem);
    match (problem_before, problem.as_str()) {
        (before, now) if before == now => {}
        (_, "") => tracing::info!(store, "a store is back"),
        _ => tracing::error!(store, problem, "a store is not there; nothing is written to it"),
    }
}

fn row(id: StoreId, name: &str, kind: StoreKind, weight: i32, limit_bytes: Option<u64>) -> StoreRow {
    let time = now();
    StoreRow {
        id,
        name: name.to_owned(),
        kind,
        description: String::new(),
        weight,
        limit_bytes,
        state: StoreState::Enabled,
        revision: 1,
        create_time: time,
        update_time: time,
    }
}

/// No store with this name.
pub fn no_store(name: &str) -> Failure {
    Failure::not_found(reason::STORE_NOT_FOUND, "store", name)
}

fn disconnected() -> Failure {
    let message = "the store is not there now; its operator sees why in `imageops store list`";
    Failure::new(Code::Unavailable, reason::STORE_DISCONNECTED, message).retry_after(Duration::from_secs(60))
}
