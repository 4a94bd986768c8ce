//! Images: statements, and the steps of their life.

use std::collections::BTreeMap;

use imageops_model::{ImageDetails, ImageEvent, ImageId, ImageState, Label, Micros, StoreId, Tenant};

use super::Connection;
use crate::lists::{filter, found};
use crate::rows::{ImageRecord, write_json, write_number, write_uuid};
use crate::{Error, ImageChange, ImageCursor, ImageFilter, ImageOrder, ImagePage, ImageRow, Result, SortKey};

const WHAT: &str = "image";

/// Images that one call purges at most.
const PURGE_MAX: i64 = 100;

macro_rules! select_images {
    ($($rest:expr),+) => {
        concat!(
            "SELECT id, tenant, label, state, format, size_bytes, virtual_size_bytes, md5, sha256, store, blob, \
             derived_from, revision, description, protected, enabled, create_time, update_time, trash_time, purge_time, ",
            pairs_of_image!("label"), " AS labels, ",
            pairs_of_image!("property"), " AS properties, ",
            tags_of_image!(), " AS tags FROM images ",
            $($rest),+
        )
    };
}

/// A page in one order: filters, then the rows behind the cursor's key and id.
macro_rules! select_page {
    ($key:literal, $comparison:literal, $direction:literal) => {
        select_images!(
            "WHERE tenant = $1 AND state IN ($2, $3, $4, $5, $6, $7) AND ($8 IS NULL OR format IN (SELECT value FROM ",
            wanted_words!("$8"),
            ")) AND ($9 IS NULL OR label = $9) AND NOT EXISTS (SELECT 1 FROM ",
            wanted_pairs!("$10"),
            " WHERE NOT EXISTS (SELECT 1 FROM image_texts \
             WHERE image = images.id AND kind = 'label' AND name = wanted.key AND image_texts.value = wanted.value)) \
             AND NOT EXISTS (SELECT 1 FROM ",
            wanted_words!("$11"),
            " WHERE NOT EXISTS (SELECT 1 FROM image_texts \
             WHERE image = images.id AND kind = 'tag' AND name = wanted.value)) AND (",
            $key,
            ", id) ",
            $comparison,
            " ($12, $13) ORDER BY ",
            $key,
            $direction,
            ", id",
            $direction,
            " LIMIT $14"
        )
    };
}

const SELECT: &str = select_images!("WHERE tenant = $1 AND id = $2");

const SELECT_EXPIRED: &str = select_images!("WHERE purge_time < $1 ORDER BY purge_time LIMIT $2");

const INSERT: &str = "INSERT INTO images (id, tenant, label, state, format, size_bytes, virtual_size_bytes, md5, sha256, \
     store, blob, derived_from, revision, description, protected, enabled, create_time, update_time) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE images SET label = $1, state = $2, description = $3, protected = $4, enabled = $5, \
     revision = $6, update_time = $7, trash_time = $8, purge_time = $9 WHERE tenant = $10 AND id = $11 AND revision = $12";

const DELETE: &str = "DELETE FROM images WHERE tenant = $1 AND id = $2 AND revision = $3";

const INSERT_TEXT: &str = "INSERT INTO image_texts (image, kind, name, value) VALUES ($1, $2, $3, $4)";

const DELETE_TEXTS: &str = "DELETE FROM image_texts WHERE image = $1 AND kind = $2";

const RETIRE: &str = "INSERT INTO retired_images (id, tenant, retire_time) VALUES ($1, $2, $3)";

const IS_RETIRED: &str = "SELECT CAST(1 AS BIGINT) FROM retired_images WHERE id = $1";

const SELECT_BLOB: &str = "SELECT CAST(1 AS BIGINT) FROM images WHERE store = $1 AND blob = $2 LIMIT 1";

pub(super) async fn get(db: &mut Connection, tenant: &Tenant, id: ImageId) -> Result<ImageRow> {
    let record: Option<ImageRecord> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}

/// Adds the image that an upload or a job of `tenant` made; it can only be that tenant's.
pub(super) async fn insert(db: &mut Connection, tenant: &Tenant, image: &ImageRow) -> Result<()> {
    let retired: Option<i64> =
        sqlx::query_scalar(IS_RETIRED).bind(write_uuid(image.id.0)).fetch_optional(&mut *db).await?;
    if image.tenant != *tenant || retired.is_some() {
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
        .bind(write_number("image revision", image.revision)?)
        .bind(&image.details.description)
        .bind(i64::from(image.details.protected))
        .bind(i64::from(image.enabled))
        .bind(image.create_time.0)
        .bind(image.update_time.0)
        .execute(&mut *db)
        .await?;
    if inserted.rows_affected() == 0 {
        return Err(Error::Conflict { what: WHAT });
    }
    write_texts(db, image.id, None, &image.details).await
}

pub(super) async fn list(
    db: &mut Connection,
    tenant: &Tenant,
    wanted: &ImageFilter,
    page: ImagePage,
) -> Result<Vec<ImageRow>> {
    let mut query = sqlx::query_as::<_, ImageRecord>(page_statement(page.order)).bind(tenant.as_str());
    for state in filter::<6, _>(&states(wanted), ImageState::ALL, ImageState::as_str) {
        query = query.bind(state);
    }
    let formats = (!wanted.formats.is_empty()).then(|| write_json(&wanted.formats)).transpose()?;
    query = query
        .bind(formats)
        .bind(wanted.label.as_ref().map(|label| label.as_str().to_owned()))
        .bind(write_json(&wanted.labels)?)
        .bind(write_json(&wanted.tags)?);
    let (key, id) = match page.after {
        Some(ImageCursor { key, id }) => (key, write_uuid(id)),
        None => before_all(page.order),
    };
    query = match key {
        SortKey::Number(number) => query.bind(number),
        SortKey::Text(text) => query.bind(text),
    }
    .bind(id);
    let records = query.bind(i64::from(page.limit.clamp(1, 1_001))).fetch_all(db).await?;
    records.into_iter().map(ImageRow::try_from).collect()
}

pub(super) fn page_statement(order: ImageOrder) -> &'static str {
    match order {
        ImageOrder::Newest => select_page!("create_time", "<", " DESC"),
        ImageOrder::Oldest => select_page!("create_time", ">", " ASC"),
        ImageOrder::Label => select_page!("label", ">", " ASC"),
        ImageOrder::LabelReversed => select_page!("label", "<", " DESC"),
        ImageOrder::Largest => select_page!("size_bytes", "<", " DESC"),
        ImageOrder::Smallest => select_page!("size_bytes", ">", " ASC"),
    }
}

/// A place before every row that there can be. A statement that also knew "from the start" could not seek.
fn before_all(order: ImageOrder) -> (SortKey, String) {
    // No id has a letter above f, and no label is longer than the limit.
    let (first, last) = (String::new(), "g".to_owned());
    match order {
        ImageOrder::Newest | ImageOrder::Largest => (SortKey::Number(i64::MAX), last),
        ImageOrder::Oldest | ImageOrder::Smallest => (SortKey::Number(i64::MIN), first),
        ImageOrder::Label => (SortKey::Text(String::new()), first),
        ImageOrder::LabelReversed => (SortKey::Text("\u{10ffff}".repeat(Label::CHARACTERS_MAX + 1)), last),
    }
}

/// The states that a filter wants.
fn states(wanted: &ImageFilter) -> Vec<ImageState> {
    if wanted.states.is_empty() {
        ImageState::ALL.iter().copied().filter(|state| *state != ImageState::Trashed).collect()
    } else {
        wanted.states.clone()
    }
}

pub(super) async fn update(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    change: ImageChange,
    expected_revision: Option<u64>,
    now: Micros,
) -> Result<ImageRow> {
    let before = get_expected(db, tenant, id, expected_revision).await?;
    let after = change.apply(&before);
    save(db, &before, after, now).await
}

pub(super) async fn trash(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    expected_revision: Option<u64>,
    now: Micros,
    purge_time: Micros,
) -> Result<ImageRow> {
    let before = get_expected(db, tenant, id, expected_revision).await?;
    let state = after(&before, ImageEvent::Trash)?.unwrap_or(before.state);
    if state == before.state {
        return Ok(before);
    }
    if before.details.protected {
        return Err(Error::Protected);
    }
    let trashed = ImageRow { state, trash_time: Some(now), purge_time: Some(purge_time), ..before.clone() };
    save(db, &before, trashed, now).await
}

pub(super) async fn restore(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    now: Micros,
) -> Result<ImageRow> {
    let before = get(db, tenant, id).await?;
    let state = after(&before, ImageEvent::Restore)?.unwrap_or(before.state);
    let restored = ImageRow { state, trash_time: None, purge_time: None, ..before.clone() };
    save(db, &before, restored, now).await
}

pub(super) async fn purge(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    expected_revision: Option<u64>,
    now: Micros,
) -> Result<ImageRow> {
    let image = get_expected(db, tenant, id, expected_revision).await?;
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

pub(super) async fn is_blob_referenced(db: &mut Connection, store: StoreId, blob: &str) -> Result<bool> {
    let any: Option<i64> =
        sqlx::query_scalar(SELECT_BLOB).bind(write_uuid(store.0)).bind(blob).fetch_optional(db).await?;
    Ok(any.is_some())
}

/// The row, where it still is the one that the caller read.
async fn get_expected(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    expected_revision: Option<u64>,
) -> Result<ImageRow> {
    let row = get(db, tenant, id).await?;
    if expected_revision.is_some_and(|expected| expected != row.revision) {
        return Err(Error::Stale { what: WHAT });
    }
    Ok(row)
}

fn after(image: &ImageRow, event: ImageEvent) -> Result<Option<ImageState>> {
    image.state.after(event).map_err(|_| Error::State { what: WHAT })
}

/// Writes what differs, as the next revision; where nothing does, nothing.
async fn save(db: &mut Connection, before: &ImageRow, after: ImageRow, now: Micros) -> Result<ImageRow> {
    if after == *before {
        return Ok(after);
    }
    let after = ImageRow { revision: before.revision + 1, update_time: now, ..after };
    let updated = sqlx::query(UPDATE)
        .bind(after.label.as_str())
        .bind(after.state.as_str())
        .bind(&after.details.description)
        .bind(i64::from(after.details.protected))
        .bind(i64::from(after.enabled))
        .bind(write_number("image revision", after.revision)?)
        .bind(after.update_time.0)
        .bind(after.trash_time.map(|time| time.0))
        .bind(after.purge_time.map(|time| time.0))
        .bind(after.tenant.as_str())
        .bind(write_uuid(after.id.0))
        .bind(write_number("image revision", before.revision)?)
        .execute(&mut *db)
        .await?;
    if updated.rows_affected() == 0 {
        return Err(Error::Stale { what: WHAT });
    }
    write_texts(db, after.id, Some(&before.details), &after.details).await?;
    Ok(after)
}

/// Writes the labels, properties and tags that differ from those of before.
async fn write_texts(
    db: &mut Connection,
    id: ImageId,
    before: Option<&ImageDetails>,
    after: &ImageDetails,
) -> Result<()> {
    let before = before.map(texts).unwrap_or_default();
    for (kind, (before, after)) in
        ["label", "property", "tag"].into_iter().zip(before.into_iter().zip(texts(after)))
    {
        if before == after {
            continue;
        }
        sqlx::query(DELETE_TEXTS).bind(write_uuid(id.0)).bind(kind).execute(&mut *db).await?;
        for (name, value) in after {
            sqlx::query(INSERT_TEXT)
                .bind(write_uuid(id.0))
                .bind(kind)
                .bind(name)
                .bind(value)
                .execute(&mut *db)
                .await?;
        }
    }
    Ok(())
}

/// Labels, properties and tags as rows hold them: by name; the value of a tag is empty.
fn texts(details: &ImageDetails) -> [Vec<(&str, &str)>; 3] {
    fn pairs(texts: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
        texts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
    let tags = details.tags.iter().map(|tag| (tag.as_str(), "")).collect();
    [pairs(&details.labels), pairs(&details.properties), tags]
}

/// Removes the row for good and keeps its id.
async fn remove(db: &mut Connection, image: &ImageRow, now: Micros) -> Result<()> {
    after(image, ImageEvent::Purge)?;
    let deleted = sqlx::query(DELETE)
        .bind(image.tenant.as_str())
        .bind(write_uuid(image.id.0))
        .bind(write_number("image revision", image.revision)?)
        .execute(&mut *db)
        .await?;
    if deleted.rows_affected() == 0 {
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
