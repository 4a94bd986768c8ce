//! Copies of images in stores.

use imageops_model::{ImageEvent, ImageId, ImageState, JobFailure, Micros, ReplicaState, StoreId, Tenant};

use super::images::{self, select_images};
use super::{Connection, doomed, image_rows, sharing};
use crate::rows::{BlobRecord, ImageRecord, corrupt, write_uuid};
use crate::{BlobToVerify, Damage, Error, ImageRow, Replica, Result};

const WHAT: &str = "replica";

const PUT: &str = "INSERT INTO image_replicas (image, store, blob, state, create_time, update_time, verify_time) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (image, store) DO UPDATE SET blob = excluded.blob, \
     state = excluded.state, create_time = excluded.create_time, update_time = excluded.update_time, \
     verify_time = excluded.verify_time";

const IS_DOOMED: &str = "SELECT CAST(1 AS BIGINT) FROM doomed_blobs WHERE store = $1 AND blob = $2";

const DELETE: &str = "DELETE FROM image_replicas WHERE image = $1 AND store = $2";

pub(super) const SELECT_IN_STORE: &str = select_images!(
    "WHERE id IN (SELECT image FROM image_replicas WHERE store = $1 AND image > $2 ORDER BY image LIMIT $3) ORDER BY id"
);

pub(super) const SELECT_OF_BLOB: &str = select_images!(
    "WHERE id IN (SELECT image FROM image_replicas WHERE store = $1 AND blob = $2) ORDER BY id"
);

pub(super) const SELECT_TO_VERIFY: &str = "SELECT blob, image, tenant, size_bytes, sha256, \
     COALESCE(verify_time, image_replicas.create_time) AS verify_time \
     FROM image_replicas JOIN images ON images.id = image WHERE store = $1 AND image_replicas.state = 'ready' \
     AND COALESCE(verify_time, image_replicas.create_time) < $2 \
     ORDER BY COALESCE(verify_time, image_replicas.create_time), blob LIMIT $3";

pub(super) const SELECT_DAMAGED: &str = "SELECT CAST(1 AS BIGINT) FROM image_replicas \
     WHERE store = $1 AND blob = $2 AND state = 'damaged' LIMIT 1";

const VERIFY: &str = "UPDATE image_replicas SET verify_time = $1 WHERE store = $2 AND blob = $3";

const SET_STATE: &str =
    "UPDATE image_replicas SET state = $1, update_time = $2 WHERE store = $3 AND blob = $4 AND state = $5";

const COUNT_DAMAGED: &str = "SELECT COUNT(*) FROM image_replicas AS damaged JOIN images ON images.id = image \
     WHERE damaged.state = 'damaged' AND images.state <> 'trashed'";

const COUNT_LOST: &str = "SELECT COUNT(DISTINCT image) FROM image_replicas AS damaged JOIN images ON images.id = image \
     WHERE damaged.state = 'damaged' AND images.state <> 'trashed' AND NOT EXISTS \
     (SELECT 1 FROM image_replicas AS other WHERE other.image = damaged.image AND other.state = 'ready')";

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

pub(super) async fn add(
    db: &mut Connection,
    tenant: &Tenant,
    image: ImageId,
    replica: &Replica,
    shares: Option<ImageId>,
    expected_revision: Option<u64>,
    now: Micros,
) -> Result<ImageRow> {
    let before = images::get_expected(db, tenant, image, expected_revision).await?;
    if before.state != ImageState::Active {
        return Err(Error::State { what: images::WHAT });
    }
    let mut after = before.clone();
    let (former, others): (Vec<_>, Vec<_>) =
        after.replicas.into_iter().partition(|known| known.store == replica.store);
    if former.iter().any(|known| known.state == ReplicaState::Ready) {
        return Err(Error::Conflict { what: WHAT });
    }
    if let Some(shares) = shares {
        let wanted = ImageRow { replicas: vec![replica.clone()], ..before.clone() };
        sharing::ensure(db, tenant, shares, &wanted).await?;
    }
    put(db, image, replica).await?;
    for known in former.iter().filter(|known| known.blob != replica.blob) {
        doomed::doom(db, known.store, &known.blob, now).await?;
    }
    after.replicas = others;
    after.replicas.push(replica.clone());
    after.replicas.sort_by_key(|replica| (replica.create_time, replica.store));
    image_rows::save(db, &before, after, now).await
}

pub(super) async fn remove(
    db: &mut Connection,
    tenant: &Tenant,
    image: ImageId,
    store: StoreId,
    expected_revision: Option<u64>,
    now: Micros,
) -> Result<ImageRow> {
    let before = images::get_expected(db, tenant, image, expected_revision).await?;
    let mut after = before.clone();
    let (gone, left): (Vec<_>, Vec<_>) = after.replicas.into_iter().partition(|known| known.store == store);
    if gone.is_empty() {
        return Err(Error::NotFound { what: WHAT });
    }
    after.replicas = left;
    if after.ready_replica().is_none() {
        return Err(Error::State { what: WHAT });
    }
    sqlx::query(DELETE).bind(write_uuid(image.0)).bind(write_uuid(store.0)).execute(&mut *db).await?;
    for replica in &gone {
        doomed::doom(db, store, &replica.blob, now).await?;
    }
    image_rows::save(db, &before, after, now).await
}

pub(super) async fn list(
    db: &mut Connection,
    store: StoreId,
    after: Option<ImageId>,
    limit: u32,
) -> Result<Vec<ImageRow>> {
    let records: Vec<ImageRecord> = sqlx::query_as(SELECT_IN_STORE)
        .bind(write_uuid(store.0))
        .bind(after.map(|id| write_uuid(id.0)).unwrap_or_default())
        .bind(i64::from(limit.clamp(1, 1_000)))
        .fetch_all(db)
        .await?;
    records.into_iter().map(ImageRow::try_from).collect()
}

pub(super) async fn list_to_verify(
    db: &mut Connection,
    store: StoreId,
    verified_before: Micros,
    limit: u32,
) -> Result<Vec<BlobToVerify>> {
    let records: Vec<BlobRecord> = sqlx::query_as(SELECT_TO_VERIFY)
        .bind(write_uuid(store.0))
        .bind(verified_before.0)
        .bind(i64::from(limit.clamp(1, 1_000)))
        .fetch_all(db)
        .await?;
    let mut blobs: Vec<BlobToVerify> = Vec::new();
    for record in records {
        let blob = BlobToVerify::try_from(record)?;
        // Images that share bytes need them read once.
        if blobs.iter().all(|known| known.blob != blob.blob) {
            blobs.push(blob);
        }
    }
    Ok(blobs)
}

pub(super) async fn mark_verified(
    db: &mut Connection,
    store: StoreId,
    blob: &str,
    now: Micros,
) -> Result<()> {
    // As a rule none is, and no image changes: a scrub reads none for it.
    if is_damaged(db, store, blob).await? {
        let named = of_blob(db, store, blob).await?;
        set_state(db, store, blob, ReplicaState::Damaged, ReplicaState::Ready, now).await?;
        for before in named {
            let after = with_state(&before, store, ReplicaState::Damaged, ReplicaState::Ready, now);
            image_rows::save(db, &before, after, now).await?;
        }
    }
    sqlx::query(VERIFY).bind(now.0).bind(write_uuid(store.0)).bind(blob).execute(db).await?;
    Ok(())
}

pub(super) async fn mark_damaged(
    db: &mut Connection,
    store: StoreId,
    blob: &str,
    failure: JobFailure,
    now: Micros,
) -> Result<Vec<ImageRow>> {
    let named = of_blob(db, store, blob).await?;
    set_state(db, store, blob, ReplicaState::Ready, ReplicaState::Damaged, now).await?;
    let mut marked = Vec::new();
    for before in named {
        let mut after = with_state(&before, store, ReplicaState::Ready, ReplicaState::Damaged, now);
        if after.ready_replica().is_none() {
            // In the trash it only keeps the reason: who restores it, quarantines it.
            after.quarantine.get_or_insert_with(|| failure.clone());
            if let Ok(Some(state)) = after.state.after(ImageEvent::Quarantine) {
                after.state = state;
            }
        }
        marked.push(image_rows::save(db, &before, after, now).await?);
    }
    Ok(marked)
}

async fn is_damaged(db: &mut Connection, store: StoreId, blob: &str) -> Result<bool> {
    let any: Option<i64> =
        sqlx::query_scalar(SELECT_DAMAGED).bind(write_uuid(store.0)).bind(blob).fetch_optional(db).await?;
    Ok(any.is_some())
}

async fn of_blob(db: &mut Connection, store: StoreId, blob: &str) -> Result<Vec<ImageRow>> {
    let records: Vec<ImageRecord> =
        sqlx::query_as(SELECT_OF_BLOB).bind(write_uuid(store.0)).bind(blob).fetch_all(db).await?;
    records.into_iter().map(ImageRow::try_from).collect()
}

async fn set_state(
    db: &mut Connection,
    store: StoreId,
    blob: &str,
    from: ReplicaState,
    to: ReplicaState,
    now: Micros,
) -> Result<()> {
    sqlx::query(SET_STATE)
        .bind(to.as_str())
        .bind(now.0)
        .bind(write_uuid(store.0))
        .bind(blob)
        .bind(from.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// The image with its copy in a store as [`set_state`] has written it.
fn with_state(
    image: &ImageRow,
    store: StoreId,
    from: ReplicaState,
    to: ReplicaState,
    now: Micros,
) -> ImageRow {
    let mut image = image.clone();
    for replica in &mut image.replicas {
        if replica.store == store && replica.state == from {
            replica.state = to;
            replica.update_time = now;
        }
    }
    image
}

pub(super) async fn count_damage(db: &mut Connection) -> Result<Damage> {
    let copies: i64 = sqlx::query_scalar(COUNT_DAMAGED).fetch_one(&mut *db).await?;
    let lost: i64 = sqlx::query_scalar(COUNT_LOST).fetch_one(db).await?;
    let read = |count: i64| u64::try_from(count).map_err(|_| corrupt("count of damaged copies"));
    Ok(Damage { copies: read(copies)?, images: read(lost)? })
}
