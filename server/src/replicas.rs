//! The copies of an image's bytes: which to read, and what follows when one is not what it must be.

use std::vec::IntoIter;

use imageops_catalogue::{ImageRow, Replica};
use imageops_model::{ImageId, ReplicaState, StoreId};
use imageops_store::{Blob, Kind};
use tonic::Code;

use crate::app::{App, blocking};
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::readers::Kept;
use crate::reason;
use crate::stores::Slot;

/// The ready copies of an image in stores that are there: that in the store with the highest weight first, and those in stores
/// that take no writes now, and may not answer, last.
pub fn readable(app: &App, image: &ImageRow) -> Vec<Replica> {
    let ready = |store| {
        image
            .replicas
            .iter()
            .find(|replica| replica.store == store && replica.state == ReplicaState::Ready)
            .cloned()
    };
    let (sound, doubtful): (Vec<_>, Vec<_>) =
        app.stores.all().into_iter().filter(|slot| slot.store.is_some()).partition(Slot::is_connected);
    sound.into_iter().chain(doubtful).filter_map(|slot| ready(slot.row.id)).collect()
}

/// Opens one copy.
pub async fn open(app: &App, store: StoreId, blob: &str) -> Result<imageops_store::Result<Box<dyn Blob>>> {
    let Some(opened) = app.stores.readable(store) else {
        return Ok(Err(imageops_store::Error::Gone("the store is not there".to_owned())));
    };
    let blob = blob.to_owned();
    let opened = match opened.kind() {
        Kind::Directory => blocking(move || opened.open(&blob)).await?,
        _ => {
            let Some(reader) = app.readers.read(store, &blob) else {
                return Ok(Err(imageops_store::Error::NotFound));
            };
            let opened = blocking(move || opened.open(&blob)).await?;
            opened.map(|blob| Box::new(Kept::new(blob, reader)) as Box<dyn Blob>)
        }
    };
    Ok(opened.inspect_err(|error| app.stores.report(store, error)))
}

/// Opens the next copy that can be opened and has its length; `failure` when there is none.
pub async fn open_next(
    app: &App,
    (image, size_bytes): (ImageId, u64),
    copies: &mut IntoIter<Replica>,
    mut failure: Failure,
) -> Result<(StoreId, Box<dyn Blob>)> {
    for copy in copies {
        match open(app, copy.store, &copy.blob).await? {
            Ok(blob) if blob.size_bytes() == size_bytes => return Ok((copy.store, blob)),
            // Rows without their bytes cannot exist: someone removed them from the store, or cut them.
            Ok(_) | Err(imageops_store::Error::NotFound) => {
                give_up(app, &copy).await?;
                failure = damaged();
            }
            Err(error) => {
                tracing::warn!(%image, store = %copy.store, %error, "a copy cannot be opened");
                failure = error.into();
            }
        }
    }
    Err(failure)
}

/// A copy is not what its row tells. It is damaged where its store is there: what is looked for in the wrong place proves
/// nothing.
async fn give_up(app: &App, copy: &Replica) -> Result<()> {
    let Some(store) = app.stores.readable(copy.store) else { return Ok(()) };
    match blocking(move || store.probe()).await? {
        // A store that is full, or read-only, is there.
        Err(error) if error.is_away() => app.stores.report(copy.store, &error),
        _ => drop(mark_damaged(app, copy.store, &copy.blob).await?),
    }
    Ok(())
}

/// Opens the bytes of an image: the first of its copies that can be opened.
pub async fn open_first(app: &App, image: &ImageRow) -> Result<Box<dyn Blob>> {
    let mut copies = readable(app, image).into_iter();
    let (_, blob) = open_next(app, (image.id, image.size_bytes), &mut copies, none_there()).await?;
    Ok(blob)
}

/// Bytes that were read do not have their digest, or cannot be read while their store can: nobody reads them any more, and
/// an image without another ready copy goes into quarantine (reliability R-9). The images that name them; none when they
/// went meanwhile.
pub async fn mark_damaged(app: &App, store: StoreId, blob: &str) -> Result<Vec<ImageRow>> {
    let images = app.catalogue.mark_damaged(store, blob, damaged().into_job_failure(), now()).await?;
    if !images.is_empty() {
        metrics::counter!("imageops_scrub_mismatch_total").increment(1);
    }
    let lost = images.iter().filter(|image| image.ready_replica().is_none()).count();
    metrics::counter!("imageops_lost_total").increment(lost as u64);
    for image in &images {
        tracing::error!(
            %store,
            blob,
            image = %image.id,
            state = image.state.as_str(),
            "stored bytes do not have their digest; they are not read any more"
        );
    }
    Ok(images)
}

/// Measures what is damaged now: what alerts last for. It reads all that is, so sweeps and scrubs do it, not each reader
/// that finds damage.
pub async fn tell_damage(app: &App) -> Result<()> {
    let damage = app.catalogue.count_damage().await?;
    metrics::gauge!("imageops_copies_damaged").set(damage.copies as f64);
    metrics::gauge!("imageops_images_lost").set(damage.images as f64);
    Ok(())
}

/// What a reader is told of such bytes.
pub fn damaged() -> Failure {
    let message = "the stored bytes do not have their digest any more; upload the image again";
    Failure::new(Code::DataLoss, reason::BYTES_DAMAGED, message)
}

/// No copy is in a store that is there.
pub fn none_there() -> Failure {
    let message = "no store that holds the image's bytes is there now; try again";
    Failure::new(Code::Unavailable, reason::STORE_DISCONNECTED, message)
        .retry_after(std::time::Duration::from_secs(60))
}
