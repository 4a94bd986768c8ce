//! An upload becomes an image.

use imageops_model::{ImageState, JobId, Micros, ReplicaState, StoreId, UploadEvent, UploadId, UploadState};

use super::usage::{self, Amount};
use super::{Connection, companions, doomed, image_rows, images, jobs, records, sessions, uploads};
use crate::rows::{write_number, write_uuid};
use crate::{Committed, Created, Error, ImageRow, NewJob, Replica, Result};

// Never across tenants, and never bytes that are not to be trusted (SEC-29).
pub(super) const SELECT_SAME: &str = "SELECT image_replicas.blob FROM images JOIN image_replicas ON image = images.id \
     WHERE tenant = $1 AND sha256 = $2 AND size_bytes = $3 AND quarantine IS NULL AND store = $4 \
     AND image_replicas.state = 'ready' ORDER BY image_replicas.create_time, images.id LIMIT 1";

pub(super) async fn commit(
    db: &mut Connection,
    id: UploadId,
    image: &ImageRow,
    check_job: &Option<NewJob>,
    now: Micros,
) -> Result<Committed> {
    let before = uploads::load(db, id).await?;
    // A stored part becomes part of an image by the upload that joins it.
    if before.state != UploadState::Open {
        return Err(Error::State { what: uploads::WHAT });
    }
    let mut after = uploads::apply(&before, UploadEvent::Commit, now)?;
    after.image = Some(image.id);
    if before.archive.is_none() {
        // Bytes are flushed before they are committed: all of them are durable now.
        after.durable_bytes = image.size_bytes;
    }
    uploads::save(db, &before, &after).await?;
    let mut held = uploads::held(&before);
    let mut discard = Vec::new();
    if let Some(session) = &before.composes {
        let joined = sessions::dissolve(db, &before.tenant, session, image, now).await?;
        held.bytes = held.bytes.saturating_add(joined.held_bytes);
        discard = joined.parts;
    }

    let (shared, spare) = share(db, image).await?;
    match (&shared.companion, before.record) {
        (Some(companion), None) => {
            // No job made it: the upload stands for the one that its source would remember.
            let made_by = JobId(before.id.0);
            companions::join(db, (&before.tenant, held), made_by, &shared, companion, now).await?;
        }
        (Some(_), Some(_)) => return Err(Error::Conflict { what: images::WHAT }),
        (None, record) => {
            let charge = Amount { images: u64::from(record.is_none()), bytes: image.size_bytes };
            usage::ensure_room(db, &before.tenant, charge, held).await?;
            usage::charge(db, &before.tenant, charge).await?;
            match record {
                Some(record) => records::fill(db, &before, record, &shared, now).await?,
                None => image_rows::insert(db, &before.tenant, &shared, image.size_bytes).await?,
            }
        }
    }
    for replica in spare {
        doomed::doom(db, replica.store, &replica.blob, now).await?;
    }
    let check_job = match check_job {
        Some(job) => match jobs::create(db, job.clone(), u64::MAX).await? {
            Created::New(row) | Created::Existing(row) => Some(row),
        },
        None => None,
    };
    let image = images::get(db, &before.tenant, image.id).await?;
    Ok(Committed { upload: after, image, check_job, discard })
}

/// The image with the bytes that the tenant has already, where it has; and what came in vain.
async fn share(db: &mut Connection, image: &ImageRow) -> Result<(ImageRow, Vec<Replica>)> {
    let (mut shared, mut spare) = (image.clone(), Vec::new());
    if image.state == ImageState::Quarantined || image.sha256.is_empty() {
        return Ok((shared, spare));
    }
    for replica in shared.replicas.iter_mut().filter(|replica| replica.state == ReplicaState::Ready) {
        if let Some(blob) = find_same(db, image, replica.store).await?.filter(|blob| *blob != replica.blob) {
            spare.push(replica.clone());
            replica.blob = blob;
        }
    }
    Ok((shared, spare))
}

async fn find_same(db: &mut Connection, image: &ImageRow, store: StoreId) -> Result<Option<String>> {
    let same = sqlx::query_scalar(SELECT_SAME)
        .bind(image.tenant.as_str())
        .bind(&image.sha256)
        .bind(write_number("image size", image.size_bytes)?)
        .bind(write_uuid(store.0))
        .fetch_optional(db)
        .await?;
    Ok(same)
}
