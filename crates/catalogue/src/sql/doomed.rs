//! Bytes whose last row went.

use imageops_model::{Micros, StoreId};

use super::Connection;
use crate::Result;
use crate::rows::{write_json, write_uuid};

const DOOM: &str = "INSERT INTO doomed_blobs (store, blob, doom_time) SELECT $1, $2, $3 WHERE NOT EXISTS \
     (SELECT 1 FROM image_replicas WHERE store = $1 AND blob = $2) ON CONFLICT (store, blob) DO NOTHING";

pub(super) const SELECT: &str =
    "SELECT blob FROM doomed_blobs WHERE store = $1 ORDER BY doom_time, blob LIMIT $2";

const POSTPONE: &str = concat!(
    "UPDATE doomed_blobs SET doom_time = $3 WHERE store = $1 AND blob IN (SELECT value FROM ",
    wanted_words!("$2"),
    ")"
);

const FORGET: &str = concat!(
    "DELETE FROM doomed_blobs WHERE store = $1 AND blob IN (SELECT value FROM ",
    wanted_words!("$2"),
    ")"
);

const FORGET_ALL: &str = "DELETE FROM doomed_blobs WHERE store = $1";

/// Dooms bytes, unless a row names them.
pub(super) async fn doom(db: &mut Connection, store: StoreId, blob: &str, now: Micros) -> Result<()> {
    // A copy that is still to come has no key yet.
    if blob.is_empty() {
        return Ok(());
    }
    sqlx::query(DOOM).bind(write_uuid(store.0)).bind(blob).bind(now.0).execute(db).await?;
    Ok(())
}

pub(super) async fn list(db: &mut Connection, store: StoreId, limit: u32) -> Result<Vec<String>> {
    let query = sqlx::query_scalar(SELECT).bind(write_uuid(store.0)).bind(i64::from(limit.clamp(1, 1_000)));
    Ok(query.fetch_all(db).await?)
}

pub(super) async fn postpone(
    db: &mut Connection,
    store: StoreId,
    blobs: &[String],
    now: Micros,
) -> Result<()> {
    sqlx::query(POSTPONE).bind(write_uuid(store.0)).bind(write_json(&blobs)?).bind(now.0).execute(db).await?;
    Ok(())
}

pub(super) async fn forget(db: &mut Connection, store: StoreId, blobs: &[String]) -> Result<()> {
    sqlx::query(FORGET).bind(write_uuid(store.0)).bind(write_json(&blobs)?).execute(db).await?;
    Ok(())
}

/// Forgets what was doomed in a store that is gone.
pub(super) async fn forget_all(db: &mut Connection, store: StoreId) -> Result<()> {
    sqlx::query(FORGET_ALL).bind(write_uuid(store.0)).execute(db).await?;
    Ok(())
}
