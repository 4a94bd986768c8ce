//! CopyImage and RemoveReplica.

use std::sync::Arc;

use imageops::v1;
use imageops_catalogue::{Error, Replica};
use imageops_model::{CopySpec, JobKind, JobSpec, ReplicaState, StoreId};
use tonic::Code;

use super::jobs::{Asked, queue, repeated, request_key};
use super::parse_name;
use crate::app::App;
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::stores::no_store;
use crate::{reason, replicas, wire};

/// Queues a copy; while one of the same image into the same store is under way, that one is answered.
pub(super) async fn copy(app: &Arc<App>, caller: &Caller, request: v1::CopyImageRequest) -> Result<v1::Job> {
    let key = request_key(
        JobKind::Copy,
        &request.request_id,
        &v1::CopyImageRequest { request_id: String::new(), ..request.clone() },
    )?;
    if let Some(job) = repeated(app, caller, key, false).await? {
        return Ok(job);
    }
    let id = parse_name("name", &request.name)?;
    let image = app.active_image(&caller.tenant, id).await?;
    let ready = |store: StoreId| {
        image.replicas.iter().any(|copy| copy.store == store && copy.state == ReplicaState::Ready)
    };
    let wanted = app.stores.find(&request.store).map(|slot| slot.row.id);
    let target = match wanted.filter(|store| ready(*store)) {
        // Nothing is left to be done, whether the store takes bytes or not.
        Some(store) => store,
        None => {
            let without: Vec<_> =
                image.replicas.iter().map(|copy| copy.store).filter(|id| ready(*id)).collect();
            app.stores.place(&request.store, Some(image.size_bytes), &without).await?
        }
    };
    let asked = Asked {
        request: key,
        coalesce_key: Some(format!("copy:{}:{}", id.0, target.0)),
        ..Asked::new(JobSpec::Copy(CopySpec { image: id, target }))
    };
    queue(app, caller, asked).await
}

/// Removes the copy in one store.
pub(super) async fn remove(
    app: &App,
    caller: &Caller,
    request: &v1::RemoveReplicaRequest,
) -> Result<v1::Image> {
    let id = parse_name("name", &request.name)?;
    let revision = wire::read_etag(&request.etag)?;
    let store = app.stores.find(&request.store).ok_or_else(|| no_store(&request.store))?.row.id;
    // Copies in stores that are away now, perhaps for good, cannot take its place.
    let image = app.catalogue.get_image(&caller.tenant, id).await?;
    let is_ready = |copy: &Replica| copy.store == store && copy.state == ReplicaState::Ready;
    if image.replicas.iter().any(is_ready) {
        let mut others = replicas::readable(app, &image);
        others.retain(|copy| copy.store != store);
        replicas::open_next(app, (id, image.size_bytes), &mut others.into_iter(), last_replica())
            .await
            .map_err(|_| last_replica())?;
    }
    let removed = app.catalogue.remove_replica(&caller.tenant, id, store, revision, now()).await;
    let row = removed.map_err(|error| match error {
        Error::State { what: "replica" } => last_replica(),
        Error::NotFound { what: "replica" } => {
            Failure::new(Code::NotFound, reason::REPLICA_STATE, "the store holds no copy of the image")
        }
        other => other.into(),
    })?;
    app.remove_doomed().await?;
    Ok(wire::image(&row))
}

fn last_replica() -> Failure {
    let message = "no other copy of the image can be read; copy it first, or delete the image";
    Failure::new(Code::FailedPrecondition, reason::LAST_REPLICA, message)
}
