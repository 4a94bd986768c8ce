//! A drain job: every image of a store gets a copy elsewhere, then the one in the store goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use imageops_catalogue::{Error, ImageRow, JobOutcome, JobRow};
use imageops_model::{CompanionKind, DrainSpec, ImageId, ImageState, JobPhase, StoreId};
use serde::{Deserialize, Serialize};
use tonic::Code;
use uuid::Uuid;

use super::run::result_of;
use super::scrub::IMAGES_MAX;
use super::tracker::{Meter, Tracker};
use super::transfer::{Target, transfer};
use super::{Stop, still_wanted};
use crate::app::App;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::{reason, replicas};

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
    let drain = Drain {
        app,
        store: spec.store,
        stop,
        staged: format!("job-{}-{}", row.id.0, row.attempt),
        meter: Meter::new(tracker, JobPhase::Copying, usage.bytes),
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
}

impl Drain<'_> {
    async fn empty_of(&self, listed: &ImageRow, outcome: &mut DrainOutcome) -> Result<()> {
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
        if !elsewhere {
            self.copy(&image).await?;
            outcome.copied_bytes += image.size_bytes;
        }
        catalogue.remove_replica(&image.tenant, image.id, self.store, None, now()).await?;
        outcome.moved_images += 1;
        Ok(())
    }

    async fn copy(&self, image: &ImageRow) -> Result<()> {
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
        let added = self.app.catalogue.add_replica(&image.tenant, image.id, replica, None, now()).await;
        if added.is_err() {
            self.app.remove_unless_referenced(store, &blob).await;
        }
        added?;
        Ok(())
    }
}
