//! The `Stores` service.

use std::path::{Component, Path, PathBuf};

use imageops::v1;
use imageops_catalogue::Error;
use imageops_model::{DrainSpec, JobSpec, Scope, ScrubSpec, StoreId, StoreKind, StoreState, Tenant};
use tonic::{Code, Request, Response, Status};

use super::{Service, start_once};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::stores::{Slot, no_store};
use crate::{reason, wire};

#[tonic::async_trait]
impl v1::stores_server::Stores for Service {
    async fn list_stores(
        &self,
        request: Request<v1::ListStoresRequest>,
    ) -> Result<Response<v1::ListStoresResponse>, Status> {
        let (caller, _) = self.enter(request, Scope::Read)?;
        let mut stores = Vec::new();
        for slot in self.app.stores.all() {
            stores.push(show(&self.app, &caller, slot).await?);
        }
        Ok(Response::new(v1::ListStoresResponse { stores }))
    }

    async fn get_store(
        &self,
        request: Request<v1::GetStoreRequest>,
    ) -> Result<Response<v1::GetStoreResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        let store = show(&self.app, &caller, find(&self.app, &request.name)?).await?;
        Ok(Response::new(v1::GetStoreResponse { store: Some(store) }))
    }

    async fn register_store(
        &self,
        request: Request<v1::RegisterStoreRequest>,
    ) -> Result<Response<v1::RegisterStoreResponse>, Status> {
        let (caller, request) = self.enter_as_operator(request).await?;
        let store = register(&self.app, &caller, request).await?;
        caller.record.made(&store.name);
        Ok(Response::new(v1::RegisterStoreResponse { store: Some(store) }))
    }

    async fn update_store(
        &self,
        request: Request<v1::UpdateStoreRequest>,
    ) -> Result<Response<v1::UpdateStoreResponse>, Status> {
        let (caller, request) = self.enter_as_operator(request).await?;
        let store = update(&self.app, &caller, request).await?;
        Ok(Response::new(v1::UpdateStoreResponse { store: Some(store) }))
    }

    async fn remove_store(
        &self,
        request: Request<v1::RemoveStoreRequest>,
    ) -> Result<Response<v1::RemoveStoreResponse>, Status> {
        let (_, request) = self.enter_as_operator(request).await?;
        remove(&self.app, &request.name).await?;
        Ok(Response::new(v1::RemoveStoreResponse {}))
    }

    async fn drain_store(
        &self,
        request: Request<v1::DrainStoreRequest>,
    ) -> Result<Response<v1::DrainStoreResponse>, Status> {
        let (caller, request) = self.enter_as_operator(request).await?;
        let job = drain(&self.app, &request.name).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::DrainStoreResponse { job: Some(job) }))
    }

    async fn scrub_store(
        &self,
        request: Request<v1::ScrubStoreRequest>,
    ) -> Result<Response<v1::ScrubStoreResponse>, Status> {
        let (_, request) = self.enter_as_operator(request).await?;
        let store = find(&self.app, &request.name)?.row.id;
        let spec = JobSpec::Scrub(ScrubSpec { store });
        let job = start_once(&self.app, &Tenant::built_in(), spec, work_key("scrub", store)).await?;
        Ok(Response::new(v1::ScrubStoreResponse { job: Some(wire::job(&job, &self.app.config)?) }))
    }
}

impl Service {
    /// The caller of a request that concerns the service as a whole: an administrator of the built-in tenant.
    pub(super) async fn enter_as_operator<T: 'static>(&self, request: Request<T>) -> Result<(Caller, T)> {
        let (caller, request) = self.enter(request, Scope::Admin)?;
        require_operator(&caller)?;
        Ok((caller, request))
    }
}

/// Refuses whoever is no administrator of the built-in tenant.
pub(super) fn require_operator(caller: &Caller) -> Result<()> {
    caller.allow(Scope::Admin)?;
    if caller.tenant.is_built_in() {
        return Ok(());
    }
    let message = "this belongs to the administrators of the built-in tenant";
    Err(Failure::new(Code::PermissionDenied, reason::SCOPE_MISSING, message).with("scope", "admin"))
}

/// The coalescing key of work on a store: asked for twice it is done once.
pub(crate) fn work_key(work: &str, store: StoreId) -> String {
    format!("{work}:{store}")
}

fn find(app: &App, name: &str) -> Result<Slot> {
    app.stores.find(name).ok_or_else(|| no_store(name))
}

/// A store as the caller may see it. Where it lies is the built-in tenant's to know; what all tenants together have in it,
/// which tells of what the others do, the operator's.
async fn show(app: &App, caller: &Caller, slot: Slot) -> Result<v1::Store> {
    let usage = match require_operator(caller) {
        Ok(()) => Some(app.stores.counts.of(&*app.catalogue, slot.row.id).await?),
        Err(_) => None,
    };
    let mut store = wire::store(&slot, usage);
    if !caller.tenant.is_built_in() {
        store.place = None;
        store.status_message.clear();
    }
    Ok(store)
}

async fn register(app: &App, caller: &Caller, request: v1::RegisterStoreRequest) -> Result<v1::Store> {
    let store = request.store.ok_or_else(|| Failure::invalid("store", "is missing"))?;
    let setting = wire::read_store(&store)?;
    if let StoreKind::Directory { path } = &setting.kind {
        let (roots, path) = (app.config.store_roots.clone(), PathBuf::from(path));
        blocking(move || check_root(&roots, &path)).await??;
    }
    let known = app.stores.find(&setting.name);
    if known.is_some_and(|known| known.row.kind != setting.kind) {
        let message = "a store with this name lies elsewhere; take another name, or remove it first";
        return Err(Failure::new(Code::AlreadyExists, reason::STORE_EXISTS, message));
    }
    let slot = app.stores.register(&*app.catalogue, &setting).await?;
    let state = wire::read_store_state(store.state)?;
    let change = imageops_catalogue::StoreChange {
        description: (!store.description.is_empty()).then_some(store.description),
        state: state.filter(|state| *state != slot.row.state),
        ..Default::default()
    };
    let slot = if change == Default::default() {
        slot
    } else {
        let row = app.catalogue.update_store(slot.row.id, change, None, now()).await?;
        app.stores.update(row.clone());
        slot.with(row)
    };
    show(app, caller, slot).await
}

/// A directory that comes over the API lies below one that the configuration names: a key must not make the server write
/// anywhere else.
fn check_root(roots: &[PathBuf], path: &Path) -> Result<()> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // Links are followed: what counts is where they lead.
    let place =
        path.canonicalize().or_else(|error| path.parent().map_or(Err(error), Path::canonicalize)).ok();
    let inside = place.is_some_and(|place| {
        roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| place.starts_with(root))
    });
    if plain && inside {
        return Ok(());
    }
    let message =
        "the directory lies in none of the server's --store-roots, or what it lies in does not exist";
    Err(Failure::invalid_as(reason::STORE_ROOT, "store.directory.path", message))
}

async fn update(app: &App, caller: &Caller, request: v1::UpdateStoreRequest) -> Result<v1::Store> {
    let store = request.store.ok_or_else(|| Failure::invalid("store", "is missing"))?;
    let slot = find(app, &store.name)?;
    let revision = wire::read_etag(&store.etag)?;
    let change = wire::read_store_change(&slot.row.kind, store, request.update_mask)?;
    let row = app.catalogue.update_store(slot.row.id, change, revision, now()).await?;
    app.stores.update(row);
    show(app, caller, find(app, &slot.row.name)?).await
}

async fn remove(app: &App, name: &str) -> Result<()> {
    let slot = find(app, name)?;
    let not_empty = |message: &str| Failure::new(Code::FailedPrecondition, reason::STORE_NOT_EMPTY, message);
    if slot.row.id == app.stores.default_id() {
        return Err(not_empty("the store in the data directory stays; disable it to keep new bytes away"));
    }
    app.catalogue.remove_store(slot.row.id).await.map_err(|error| match error {
        Error::State { .. } => not_empty("the store still holds images or open uploads; drain it first"),
        other => other.into(),
    })?;
    app.stores.remove(slot.row.id);
    Ok(())
}

async fn drain(app: &App, name: &str) -> Result<v1::Job> {
    let slot = find(app, name)?;
    let others = app.stores.all().iter().any(|other| {
        other.row.id != slot.row.id && other.row.state == StoreState::Enabled && other.is_connected()
    });
    if !others {
        let message = "there is no other store that takes bytes; register or enable one first";
        return Err(Failure::new(Code::FailedPrecondition, reason::STORE_DISABLED, message));
    }
    let change = imageops_catalogue::StoreChange { state: Some(StoreState::Draining), ..Default::default() };
    app.stores.update(app.catalogue.update_store(slot.row.id, change, None, now()).await?);
    let spec = JobSpec::Drain(DrainSpec { store: slot.row.id });
    let job = start_once(app, &Tenant::built_in(), spec, work_key("drain", slot.row.id)).await?;
    wire::job(&job, &app.config)
}
