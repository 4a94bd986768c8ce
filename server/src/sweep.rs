//! Keeps the catalogue and the store free of what nobody needs any more.
//!
//! At start, alone on the data directory, everything without a row goes: what a former life was making was never
//! acknowledged. Later, jobs and uploads go when their time is over (reliability R-5).

use std::sync::Arc;
use std::time::Duration;

use imageops_catalogue::Catalogue;
use imageops_model::UploadId;
use imageops_store::{ImageRoot, Store};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::app::{App, blocking};
use crate::clock::now;
use crate::failure::Result;

/// Time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(300);

/// The id of this server's worker: it is alone on the store, in this life and the next.
pub fn worker_id(store: &Arc<dyn Store>) -> Uuid {
    store.id().0
}

/// Puts things in order after a former life: leases end, and bytes without a row go.
pub async fn recover(
    catalogue: &dyn Catalogue,
    store: &Arc<dyn Store>,
    image_root: &Arc<ImageRoot>,
) -> Result<()> {
    let freed = catalogue.free_leases(worker_id(store), now()).await?;
    if freed > 0 {
        tracing::info!(jobs = freed, "jobs of a former life go on");
    }
    let listing = Arc::clone(store);
    let (staged, blobs) =
        blocking(move || Ok::<_, imageops_store::Error>((listing.list_staged()?, listing.list()?))).await??;
    let mut orphans = Vec::new();
    for key in staged {
        let open = match Uuid::try_parse(&key) {
            Ok(upload) => catalogue.is_upload_open(UploadId(upload)).await?,
            Err(_) => false,
        };
        if !open {
            orphans.push((key, true));
        }
    }
    for key in blobs {
        if !catalogue.is_blob_referenced(store.id(), &key).await? {
            orphans.push((key, false));
        }
    }
    let (store, root) = (Arc::clone(store), Arc::clone(image_root));
    blocking(move || {
        for (key, is_staged) in &orphans {
            tracing::info!(key, "bytes without a row are removed");
            if *is_staged { store.discard_staged(key)? } else { store.remove(key)? }
        }
        let partials = root.sweep_partials()?;
        if partials > 0 {
            tracing::info!(partials, "unfinished outputs are removed from the image root");
        }
        Ok::<_, imageops_store::Error>(())
    })
    .await??;
    Ok(())
}

/// Sweeps from time to time until shutdown.
pub async fn run(app: Arc<App>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = app.shutdown.cancelled() => return,
        }
        if let Err(failure) = sweep(&app).await {
            tracing::warn!(reason = failure.reason, "a sweep was not completed; the next one goes on");
        }
    }
}

async fn sweep(app: &App) -> Result<()> {
    let time = now();
    let jobs = app
        .catalogue
        .expire_jobs(time.plus_ms(-i64::from(app.config.job_retention_days) * 86_400_000))
        .await?;
    // Ended uploads are kept a day, so that a client that missed the answer can still ask.
    let uploads = app.catalogue.expire_uploads(time, time.plus_ms(-86_400_000)).await?;
    for id in &uploads {
        let session = app.uploads.session(*id);
        let mut hold = session.take_over().await;
        *hold.ingest = None;
        let (store, key) = (Arc::clone(&app.store), id.0.to_string());
        blocking(move || store.discard_staged(&key)).await??;
        app.uploads.forget(*id);
    }
    let images = empty_trash(app).await?;
    // Rows first: bytes without a row are found again, a row without bytes would be a lie.
    app.remove_doomed().await?;
    if jobs > 0 || !uploads.is_empty() || images > 0 {
        tracing::info!(jobs, uploads = uploads.len(), images, "expired");
    }
    let (queued, running) = app.catalogue.count_jobs().await?;
    metrics::gauge!("imageops_jobs_queued").set(queued as f64);
    tracing::debug!(queued, running, "swept");
    Ok(())
}

/// Removes the images that have lain in the trash for their time; how many.
async fn empty_trash(app: &App) -> Result<usize> {
    let mut removed = 0;
    loop {
        let images = app.catalogue.purge_expired_images(now()).await?;
        if images.is_empty() {
            return Ok(removed);
        }
        removed += images.len();
    }
}
