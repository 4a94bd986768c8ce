//! Keeps the catalogue and the stores free of what nobody needs any more.
//!
//! At start, alone on the directory stores, everything without a row goes: what a former life was making was never
//! acknowledged. Later, jobs and uploads go when their time is over, and `Orphans` collects what calls that were cut off
//! left in a store (reliability R-5).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use imageops_catalogue::{Catalogue, JobCounts};
use imageops_model::{JobSpec, JobState, Micros, ScrubSpec, StoreId, StoreState, Tenant, UploadId};
use imageops_store::{Entry, ImageRoot, Kind, Store};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::app::{App, blocking};
use crate::audit::Deed;
use crate::clock::{Calendar, now};
use crate::failure::Result;
use crate::replicas;
use crate::rpc::{start_once, work_key};
use crate::stores::{Slot, Stores};
use crate::upload::give_up;

/// Time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(300);
/// How long a blob must be known without a row before it goes: many times what lies between publishing and the row.
const GRACE: Duration = Duration::from_secs(900);
/// Time between two looks at all that lies in the stores: a bucket of a million objects is listed by a thousand requests. What
/// one look finds the next one removes, so it is gone within the hour (reliability R-5).
const COLLECT_INTERVAL: Duration = Duration::from_secs(1_200);
/// Blobs that the catalogue is asked for at once: one at a time, a million would keep a start waiting for minutes.
const BLOBS_ASKED: usize = 1_000;
/// Age at which parts of objects that were never completed go: more than the longest upload to a bucket.
const INCOMPLETE_AGE: Duration = Duration::from_secs(86_400);
/// Blobs without a row that a crash may leave, whatever the share of all that they are.
const ORPHANS_MIN: usize = 16;
/// A day.
const DAY_MS: i64 = 86_400_000;
/// Conversions that one sweep evicts at most.
const EVICTIONS_MAX: u32 = 100;

/// Puts things in order after a former life: its leases end, and bytes without a row go.
pub async fn recover(catalogue: &dyn Catalogue, worker: Uuid, stores: &Stores) -> Result<()> {
    let freed = catalogue.free_leases(worker, now()).await?;
    if freed > 0 {
        tracing::info!(jobs = freed, "jobs of a former life go on");
    }
    for slot in stores.all() {
        let (name, id) = (slot.row.name, slot.row.id);
        let Some(store) = slot.store else { continue };
        if let Err(failure) = recover_store(catalogue, id, &store).await {
            tracing::warn!(
                store = name,
                reason = failure.reason,
                "a store was not tidied; the collector does it"
            );
        }
    }
    Ok(())
}

/// Removes what a former life had not finished beneath the image root.
pub async fn recover_image_root(image_root: &Arc<ImageRoot>) -> Result<()> {
    let root = Arc::clone(image_root);
    let partials = blocking(move || root.sweep_partials()).await??;
    if partials > 0 {
        tracing::info!(partials, "unfinished outputs are removed from the image root");
    }
    Ok(())
}

async fn recover_store(catalogue: &dyn Catalogue, id: StoreId, store: &Arc<dyn Store>) -> Result<()> {
    let listing = Arc::clone(store);
    for entry in blocking(move || listing.list_staged()).await?? {
        if let Ok(upload) = Uuid::try_parse(&entry.key)
            && catalogue.abort_composition(UploadId(upload), now()).await?
        {
            tracing::info!(upload = entry.key, "a session that was being composed can be composed again");
        }
        if !is_staged_wanted(catalogue, &entry.key).await? {
            tracing::info!(key = entry.key, "staged bytes without a row are removed");
            let store = Arc::clone(store);
            blocking(move || store.discard_staged(&entry.key)).await??;
        }
    }
    // A bucket is shared: what has no row yet may be another server's, just published.
    if store.kind() != Kind::Directory {
        return Ok(());
    }
    let listing = Arc::clone(store);
    let entries = blocking(move || listing.list()).await??;
    let all = entries.len();
    let orphans = without_row(catalogue, id, entries).await?;
    if is_suspicious(orphans.len(), all) {
        tracing::error!(
            store = %id,
            blobs = all,
            without_a_row = orphans.len(),
            "most bytes of a store have no row, so none are removed: is this the catalogue that it was filled with?"
        );
        return Ok(());
    }
    for Entry { key, .. } in orphans {
        tracing::info!(key, "bytes without a row are removed");
        let store = Arc::clone(store);
        // One that cannot be removed keeps no other.
        if let Err(error) = blocking(move || store.remove(&key)).await? {
            tracing::warn!(%error, "bytes without a row were not removed; the collector tries again");
        }
    }
    Ok(())
}

/// Those of a store's blobs that have no row.
async fn without_row(catalogue: &dyn Catalogue, store: StoreId, mut blobs: Vec<Entry>) -> Result<Vec<Entry>> {
    // Neighbours in the index are asked for together.
    blobs.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    let mut orphans = Vec::new();
    for asked in blobs.chunks(BLOBS_ASKED) {
        let keys: Vec<_> = asked.iter().map(|entry| entry.key.clone()).collect();
        let without: HashSet<_> = catalogue.list_unreferenced(store, &keys).await?.into_iter().collect();
        orphans.extend(asked.iter().filter(|entry| without.contains(&entry.key)).cloned());
    }
    Ok(orphans)
}

/// Whether so many blobs without a row are more than calls that were cut off leave: then the catalogue is at fault, and what
/// it does not know may be all that there is.
fn is_suspicious(orphans: usize, all: usize) -> bool {
    orphans >= ORPHANS_MIN && orphans > all / 2
}

/// Staged files of uploads bear the upload's id. Those of jobs have other names, and belong to this process alone.
async fn is_staged_wanted(catalogue: &dyn Catalogue, key: &str) -> Result<bool> {
    match Uuid::try_parse(key) {
        Ok(upload) => Ok(catalogue.is_upload_open(UploadId(upload)).await?),
        Err(_) => Ok(false),
    }
}

/// Sweeps from time to time until shutdown.
pub async fn run(app: Arc<App>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut orphans = Orphans::new(&app);
    let mut calendar = Calendar::new(now(), Instant::now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = app.readers.freed() => {
                if let Err(failure) = app.remove_doomed().await {
                    tracing::warn!(reason = failure.reason, "bytes that nobody reads any more stay until the next sweep");
                }
                continue;
            }
            () = app.shutdown.cancelled() => return,
        }
        let time = calendar.read(now(), Instant::now());
        if let Err(failure) = sweep(&app, &mut orphans, time).await {
            tracing::warn!(reason = failure.reason, "a sweep was not completed; the next one goes on");
        }
    }
}

async fn sweep(app: &Arc<App>, orphans: &mut Orphans, time: Micros) -> Result<()> {
    // First: what comes behind it may take long, or end the sweep.
    replicas::tell_damage(app).await?;
    let jobs =
        app.catalogue.expire_jobs(time.plus_ms(-i64::from(app.config.job_retention_days) * DAY_MS)).await?;
    let uploads = expire_uploads(app, time).await?;
    let images = empty_trash(app, time).await?;
    let conversions = evict_conversions(app).await?;
    app.doomed.remove_all(app).await?;
    let ballast = Arc::clone(&app.ballast);
    if let Err(error) = blocking(move || ballast.lay_in()).await? {
        tracing::warn!(%error, "no room is kept for removals on a full disk; the next sweep tries again");
    }
    if jobs + uploads + images + conversions > 0 {
        tracing::info!(jobs, uploads, images, conversions, "expired");
    }
    if let Err(failure) = start_scrubs(app, time).await {
        tracing::warn!(
            reason = failure.reason,
            "a scrub that is due was not begun; the next sweep tries again"
        );
    }
    orphans.collect_when_due(app).await?;
    let JobCounts { queued, running, most } = app.catalogue.count_jobs().await?;
    metrics::gauge!("imageops_jobs_queued").set(queued as f64);
    metrics::gauge!("imageops_jobs_of_one_tenant").set(most as f64);
    tracing::debug!(queued, running, "swept");
    Ok(())
}

/// Gives up uploads that nobody goes on with; how many.
pub async fn expire_uploads(app: &App, time: Micros) -> Result<u64> {
    // Ended uploads are kept a day, so that a client that missed the answer can still ask.
    let uploads = app.catalogue.expire_uploads(time, time.plus_ms(-DAY_MS)).await?;
    for id in &uploads {
        give_up(app, *id).await;
    }
    Ok(uploads.len() as u64)
}

/// Removes the images that have lain in the trash for their time; how many.
async fn empty_trash(app: &App, time: Micros) -> Result<u64> {
    let mut removed = 0;
    loop {
        let images = app.catalogue.purge_expired_images(time).await?;
        if images.is_empty() {
            return Ok(removed);
        }
        removed += images.len() as u64;
        for image in images {
            let deed = Deed {
                method: "Sweep/PurgeImage",
                outcome: "OK",
                tenant: &image.tenant.to_string(),
                subject: &image.id.to_string(),
                sha256: &image.sha256,
                ..Deed::default()
            };
            app.audit.write(deed.told());
        }
    }
}

/// Removes conversions, those that were not asked for longest first, until the rest fits; how many.
async fn evict_conversions(app: &App) -> Result<u64> {
    let mut evicted = 0;
    let conversions = app.catalogue.list_conversions_by_use(EVICTIONS_MAX).await?;
    let mut bytes = conversions.bytes;
    for image in conversions.images {
        if bytes <= app.config.conversion_cache_bytes {
            break;
        }
        app.catalogue.purge_companion(image.id, now()).await?;
        bytes = bytes.saturating_sub(image.size_bytes);
        evicted += 1;
    }
    Ok(evicted)
}

/// Starts a scrub of each store that holds bytes which were not read for the configured time.
async fn start_scrubs(app: &App, time: Micros) -> Result<()> {
    if app.config.scrub_days == 0 {
        return Ok(());
    }
    let before = time.plus_ms(-i64::from(app.config.scrub_days) * DAY_MS);
    for slot in app.stores.all().into_iter().filter(Slot::is_connected) {
        let store = slot.row.id;
        if slot.row.state == StoreState::Draining
            || app.catalogue.list_blobs_to_verify(store, before, 1).await?.is_empty()
        {
            continue;
        }
        let spec = JobSpec::Scrub(ScrubSpec { store });
        let job = start_once(app, &Tenant::built_in(), spec, work_key("scrub", store)).await?;
        if job.state == JobState::Queued {
            tracing::info!(store = slot.row.name, job = %job.id, "a scrub is due");
        }
    }
    Ok(())
}

/// Removes what uploads that have ended left staged while the store was away.
async fn sweep_staged(app: &App, store: &Arc<dyn Store>) -> Result<()> {
    let listing = Arc::clone(store);
    let Ok(entries) = blocking(move || listing.list_staged()).await? else { return Ok(()) };
    for entry in entries {
        let is_old = entry.modified.elapsed().is_ok_and(|age| age > GRACE);
        // What jobs stage bears other names, and goes with them.
        let Ok(upload) = Uuid::try_parse(&entry.key) else { continue };
        if is_old && !app.catalogue.is_upload_open(UploadId(upload)).await? {
            tracing::info!(key = entry.key, "staged bytes without an upload are removed");
            let store = Arc::clone(store);
            if let Err(error) = blocking(move || store.discard_staged(&entry.key)).await? {
                tracing::warn!(%error, "staged bytes were not removed; tried again later");
            }
        }
    }
    Ok(())
}

/// Bytes that lie in the stores without a row.
struct Orphans {
    /// Since when they are known to.
    seen: HashMap<(StoreId, String), Instant>,
    /// Stores all of whose blobs had a row, or are in `seen`: only what is young is asked for again.
    known: HashSet<StoreId>,
    /// A blob that is older than this was published longer ago than any call takes.
    young: Duration,
    collected: Option<Instant>,
}

impl Orphans {
    fn new(app: &App) -> Self {
        // A blob has the age of the last byte that came, and an upload may wait that long for its commit.
        let wait = Duration::from_secs(u64::from(app.config.upload_expiry_hours) * 3_600);
        Self { seen: HashMap::new(), known: HashSet::new(), young: wait + 2 * GRACE, collected: None }
    }

    /// Whether the catalogue is asked for a blob: all once, then those whose row may have failed since.
    fn is_suspect(&self, store: StoreId, entry: &Entry) -> bool {
        let is_young = entry.modified.elapsed().map_or(true, |age| age < self.young);
        is_young || !self.known.contains(&store) || self.seen.contains_key(&(store, entry.key.clone()))
    }

    async fn collect_when_due(&mut self, app: &App) -> Result<()> {
        if self.collected.is_some_and(|last| last.elapsed() < COLLECT_INTERVAL) {
            return Ok(());
        }
        let begun = Instant::now();
        self.collect(app).await?;
        self.collected = Some(begun);
        Ok(())
    }

    /// Removes what has had no row for [`GRACE`]: what lies between publishing and the row takes seconds.
    async fn collect(&mut self, app: &App) -> Result<()> {
        let mut seen = HashMap::new();
        let mut bytes = 0;
        for slot in app.stores.all().into_iter().filter(Slot::is_connected) {
            let Some(store) = slot.store else { continue };
            let id = slot.row.id;
            let listing = Arc::clone(&store);
            let listed = blocking(move || {
                let before = SystemTime::now().checked_sub(INCOMPLETE_AGE).unwrap_or(SystemTime::UNIX_EPOCH);
                listing.sweep_incomplete(before)?;
                listing.list()
            });
            let entries = match listed.await? {
                Ok(entries) => entries,
                Err(error) => {
                    app.stores.report(id, &error);
                    continue;
                }
            };
            let all = entries.len();
            let suspects = entries.into_iter().filter(|entry| self.is_suspect(id, entry)).collect();
            let orphans = without_row(&*app.catalogue, id, suspects).await?;
            let is_suspicious = is_suspicious(orphans.len(), all);
            for entry in orphans {
                let place = (id, entry.key);
                let since = self.seen.get(&place).copied().unwrap_or_else(Instant::now);
                if since.elapsed() < GRACE || is_suspicious {
                    bytes += entry.size_bytes;
                    seen.insert(place, since);
                    continue;
                }
                tracing::info!(store = slot.row.name, key = place.1, "bytes without a row are removed");
                let (store, key) = (Arc::clone(&store), place.1.clone());
                if let Err(error) = blocking(move || store.remove(&key)).await? {
                    tracing::warn!(%error, "bytes without a row were not removed; tried again later");
                    seen.insert(place, since);
                }
            }
            self.known.insert(id);
            sweep_staged(app, &store).await?;
        }
        self.seen = seen;
        metrics::gauge!("imageops_orphans_bytes").set(bytes as f64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_that_knows_little_of_much_is_not_believed() {
        for (orphans, all, expected) in [
            (0, 0, false),
            (15, 15, false),
            (16, 16, true),
            (16, 31, true),
            (16, 32, false),
            (600, 1_000, true),
        ] {
            assert_eq!(is_suspicious(orphans, all), expected, "{orphans} of {all}");
        }
    }
}
