//! Stores.

use imageops_model::{Micros, StoreId};
use uuid::Uuid;

use super::{Connection, doomed};
use crate::lists::found;
use crate::rows::{StoreRecord, read_number, read_uuid, write_json, write_number, write_uuid};
use crate::{Created, Error, Result, StoreChange, StoreRow, StoreUsage};

const WHAT: &str = "store";

macro_rules! select_stores {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, kind, description, weight, limit_bytes, state, revision, create_time, update_time FROM stores ",
            $rest
        )
    };
}

const SELECT: &str = select_stores!("WHERE id = $1");

const SELECT_NAME: &str = select_stores!("WHERE name = $1");

const SELECT_ALL: &str = select_stores!("ORDER BY weight DESC, name");

const IDENTITY: &str = "SELECT id FROM catalogue_identity";

const IDENTIFY: &str = "INSERT INTO catalogue_identity (id) VALUES ($1)";

const INSERT: &str = "INSERT INTO stores (id, name, kind, description, weight, limit_bytes, state, revision, create_time, \
     update_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

const UPDATE: &str = "UPDATE stores SET kind = $1, description = $2, weight = $3, limit_bytes = $4, state = $5, \
     revision = $6, update_time = $7 WHERE id = $8 AND revision = $9";

const DELETE: &str = "DELETE FROM stores WHERE id = $1";

const IS_USED: &str = "SELECT CAST(1 AS BIGINT) FROM image_replicas WHERE store = $1 \
     UNION ALL SELECT CAST(1 AS BIGINT) FROM uploads WHERE store = $1 AND state IN ('open', 'stored') LIMIT 1";

const USAGE: &str = "SELECT CAST(COALESCE(SUM(images), 0) AS BIGINT), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) \
     FROM (SELECT COUNT(*) AS images, MAX(size_bytes) AS size_bytes FROM image_replicas JOIN images ON images.id = image \
     WHERE store = $1 GROUP BY blob) AS blobs";

pub(super) async fn register(db: &mut Connection, store: StoreRow) -> Result<Created<StoreRow>> {
    let named = find(db, &store.name).await?;
    if let Some(known) = find_by_id(db, store.id).await? {
        if known.name != store.name {
            return Err(Error::Conflict { what: WHAT });
        }
        // Where a store lies may change, its id lies in it.
        let moved = StoreRow { kind: store.kind, ..known.clone() };
        return Ok(Created::Existing(save(db, &known, moved, store.update_time).await?));
    }
    if named.is_some() {
        return Err(Error::Conflict { what: WHAT });
    }
    sqlx::query(INSERT)
        .bind(write_uuid(store.id.0))
        .bind(&store.name)
        .bind(write_json(&store.kind)?)
        .bind(&store.description)
        .bind(i64::from(store.weight))
        .bind(write_limit(store.limit_bytes)?)
        .bind(store.state.as_str())
        .bind(write_number("store revision", store.revision)?)
        .bind(store.create_time.0)
        .bind(store.update_time.0)
        .execute(&mut *db)
        .await?;
    Ok(Created::New(get(db, store.id).await?))
}

fn write_limit(limit_bytes: Option<u64>) -> Result<Option<i64>> {
    limit_bytes.map(|bytes| write_number("limit", bytes)).transpose()
}

async fn find_by_id(db: &mut Connection, id: StoreId) -> Result<Option<StoreRow>> {
    let record: Option<StoreRecord> =
        sqlx::query_as(SELECT).bind(write_uuid(id.0)).fetch_optional(db).await?;
    record.map(StoreRow::try_from).transpose()
}

pub(super) async fn get(db: &mut Connection, id: StoreId) -> Result<StoreRow> {
    found(find_by_id(db, id).await?, WHAT)
}

pub(super) async fn find(db: &mut Connection, name: &str) -> Result<Option<StoreRow>> {
    let record: Option<StoreRecord> = sqlx::query_as(SELECT_NAME).bind(name).fetch_optional(db).await?;
    record.map(StoreRow::try_from).transpose()
}

pub(super) async fn list(db: &mut Connection) -> Result<Vec<StoreRow>> {
    let records: Vec<StoreRecord> = sqlx::query_as(SELECT_ALL).fetch_all(db).await?;
    records.into_iter().map(StoreRow::try_from).collect()
}

pub(super) async fn update(
    db: &mut Connection,
    id: StoreId,
    change: StoreChange,
    expected_revision: Option<u64>,
    now: Micros,
) -> Result<StoreRow> {
    let before = get(db, id).await?;
    if expected_revision.is_some_and(|expected| expected != before.revision) {
        return Err(Error::Stale { what: WHAT });
    }
    let after = StoreRow {
        description: change.description.unwrap_or_else(|| before.description.clone()),
        weight: change.weight.unwrap_or(before.weight),
        limit_bytes: change.limit_bytes.unwrap_or(before.limit_bytes),
        state: change.state.unwrap_or(before.state),
        ..before.clone()
    };
    save(db, &before, after, now).await
}

/// Writes what differs, as the next revision; where nothing does, nothing.
async fn save(db: &mut Connection, before: &StoreRow, after: StoreRow, now: Micros) -> Result<StoreRow> {
    if after == *before {
        return Ok(after);
    }
    let after = StoreRow { revision: before.revision + 1, update_time: now, ..after };
    let updated = sqlx::query(UPDATE)
        .bind(write_json(&after.kind)?)
        .bind(&after.description)
        .bind(i64::from(after.weight))
        .bind(write_limit(after.limit_bytes)?)
        .bind(after.state.as_str())
        .bind(write_number("store revision", after.revision)?)
        .bind(after.update_time.0)
        .bind(write_uuid(after.id.0))
        .bind(write_number("store revision", before.revision)?)
        .execute(db)
        .await?;
    if updated.rows_affected() == 1 { Ok(after) } else { Err(Error::Stale { what: WHAT }) }
}

pub(super) async fn remove(db: &mut Connection, id: StoreId) -> Result<()> {
    get(db, id).await?;
    let used: Option<i64> =
        sqlx::query_scalar(IS_USED).bind(write_uuid(id.0)).fetch_optional(&mut *db).await?;
    if used.is_some() {
        return Err(Error::State { what: WHAT });
    }
    doomed::forget_all(db, id).await?;
    sqlx::query(DELETE).bind(write_uuid(id.0)).execute(db).await?;
    Ok(())
}

pub(super) async fn usage(db: &mut Connection, id: StoreId) -> Result<StoreUsage> {
    let (images, bytes): (i64, i64) = sqlx::query_as(USAGE).bind(write_uuid(id.0)).fetch_one(db).await?;
    Ok(StoreUsage {
        images: read_number("images of a store", images)?,
        bytes: read_number("bytes of a store", bytes)?,
    })
}

/// What stores know this catalogue by.
pub(super) async fn identity(db: &mut Connection) -> Result<Uuid> {
    let known: Option<String> = sqlx::query_scalar(IDENTITY).fetch_optional(&mut *db).await?;
    if let Some(id) = known {
        return read_uuid("catalogue id", &id);
    }
    let id = Uuid::new_v4();
    sqlx::query(IDENTIFY).bind(write_uuid(id)).execute(db).await?;
    Ok(id)
}
