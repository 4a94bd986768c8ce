//! Records of images without bytes, and the uploads that fill them.

use imageops_model::{ImageEvent, ImageId, ImageState, Micros, Tenant, UploadId};

use super::images::{self, WHAT, after};
use super::usage::{self, Amount};
use super::{Connection, image_rows};
use crate::rows::write_uuid;
use crate::{Created, Error, ImageRow, Result, UploadRow};

const SELECT_RETIRED: &str = "SELECT tenant FROM retired_images WHERE id = $1";

const IS_RETIRED: &str = "SELECT CAST(1 AS BIGINT) FROM retired_images WHERE tenant = $1 AND id = $2";

const RETAKE: &str = "DELETE FROM retired_images WHERE id = $1";

pub(super) async fn create(
    db: &mut Connection,
    image: &ImageRow,
    may_retake: bool,
) -> Result<Created<ImageRow>> {
    if let Some(known) = images::find(db, image.id).await? {
        let same = known.state == ImageState::Queued
            && known.tenant == image.tenant
            && known.label == image.label
            && known.details == image.details
            && known.derived_from == image.derived_from;
        return if same { Ok(Created::Existing(known)) } else { Err(Error::Conflict { what: WHAT }) };
    }
    let id = write_uuid(image.id.0);
    let retired: Option<String> =
        sqlx::query_scalar(SELECT_RETIRED).bind(&id).fetch_optional(&mut *db).await?;
    // Another tenant must never come by an id that hosts may have cached bytes under.
    if may_retake && retired.is_some_and(|owner| owner == image.tenant.as_str()) {
        sqlx::query(RETAKE).bind(&id).execute(&mut *db).await?;
    }
    let one = Amount { images: 1, bytes: 0 };
    usage::ensure_room(db, &image.tenant, one, Amount::default()).await?;
    usage::charge(db, &image.tenant, one).await?;
    let record = ImageRow { state: ImageState::Queued, ..image.clone() };
    image_rows::insert(db, &image.tenant, &record, 0).await?;
    Ok(Created::New(images::get(db, &image.tenant, image.id).await?))
}

pub(super) async fn is_retired(db: &mut Connection, tenant: &Tenant, id: ImageId) -> Result<bool> {
    let retired: Option<i64> = sqlx::query_scalar(IS_RETIRED)
        .bind(tenant.as_str())
        .bind(write_uuid(id.0))
        .fetch_optional(db)
        .await?;
    Ok(retired.is_some())
}

/// An upload begins to fill a record.
pub(super) async fn begin(db: &mut Connection, upload: &UploadRow, id: ImageId) -> Result<()> {
    let before = images::get_own(db, &upload.tenant, id, None).await?;
    let event = if upload.wishes.import { ImageEvent::Import } else { ImageEvent::Upload };
    let state = after(&before, event)?;
    let filling = ImageRow { state, upload: Some(upload.id), ..before.clone() };
    image_rows::save(db, &before, filling, upload.create_time).await?;
    Ok(())
}

/// The upload ended without the bytes.
pub(super) async fn empty(db: &mut Connection, id: ImageId, upload: UploadId, now: Micros) -> Result<()> {
    // The record may be gone: who purges it aborts the upload.
    let Some(before) = images::find(db, id).await?.filter(|image| image.upload == Some(upload)) else {
        return Ok(());
    };
    let state = after(&before, ImageEvent::Empty)?;
    image_rows::save(db, &before, ImageRow { state, upload: None, ..before.clone() }, now).await?;
    Ok(())
}

/// The upload brought the bytes that `image` describes: what is said of the record stays.
pub(super) async fn fill(
    db: &mut Connection,
    upload: &UploadRow,
    id: ImageId,
    image: &ImageRow,
    now: Micros,
) -> Result<()> {
    let before = images::get(db, &upload.tenant, id).await?;
    if image.id != id || image.tenant != upload.tenant {
        return Err(Error::Conflict { what: WHAT });
    }
    if before.upload != Some(upload.id) {
        return Err(Error::State { what: WHAT });
    }
    let mut filled = ImageRow {
        state: after(&before, ImageEvent::Fill)?,
        format: image.format.clone(),
        size_bytes: image.size_bytes,
        virtual_size_bytes: image.virtual_size_bytes,
        md5: image.md5.clone(),
        sha256: image.sha256.clone(),
        sha512: image.sha512.clone(),
        crc32: image.crc32,
        replicas: image.replicas.clone(),
        derived_from: image.derived_from.or(before.derived_from),
        quarantine: image.quarantine.clone(),
        upload: None,
        ..before.clone()
    };
    if filled.quarantine.is_some() {
        filled.state = after(&filled, ImageEvent::Quarantine)?;
    }
    let filled = image_rows::save(db, &before, filled, now).await?;
    image_rows::fill(db, &filled, filled.size_bytes).await
}
