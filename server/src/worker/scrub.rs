//! A scrub job: every byte of a store is read and compared with its digest (reliability R-9).

use std::collections::BTreeSet;
use std::sync::Arc;

use imageops_catalogue::{BlobToVerify, JobOutcome, JobRow};
use imageops_model::{ImageId, JobPhase, Micros, ScrubSpec, StoreId};
use imageops_store::Error;
use serde::{Deserialize, Serialize};

use super::run::{engine, result_of};
use super::tracker::{Meter, Tracker};
use super::{Stop, still_wanted};
use crate::app::{App, blocking};
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::reading::{Reading, read_whole};
use crate::replicas;

/// Blobs that are asked for at a time.
const PAGE: u32 = 100;
/// Images that a result names at most.
pub(super) const IMAGES_MAX: usize = 1_000;
/// How often what cannot be read, or is not what it should be, is tried before it counts as damaged, the store being there.
const READS: u32 = 2;

/// What a scrub job leaves in its row.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ScrubOutcome {
    /// Blobs that have their digest.
    pub verified_blobs: u64,
    /// Their bytes.
    pub verified_bytes: u64,
    /// Images with a damaged copy, at most 1,000.
    pub damaged_images: BTreeSet<ImageId>,
}

/// Reads what lay in the store when the job was asked for. What was read is noted blob by blob, so an attempt after a crash
/// goes on where the one before was.
pub(super) async fn scrub(
    app: &Arc<App>,
    row: &JobRow,
    spec: &ScrubSpec,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let usage = app.catalogue.store_usage(spec.store).await?;
    let meter = Meter::new(tracker, JobPhase::Checking, usage.bytes);
    let mut outcome = ScrubOutcome::default();
    loop {
        let blobs = app.catalogue.list_blobs_to_verify(spec.store, row.create_time, PAGE).await?;
        if blobs.is_empty() {
            break;
        }
        for blob in blobs {
            still_wanted(stop)?;
            verify(app, spec.store, &blob, row.create_time, (stop, &meter), &mut outcome).await?;
        }
    }
    // The next sweep tells it as well: that it could not be told is no fault of the scrub.
    if let Err(failure) = replicas::tell_damage(app).await {
        tracing::warn!(reason = failure.reason, "what is damaged was not counted");
    }
    Ok(JobOutcome::Succeeded { result: result_of(&outcome)?, image: None, replica: None })
}

async fn verify(
    app: &Arc<App>,
    store: StoreId,
    blob: &BlobToVerify,
    since: Micros,
    (stop, meter): (&Stop, &Meter),
    outcome: &mut ScrubOutcome,
) -> Result<()> {
    if is_sound(app, store, blob, stop, meter).await? {
        // Never before the job was asked for, whatever the clock says now: else the same blob would come again.
        app.catalogue.mark_verified(store, &blob.blob, now().max(since)).await?;
        outcome.verified_blobs += 1;
        outcome.verified_bytes += blob.size_bytes;
        return Ok(());
    }
    for image in replicas::mark_damaged(app, store, &blob.blob).await? {
        if outcome.damaged_images.len() < IMAGES_MAX {
            outcome.damaged_images.insert(image.id);
        }
    }
    Ok(())
}

/// Whether a blob has its digest. An error when it is the store that cannot be read.
async fn is_sound(
    app: &Arc<App>,
    store: StoreId,
    blob: &BlobToVerify,
    stop: &Stop,
    meter: &Meter,
) -> Result<bool> {
    for _ in 0..READS {
        match read(app, store, blob, stop, meter).await? {
            Ok(reading @ Reading::Whole { .. }) if reading.is(&blob.sha256, blob.size_bytes) => {
                return Ok(true);
            }
            // Once more: an upload of the same bytes may have made it whole meanwhile.
            Ok(Reading::Whole { .. }) => continue,
            Ok(Reading::Failed(error)) => match Error::from(error) {
                error if error.is_away() => return Err(error.into()),
                error => tracing::warn!(%store, blob = blob.blob, %error, "stored bytes cannot be read"),
            },
            Err(Error::Corrupt) => return Ok(false),
            Err(error) if error.is_away() => return Err(error.into()),
            Err(error) => tracing::warn!(%store, blob = blob.blob, %error, "stored bytes cannot be opened"),
        }
        // Bytes are at fault only where everything else in the store can be read.
        let opened = app.stores.readable(store).ok_or_else(replicas::none_there)?;
        match blocking(move || opened.probe()).await? {
            Ok(()) | Err(Error::NoSpace(_)) => {}
            Err(error) => {
                app.stores.report(store, &error);
                return Err(Failure::from(error));
            }
        }
    }
    Ok(false)
}

async fn read(
    app: &Arc<App>,
    store: StoreId,
    blob: &BlobToVerify,
    stop: &Stop,
    meter: &Meter,
) -> Result<imageops_store::Result<Reading>> {
    let opened = match replicas::open(app, store, &blob.blob).await? {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    let (cancel, meter) = (stop.token(), meter.clone());
    engine(move || Ok(Ok(read_whole(&*opened, &cancel, |_, _| Ok(()), move |bytes| meter.add(bytes))?))).await
}
