//! An upload becomes an image.

use imageops_model::{ImageId, JobId, Micros, UploadEvent, UploadId, UploadState};

use super::usage::{self, Amount};
use super::{Connection, companions, image_rows, images, jobs, records, sessions, sharing, uploads};
use crate::{Committed, Created, Error, ImageRow, NewJob, Result};

pub(super) async fn commit(
    db: &mut Connection,
    id: UploadId,
    image: &ImageRow,
    shares: Option<ImageId>,
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

    if let Some(shares) = shares {
        sharing::ensure(db, &before.tenant, shares, image).await?;
    }
    match (&image.companion, before.record) {
        (Some(companion), None) => {
            // No job made it: the upload stands for the one that its source would remember.
            let made_by = JobId(before.id.0);
            companions::join(db, (&before.tenant, held), made_by, image, companion, now).await?;
        }
        (Some(_), Some(_)) => return Err(Error::Conflict { what: images::WHAT }),
        (None, record) => {
            let charge = Amount { images: u64::from(record.is_none()), bytes: image.size_bytes };
            usage::ensure_room(db, &before.tenant, charge, held).await?;
            usage::charge(db, &before.tenant, charge).await?;
            match record {
                Some(record) => records::fill(db, &before, record, image, now).await?,
                None => image_rows::insert(db, &before.tenant, image, image.size_bytes).await?,
            }
        }
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
