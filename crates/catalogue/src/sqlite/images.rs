//! Images.

use imageops_model::{ImageId, StoreId, Tenant};
use sqlx::SqliteConnection;

use super::found;
use crate::rows::{ImageRecord, write_number, write_uuid};
use crate::{Error, ImageRow, Result};

const WHAT: &str = "image";

const SELECT: &str = "SELECT id, tenant, label, state, format, size_bytes, virtual_size_bytes, md5, sha256, store, blob, \
     derived_from, create_time, update_time FROM images WHERE tenant = $1 AND id = $2";

const INSERT: &str = "INSERT INTO images (id, tenant, label, state, format, size_bytes, virtual_size_bytes, md5, sha256, \
     store, blob, derived_from, create_time, update_time) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING";

const SELECT_BLOB: &str = "SELECT 1 FROM images WHERE store = $1 AND blob = $2 LIMIT 1";

pub(super) async fn get(db: &mut SqliteConnection, tenant: &Tenant, id: ImageId) -> Result<ImageRow> {
    let record: Option<ImageRecord> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}

/// Adds the image that an upload or a job of `tenant` made; it can only be that tenant's.
pub(super) async fn insert(db: &mut SqliteConnection, tenant: &Tenant, image: &ImageRow) -> Result<()> {
    if image.tenant != *tenant {
        return Err(Error::Conflict { what: WHAT });
    }
    let virtual_size_bytes =
        image.virtual_size_bytes.map(|bytes| write_number("virtual size", bytes)).transpose()?;
    let inserted = sqlx::query(INSERT)
        .bind(write_uuid(image.id.0))
        .bind(tenant.as_str())
        .bind(image.label.as_str())
        .bind(image.state.as_str())
        .bind(&image.format)
        .bind(write_number("image size", image.size_bytes)?)
        .bind(virtual_size_bytes)
        .bind(&image.md5)
        .bind(&image.sha256)
        .bind(write_uuid(image.store.0))
        .bind(&image.blob)
        .bind(image.derived_from.map(|id| write_uuid(id.0)))
        .bind(image.create_time.0)
        .bind(image.update_time.0)
        .execute(db)
        .await?;
    if inserted.rows_affected() == 1 { Ok(()) } else { Err(Error::Conflict { what: WHAT }) }
}

pub(super) async fn is_blob_referenced(
    db: &mut SqliteConnection,
    store: StoreId,
    blob: &str,
) -> Result<bool> {
    let any: Option<i64> =
        sqlx::query_scalar(SELECT_BLOB).bind(write_uuid(store.0)).bind(blob).fetch_optional(db).await?;
    Ok(any.is_some())
}
