//! Images that go for good, and all that goes with them.

use imageops_model::Micros;

use super::images::WHAT;
use super::usage::{self, Amount};
use super::{Connection, companions, doomed, jobs, uploads};
use crate::rows::{read_number, write_number, write_uuid};
use crate::{Error, ImageRow, Result};

const DELETE: &str =
    "DELETE FROM images WHERE tenant = $1 AND id = $2 AND revision = $3 RETURNING charged_bytes";

const RETIRE: &str = "INSERT INTO retired_images (id, tenant, retire_time) VALUES ($1, $2, $3)";

/// Removes an image that stands for itself, and its companions; its id stays taken.
pub(super) async fn remove(db: &mut Connection, image: &ImageRow, now: Micros) -> Result<()> {
    for companion in companions::of(db, image.id).await? {
        remove_row(db, &companion, now).await?;
    }
    remove_row(db, image, now).await?;
    sqlx::query(RETIRE)
        .bind(write_uuid(image.id.0))
        .bind(image.tenant.as_str())
        .bind(now.0)
        .execute(&mut *db)
        .await?;
    // After the row: what an aborted upload leaves behind is no record to be filled again.
    if let Some(upload) = image.upload
        && let Some(upload) = uploads::find(db, upload).await?
    {
        uploads::give_up(db, &upload, now).await?;
    }
    Ok(())
}

/// Removes one row. The id of a companion was never a client's, and is not kept.
pub(super) async fn remove_row(db: &mut Connection, image: &ImageRow, now: Micros) -> Result<()> {
    let charged: Option<i64> = sqlx::query_scalar(DELETE)
        .bind(image.tenant.as_str())
        .bind(write_uuid(image.id.0))
        .bind(write_number("image revision", image.revision)?)
        .fetch_optional(&mut *db)
        .await?;
    let charged = charged.ok_or(Error::Stale { what: WHAT })?;
    // After the row: an import that ends here would write into it.
    jobs::cancel_of_image(db, &image.tenant, image.id, now).await?;
    for replica in &image.replicas {
        doomed::doom(db, replica.store, &replica.blob, now).await?;
    }
    let images = u64::from(image.companion.is_none());
    let went = Amount { images, bytes: read_number("charged bytes", charged)? };
    usage::uncharge(db, &image.tenant, went).await
}
