//! Copies of images in stores.

use imageops_model::ImageId;

use super::Connection;
use crate::rows::write_uuid;
use crate::{Error, Replica, Result};

const PUT: &str = "INSERT INTO image_replicas (image, store, blob, state, create_time, update_time, verify_time) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (image, store) DO UPDATE SET blob = excluded.blob, \
     state = excluded.state, create_time = excluded.create_time, update_time = excluded.update_time, \
     verify_time = excluded.verify_time";

const IS_DOOMED: &str = "SELECT CAST(1 AS BIGINT) FROM doomed_blobs WHERE store = $1 AND blob = $2";

/// Writes a copy, over what is known of the same store. Bytes that are doomed may be gone at any moment.
pub(super) async fn put(db: &mut Connection, image: ImageId, replica: &Replica) -> Result<()> {
    let doomed: Option<i64> = sqlx::query_scalar(IS_DOOMED)
        .bind(write_uuid(replica.store.0))
        .bind(&replica.blob)
        .fetch_optional(&mut *db)
        .await?;
    if doomed.is_some() {
        return Err(Error::Conflict { what: "blob" });
    }
    sqlx::query(PUT)
        .bind(write_uuid(image.0))
        .bind(write_uuid(replica.store.0))
        .bind(&replica.blob)
        .bind(replica.state.as_str())
        .bind(replica.create_time.0)
        .bind(replica.update_time.0)
        .bind(replica.verify_time.map(|time| time.0))
        .execute(db)
        .await?;
    Ok(())
}
