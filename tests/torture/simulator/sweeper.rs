//! The sweeper as `server/src/sweep.rs` has it: recovery at a start, expiry and the collector later.

use std::collections::BTreeMap;
use std::rc::Rc;

use imageops_catalogue::Catalogue as _;
use imageops_model::UploadId;
use uuid::Uuid;

use super::disk::Place;
use super::server::Life;
use super::{Trouble, uploads, worker};

const INTERVAL_MS: i64 = 300_000;
const GRACE_MS: i64 = 900_000;
const DAY_MS: i64 = 86_400_000;

/// Puts things in order after a former life.
pub async fn recover(life: &Life) -> Result<(), Trouble> {
    let world = &life.world;
    let now = world.now.get();
    let id = worker::identity(life.number);
    world.change("leases are freed", |rows| async move { rows.free_leases(id, now).await }).await?;
    for name in life.disk(|disk| disk.names(Place::Staging)) {
        if !is_wanted(life, &name).await? {
            life.discard(&name).await;
        }
    }
    // A bucket is shared: what has no row yet may be another server's.
    if world.bucket.is_none() {
        for blob in world.blobs() {
            if !life.is_referenced(&blob).await? {
                life.remove(&blob).await;
            }
        }
    }
    Ok(())
}

/// Whether a staged file is that of an open upload.
async fn is_wanted(life: &Life, name: &str) -> Result<bool, Trouble> {
    let Ok(id) = Uuid::try_parse(name) else { return Ok(false) };
    life.world.ask("is the upload open?", |rows| async move { rows.is_upload_open(UploadId(id)).await }).await
}

/// Sweeps for ever.
pub async fn run(life: Rc<Life>) {
    loop {
        life.world.sleep(INTERVAL_MS).await;
        // The next one goes on.
        let _ = sweep(&life).await;
    }
}

async fn sweep(life: &Life) -> Result<(), Trouble> {
    let world = &life.world;
    let now = world.now.get();
    let expired = world
        .change("uploads expire", |rows| async move { rows.expire_uploads(now, now.plus_ms(-DAY_MS)).await })
        .await?;
    for id in expired {
        uploads::drop_staged(life, id).await;
    }
    world.change("the trash is emptied", |rows| async move { rows.purge_expired_images(now).await }).await?;
    life.remove_doomed().await?;
    collect(life).await?;
    for name in life.disk(|disk| disk.names(Place::Staging)) {
        // What jobs stage goes with them.
        if Uuid::try_parse(&name).is_ok() && !is_wanted(life, &name).await? {
            life.discard(&name).await;
        }
    }
    Ok(())
}

/// Removes what has had no row for the time of grace.
async fn collect(life: &Life) -> Result<(), Trouble> {
    let mut seen = BTreeMap::new();
    for blob in life.world.blobs() {
        if life.is_referenced(&blob).await? {
            continue;
        }
        let now = life.world.now.get();
        let since = life.orphans.borrow().get(&blob).copied().unwrap_or(now);
        if since.plus_ms(GRACE_MS) > now {
            seen.insert(blob, since);
        } else {
            life.remove(&blob).await;
        }
    }
    life.orphans.replace(seen);
    Ok(())
}
