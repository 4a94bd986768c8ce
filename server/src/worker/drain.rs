//! A drain job: every image of a store gets a copy elsewhere, then the one in the store goes.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use imageops_catalogue::{Error, ImageRow, JobOutcome, JobRow};
use imageops_model::{CompanionKind, DrainSpec, ImageId, ImageState, JobPhase, StoreId};
use serde::{Deserialize, Serialize};
use tonic::Code;
use uuid::Uuid;

use super::run::result_of;
use super::scrub::IMAGES_MAX;
use super::tracker::{Meter, Tracker};
use super::transfer::{Target, ready, transfer};
use super::{Stop, still_wanted};
use crate::app::App;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::{reason, replicas, stored};

/// Images that are asked for at a time.
const PAGE: u32 = 100;

/// What a drain job leaves in its row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct DrainOutcome {
    /// Images whose copy is gone from the store.
    pub moved_images: u64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
    /// Images that stay, at most 1,000.
    pub kept_images: BTreeSet<ImageId>,
}

/// Empties a store, image by image; one that cannot be moved does not keep the others. An attempt after a crash finds what is
/// left.
pub(super) async fn drain(
    app: &Arc<App>,
    row: &JobRow,
    spec: &DrainSpec,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let usage = app.catalogue.store_usage(spec.store).await?;
    let mut drain = Drain {
        app,
        store: spec.store,
        stop,
        staged: format!("job-{}-{}", row.id.0, row.attempt),
        meter: Meter::new(tracker, JobPhase::Copying, usage.bytes),
        whole: HashSet::new(),
    };
    let mut outcome = DrainOutcome::default();
    let mut after = None;
    loop {
        let images = app.catalogue.list_replicas(spec.store, after, PAGE).await?;
        let Some(last) = images.last() else { break };
        after = Some(last.id);
        for image in images {
            still_wanted(stop)?;
            if let Err(failure) = drain.empty_of(&image, &mut outcome).await {
                // Told to stop is no failure of the image.
                still_wanted(stop)?;
                tracing::warn!(image = %image.id, reason = failure.reason, failure.message, "an image stays");
                if outcome.kept_images.len() < IMAGES_MAX {
                    outcome.kept_images.insert(image.id);
                }
            }
        }
        app.remove_doomed().await?;
    }
    Ok(JobOutcome::Succeeded { result: result_of(&outcome)?, image: None, replica: None })
}

struct Drain<'a> {
    app: &'a Arc<App>,
    store: StoreId,
    stop: &'a Stop,
    staged: String,
    meter: Meter,
    /// Bytes elsewhere that this attempt has written or read and found whole.
    whole: HashSet<(StoreId, String)>,
}

impl Drain<'_> {
    async fn empty_of(&mut self, listed: &ImageRow, outcome: &mut DrainOutcome) -> Result<()> {
        let catalogue = &self.app.catalogue;
        // Read again: the page may be as old as many copies take.
        let image = match catalogue.get_image(&listed.tenant, listed.id).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            image => image?,
        };
        if !image.replicas.iter().any(|replica| replica.store == self.store) {
            return Ok(());
        }
        if image.companion.as_ref().is_some_and(|companion| companion.kind == CompanionKind::Conversion) {
            // Made again when it is asked for.
            return Ok(catalogue.purge_companion(image.id, now()).await?);
        }
        let elsewhere = replicas::readable(self.app, &image).iter().any(|copy| copy.store != self.store);
        if !elsewhere && !self.share(&image).await? {
            self.copy(&image).await?;
            outcome.copied_bytes += image.size_bytes;
        }
        catalogue.remove_replica(&image.tenant, image.id, self.store, None, now()).await?;
        outcome.moved_images += 1;
        Ok(())
    }

    /// Lets the image have the bytes that an image with the same has elsewhere, and that were just read and found whole.
    async fn share(&mut self, image: &ImageRow) -> Result<bool> {
        if image.state != ImageState::Active {
            return Ok(false);
        }
        let bytes = (image.sha256.as_str(), image.size_bytes);
        for slot in self.app.stores.all().into_iter().filter(|slot| slot.row.id != self.store) {
            let store = slot.row.id;
            if slot.store.is_none() || image.replicas.iter().any(|known| known.store == store) {
                continue;
            }
            let found = self.app.catalogue.find_same(&image.tenant, bytes.0, bytes.1, store).await?;
            let Some((shares, blob)) = found else { continue };
            let is_known = self.whole.contains(&(store, blob.clone()));
            if !is_known && !stored::is_whole(self.app, shares, (store, &blob), bytes).await? {
                continue;
            }
            self.whole.insert((store, blob.clone()));
            let copy = ready(store, blob);
            let added =
                self.app.catalogue.add_replica(&image.tenant, image.id, copy, Some(shares), None, now());
            match added.await {
                Ok(_) => return Ok(true),
                // The other image went in between.
                Err(Error::Conflict { what: "blob" }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    async fn copy(&mut self, image: &ImageRow) -> Result<()> {
        if image.state != ImageState::Active {
            // No copy is made of what may go, or is not to be trusted.
            let message = "only an active image gets another copy";
            return Err(Failure::new(Code::FailedPrecondition, reason::IMAGE_NOT_ACTIVE, message));
        }
        let without: Vec<StoreId> = image.replicas.iter().map(|replica| replica.store).collect();
        let store = self.app.stores.place("", Some(image.size_bytes), &without).await?;
        let blob = Uuid::new_v4().to_string();
        let target = Target { store, staged: self.staged.clone(), blob: blob.clone() };
        let meter = self.meter.clone();
        let replica = transfer(self.app, image, target, self.stop, move |bytes| meter.add(bytes)).await?;
        let added = self.app.catalogue.add_replica(&image.tenant, image.id, replica, None, None, now()).await;
        if added.is_err() {
            self.app.remove_unless_referenced(store, &blob).await;
        }
        added?;
        self.whole.insert((store, blob));
        Ok(())
    }
}
