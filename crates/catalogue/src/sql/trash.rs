//! Images: out of sight, back, and gone.

use imageops_model::{ImageEvent, ImageId, JobFailure, Micros, Tenant};

use super::images::{self, WHAT, after, select_images};
use super::{Connection, image_rows, removal};
use crate::rows::ImageRecord;
use crate::{Error, ImageRow, Result};

/// Images that one call purges at most.
const PURGE_MAX: i64 = 100;

const SELECT_EXPIRED: &str = select_images!("WHERE purge_time < $1 ORDER BY purge_time LIMIT $2");

pub(super) async fn trash(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    expected_revision: Option<u64>,
    now: Micros,
    purge_time: Micros,
) -> Result<ImageRow> {
    let before = images::get_own(db, tenant, id, expected_revision).await?;
    let state = after(&before, ImageEvent::Trash)?;
    if state == before.state {
        return Ok(before);
    }
    if before.details.protected {
        return Err(Error::Protected);
    }
    let trashed = ImageRow { state, trash_time: Some(now), purge_time: Some(purge_time), ..before.clone() };
    image_rows::save(db, &before, trashed, now).await
}

pub(super) async fn restore(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    now: Micros,
) -> Result<ImageRow> {
    let before = images::get_own(db, tenant, id, None).await?;
    let state = after(&before, ImageEvent::Restore)?;
    let mut restored = ImageRow { state, trash_time: None, purge_time: None, ..before.clone() };
    if restored.quarantine.is_some() {
        restored.state = after(&restored, ImageEvent::Quarantine)?;
    }
    image_rows::save(db, &before, restored, now).await
}

pub(super) async fn quarantine(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    failure: JobFailure,
    now: Micros,
) -> Result<ImageRow> {
    let before = images::get(db, tenant, id).await?;
    let state = after(&before, ImageEvent::Quarantine)?;
    let quarantine = before.quarantine.clone().or(Some(failure));
    image_rows::save(db, &before, ImageRow { state, quarantine, ..before.clone() }, now).await
}

pub(super) async fn release(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    now: Micros,
) -> Result<ImageRow> {
    let before = images::get(db, tenant, id).await?;
    let state = after(&before, ImageEvent::Release)?;
    if before.ready_replica().is_none() {
        return Err(Error::State { what: WHAT });
    }
    image_rows::save(db, &before, ImageRow { state, quarantine: None, ..before.clone() }, now).await
}

pub(super) async fn purge(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    expected_revision: Option<u64>,
    from_any_state: bool,
    now: Micros,
) -> Result<ImageRow> {
    let image = images::get_own(db, tenant, id, expected_revision).await?;
    let event = if from_any_state { ImageEvent::Discard } else { ImageEvent::Purge };
    image.state.after(event).map_err(|_| Error::State { what: WHAT })?;
    if image.details.protected && image.trash_time.is_none() {
        return Err(Error::Protected);
    }
    removal::remove(db, &image, now).await?;
    Ok(image)
}

pub(super) async fn purge_expired(db: &mut Connection, now: Micros) -> Result<Vec<ImageRow>> {
    let expired: Vec<ImageRecord> =
        sqlx::query_as(SELECT_EXPIRED).bind(now.0).bind(PURGE_MAX).fetch_all(&mut *db).await?;
    let mut purged = Vec::new();
    for record in expired {
        let image = ImageRow::try_from(record)?;
        removal::remove(db, &image, now).await?;
        purged.push(image);
    }
    Ok(purged)
}
