//! Images: out of sight, back, and gone.

use imageops_model::{ImageEvent, ImageId, JobFailure, Micros, ReplicaState, StoreId, Tenant};

use super::images::{self, WHAT, after, select_images};
use super::{Connection, image_rows};
use crate::rows::{ImageRecord, write_number, write_uuid};
use crate::{Error, ImageRow, Result};

/// Images that one call purges at most.
const PURGE_MAX: i64 = 100;

const SELECT_EXPIRED: &str = select_images!("WHERE purge_time < $1 ORDER BY purge_time LIMIT $2");

const DELETE: &str =
    "DELETE FROM images WHERE tenant = $1 AND id = $2 AND revision = $3 RETURNING charged_bytes";

const RETIRE: &str = "INSERT INTO retired_images (id, tenant, retire_time) VALUES ($1, $2, $3)";

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
    remove(db, &image, now).await?;
    Ok(image)
}

pub(super) async fn purge_expired(db: &mut Connection, now: Micros) -> Result<Vec<ImageRow>> {
    let expired: Vec<ImageRecord> =
        sqlx::query_as(SELECT_EXPIRED).bind(now.0).bind(PURGE_MAX).fetch_all(&mut *db).await?;
    let mut purged = Vec::new();
    for record in expired {
        let image = ImageRow::try_from(record)?;
        remove(db, &image, now).await?;
        purged.push(image);
    }
    Ok(purged)
}

/// Removes the row for good and keeps its id.
async fn remove(db: &mut Connection, image: &ImageRow, now: Micros) -> Result<()> {
    let deleted: Option<i64> = sqlx::query_scalar(DELETE)
        .bind(image.tenant.as_str())
        .bind(write_uuid(image.id.0))
        .bind(write_number("image revision", image.revision)?)
        .fetch_optional(&mut *db)
        .await?;
    if deleted.is_none() {
        return Err(Error::Stale { what: WHAT });
    }
    sqlx::query(RETIRE)
        .bind(write_uuid(image.id.0))
        .bind(image.tenant.as_str())
        .bind(now.0)
        .execute(db)
        .await?;
    Ok(())
}
