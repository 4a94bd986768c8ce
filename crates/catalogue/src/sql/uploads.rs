//! Uploads: statements, and the steps of their life.

use std::ops::RangeInclusive;

use imageops_model::{JobFailure, Micros, Tenant, UploadEvent, UploadId, UploadState, UploadWishes};

use super::usage::{self, Amount};
use super::{Connection, records, sessions};
use crate::lists::{Slice, filter, found};
use crate::rows::{UploadRecord, write_failure, write_json, write_number, write_uuid};
use crate::{Created, Error, Page, Result, UploadPart, UploadRow};

pub(super) const WHAT: &str = "upload";

macro_rules! select_uploads {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, state, label, details, declared_format, size_bytes, expected_md5, expected_sha256, \
             store, session, part, record, archive, wishes, durable_bytes, reserved_bytes, image, failure, create_time, update_time, expire_time FROM uploads ",
            $rest
        )
    };
}

pub(super) use select_uploads;

const SELECT: &str = select_uploads!("WHERE tenant = $1 AND id = $2");

// The server writes for an upload that it has looked up with its tenant; ids are unique over all of them.
const SELECT_BY_ID: &str = select_uploads!("WHERE id = $1");

const SELECT_PAGE: &str = select_uploads!(
    "WHERE tenant = $1 AND state IN ($2, $3, $4, $5, $6) AND (create_time, id) < ($7, $8) \
     ORDER BY create_time DESC, id DESC LIMIT $9"
);

const INSERT: &str = "INSERT INTO uploads (id, tenant, state, label, declared_format, size_bytes, expected_md5, \
     expected_sha256, durable_bytes, create_time, update_time, expire_time, details, store, session, part, record, \
     archive, wishes, reserved_bytes, reserved_images) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
     $13, $14, $15, $16, $17, $18, $19, $20, $21)";

const UPDATE: &str = "UPDATE uploads SET state = $1, durable_bytes = $2, image = $3, failure = $4, update_time = $5, \
     expire_time = $6, reserved_bytes = $7, reserved_images = $8 \
     WHERE tenant = $9 AND id = $10 AND state = $11 AND durable_bytes = $12 AND reserved_bytes = $13";

const DECLARE_SIZE: &str =
    "UPDATE uploads SET size_bytes = $1 WHERE id = $2 AND state = 'open' AND size_bytes IS NULL";

// A row that was begun without them says by its wishes that they came behind the bytes.
const NAME_PART: &str = "UPDATE uploads SET session = $1, part = $2, wishes = $3 \
     WHERE tenant = $4 AND id = $5 AND state = 'open' AND session IS NULL";

const IS_OPEN: &str = "SELECT CAST(1 AS BIGINT) FROM uploads WHERE id = $1 AND state IN ('open', 'stored')";

const SELECT_EXPIRED: &str =
    select_uploads!("WHERE state = 'open' AND expire_time < $1 ORDER BY expire_time LIMIT $2");

const FORGET: &str = "DELETE FROM uploads WHERE id IN \
     (SELECT id FROM uploads WHERE state IN ('committed', 'aborted', 'failed') AND update_time < $1 ORDER BY update_time LIMIT $2)";

/// Images of the quota that an upload needs while it is open: one, unless it is a part or fills a record.
fn promised_images(upload: &UploadRow) -> u64 {
    u64::from(!upload.is_part() && upload.record.is_none())
}

/// What an upload holds of the quota.
pub(super) fn held(upload: &UploadRow) -> Amount {
    let images = if upload.state == UploadState::Open { promised_images(upload) } else { 0 };
    Amount { images, bytes: upload.reserved_bytes }
}

pub(super) async fn create(db: &mut Connection, upload: UploadRow) -> Result<Created<UploadRow>> {
    if let Some(known) = find_same(db, &upload).await? {
        return Ok(Created::Existing(known));
    }
    // Who joins a session must look at it first.
    if upload.composes.is_some() {
        return Err(Error::State { what: "session" });
    }
    if let Some(part) = &upload.part {
        sessions::join(db, &upload, part).await?;
    }
    let reserved_bytes = upload.size_bytes.unwrap_or(0);
    Ok(Created::New(add(db, upload, reserved_bytes).await?))
}

/// The row that the same request made before; [`Error::Conflict`] when it was another request.
pub(super) async fn find_same(db: &mut Connection, upload: &UploadRow) -> Result<Option<UploadRow>> {
    match find(db, upload.id).await? {
        Some(known) if !is_same_request(&known, upload) => Err(Error::Conflict { what: WHAT }),
        known => Ok(known),
    }
}

/// Adds an open upload that holds so many bytes of the quota.
pub(super) async fn add(db: &mut Connection, upload: UploadRow, reserved_bytes: u64) -> Result<UploadRow> {
    let upload = UploadRow { state: UploadState::Open, reserved_bytes, ..upload };
    usage::ensure_room(db, &upload.tenant, held(&upload), Amount::default()).await?;
    usage::rebook(db, &upload.tenant, Amount::default(), held(&upload)).await?;
    if let Some(record) = upload.record {
        records::begin(db, &upload, record).await?;
    }
    insert(db, &upload).await?;
    get(db, &upload.tenant, upload.id).await
}

async fn insert(db: &mut Connection, upload: &UploadRow) -> Result<()> {
    let size_bytes = upload.size_bytes.map(|bytes| write_number("upload size", bytes)).transpose()?;
    sqlx::query(INSERT)
        .bind(write_uuid(upload.id.0))
        .bind(upload.tenant.as_str())
        .bind(UploadState::Open.as_str())
        .bind(upload.label.as_str())
        .bind(&upload.declared_format)
        .bind(size_bytes)
        .bind(&upload.expected_md5)
        .bind(&upload.expected_sha256)
        .bind(write_number("durable bytes", upload.durable_bytes)?)
        .bind(upload.create_time.0)
        .bind(upload.update_time.0)
        .bind(upload.expire_time.0)
        .bind(write_json(&upload.details)?)
        .bind(upload.store.map(|store| write_uuid(store.0)))
        .bind(upload.part.as_ref().map(|part| part.session.as_str()).or(upload.composes.as_deref()))
        .bind(upload.part.as_ref().map(|part| i64::from(part.number)))
        .bind(upload.record.map(|record| write_uuid(record.0)))
        .bind(upload.archive.map(|archive| archive.as_str()))
        .bind(write_json(&upload.wishes)?)
        .bind(write_number("reserved bytes", upload.reserved_bytes)?)
        .bind(write_number("reserved images", held(upload).images)?)
        .execute(db)
        .await?;
    Ok(())
}

fn is_same_request(known: &UploadRow, asked: &UploadRow) -> bool {
    // What the commit told is no part of the request that began it.
    let named_behind = known.wishes.becomes_part && known.part.is_some();
    let part = known.part.as_ref().filter(|_| !named_behind);
    let wishes =
        UploadWishes { becomes_part: asked.wishes.becomes_part || named_behind, ..asked.wishes.clone() };
    known.tenant == asked.tenant
        && known.label == asked.label
        && known.details == asked.details
        && known.declared_format == asked.declared_format
        // It may have been told since.
        && (asked.size_bytes.is_none() || known.size_bytes == asked.size_bytes)
        && known.expected_md5 == asked.expected_md5
        && known.expected_sha256 == asked.expected_sha256
        && known.store == asked.store
        && part == asked.part.as_ref()
        && known.composes == asked.composes
        && known.record == asked.record
        && known.archive == asked.archive
        && known.wishes == wishes
}

pub(super) async fn get(db: &mut Connection, tenant: &Tenant, id: UploadId) -> Result<UploadRow> {
    let record: Option<UploadRecord> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}

pub(super) async fn find(db: &mut Connection, id: UploadId) -> Result<Option<UploadRow>> {
    let record: Option<UploadRecord> =
        sqlx::query_as(SELECT_BY_ID).bind(write_uuid(id.0)).fetch_optional(db).await?;
    record.map(UploadRow::try_from).transpose()
}

pub(super) async fn load(db: &mut Connection, id: UploadId) -> Result<UploadRow> {
    found(find(db, id).await?, WHAT)
}

/// Moves `before` by the state machine and returns the row to be changed further and saved. What has ended holds nothing.
pub(super) fn apply(before: &UploadRow, event: UploadEvent, now: Micros) -> Result<UploadRow> {
    let state = before.state.after(event).map_err(|_| Error::State { what: WHAT })?;
    let reserved_bytes = if state.is_final() { 0 } else { before.reserved_bytes };
    Ok(UploadRow { state, reserved_bytes, update_time: now, ..before.clone() })
}

/// Makes a part of an open upload that was not begun as one.
pub(super) async fn name_part(db: &mut Connection, before: &UploadRow, part: &UploadPart) -> Result<()> {
    let wishes = UploadWishes { becomes_part: true, ..before.wishes.clone() };
    let updated = sqlx::query(NAME_PART)
        .bind(&part.session)
        .bind(i64::from(part.number))
        .bind(write_json(&wishes)?)
        .bind(before.tenant.as_str())
        .bind(write_uuid(before.id.0))
        .execute(db)
        .await?;
    if updated.rows_affected() == 0 { Err(Error::State { what: WHAT }) } else { Ok(()) }
}

/// Writes `after` over `before`, where the row still is what was read, and counts what it holds.
pub(super) async fn save(db: &mut Connection, before: &UploadRow, after: &UploadRow) -> Result<()> {
    let updated = sqlx::query(UPDATE)
        .bind(after.state.as_str())
        .bind(write_number("durable bytes", after.durable_bytes)?)
        .bind(after.image.map(|id| write_uuid(id.0)))
        .bind(write_failure(after.failure.as_ref())?)
        .bind(after.update_time.0)
        .bind(after.expire_time.0)
        .bind(write_number("reserved bytes", after.reserved_bytes)?)
        .bind(write_number("reserved images", held(after).images)?)
        .bind(before.tenant.as_str())
        .bind(write_uuid(before.id.0))
        .bind(before.state.as_str())
        .bind(write_number("durable bytes", before.durable_bytes)?)
        .bind(write_number("reserved bytes", before.reserved_bytes)?)
        .execute(&mut *db)
        .await?;
    if updated.rows_affected() == 0 {
        return Err(Error::State { what: WHAT });
    }
    usage::rebook(db, &before.tenant, held(before), held(after)).await
}

/// Writes the end of an upload that made no image, and lets go of what it was for.
async fn end(db: &mut Connection, before: &UploadRow, after: &UploadRow, now: Micros) -> Result<()> {
    save(db, before, after).await?;
    if let Some(record) = before.record {
        records::empty(db, record, before.id, now).await?;
    }
    if let Some(session) = &before.composes {
        sessions::free(db, &before.tenant, session, before.id, now).await?;
    }
    Ok(())
}

/// Aborts an upload, whatever session it belongs to.
pub(super) async fn give_up(db: &mut Connection, before: &UploadRow, now: Micros) -> Result<UploadRow> {
    let after = apply(before, UploadEvent::Abort, now)?;
    if after.state == before.state {
        return Ok(before.clone());
    }
    end(db, before, &after, now).await?;
    Ok(after)
}

pub(super) async fn list(
    db: &mut Connection,
    tenant: &Tenant,
    states: &[UploadState],
    page: Page,
) -> Result<Vec<UploadRow>> {
    let slice = Slice::from(page);
    let mut query = sqlx::query_as::<_, UploadRecord>(SELECT_PAGE).bind(tenant.as_str());
    for state in filter::<5, _>(states, UploadState::ALL, UploadState::as_str) {
        query = query.bind(state);
    }
    let records = query.bind(slice.create_time).bind(slice.id).bind(slice.limit).fetch_all(db).await?;
    records.into_iter().map(UploadRow::try_from).collect()
}

pub(super) async fn extend(
    db: &mut Connection,
    id: UploadId,
    durable_bytes: u64,
    now: Micros,
    expire_time: Micros,
) -> Result<()> {
    let before = load(db, id).await?;
    let mut after = apply(&before, UploadEvent::Extend, now)?;
    after.durable_bytes = before.durable_bytes.max(durable_bytes);
    after.expire_time = expire_time;
    save(db, &before, &after).await?;
    if let Some(part) = &before.part {
        sessions::extend(db, &before.tenant, &part.session, now, expire_time).await?;
    }
    Ok(())
}

pub(super) async fn reserve(
    db: &mut Connection,
    id: UploadId,
    bytes: &RangeInclusive<u64>,
    now: Micros,
) -> Result<u64> {
    let before = load(db, id).await?;
    let mut after = apply(&before, UploadEvent::Extend, now)?;
    let parts_bytes = match &before.composes {
        Some(session) => sessions::held_bytes(db, &before.tenant, session).await?,
        None => 0,
    };
    let held_bytes = parts_bytes.saturating_add(before.reserved_bytes);
    let free_bytes = usage::free_bytes(db, &before.tenant).await?;
    let granted_bytes = held_bytes.saturating_add(free_bytes).min(*bytes.end());
    if granted_bytes <= held_bytes || granted_bytes < *bytes.start() {
        return Ok(held_bytes);
    }
    after.reserved_bytes = granted_bytes.saturating_sub(parts_bytes);
    save(db, &before, &after).await?;
    Ok(granted_bytes)
}

pub(super) async fn declare_size(
    db: &mut Connection,
    id: UploadId,
    size_bytes: u64,
    now: Micros,
) -> Result<UploadRow> {
    let before = load(db, id).await?;
    let after = apply(&before, UploadEvent::Extend, now)?;
    if before.size_bytes.is_some() || size_bytes < before.durable_bytes {
        return Ok(before);
    }
    // As if it had been told at the beginning.
    let after = UploadRow { size_bytes: Some(size_bytes), reserved_bytes: size_bytes, ..after };
    let more = Amount { images: 0, bytes: size_bytes.saturating_sub(before.reserved_bytes) };
    usage::ensure_room(db, &before.tenant, more, Amount::default()).await?;
    sqlx::query(DECLARE_SIZE)
        .bind(write_number("upload size", size_bytes)?)
        .bind(write_uuid(id.0))
        .execute(&mut *db)
        .await?;
    save(db, &before, &after).await?;
    Ok(after)
}

pub(super) async fn abort(
    db: &mut Connection,
    tenant: &Tenant,
    id: UploadId,
    now: Micros,
) -> Result<UploadRow> {
    let before = get(db, tenant, id).await?;
    if let (UploadState::Stored, Some(part)) = (before.state, &before.part) {
        sessions::ensure_not_composed(db, tenant, &part.session).await?;
    }
    give_up(db, &before, now).await
}

pub(super) async fn fail(
    db: &mut Connection,
    id: UploadId,
    failure: JobFailure,
    now: Micros,
) -> Result<UploadRow> {
    let before = load(db, id).await?;
    let mut after = apply(&before, UploadEvent::Refuse, now)?;
    after.failure = Some(failure);
    end(db, &before, &after, now).await?;
    Ok(after)
}

/// Gives up open uploads whose time is over; at most `limit`.
pub(super) async fn expire(db: &mut Connection, now: Micros, limit: usize) -> Result<Vec<UploadId>> {
    let limit = write_number("limit", limit as u64)?;
    let expired: Vec<UploadRecord> =
        sqlx::query_as(SELECT_EXPIRED).bind(now.0).bind(limit).fetch_all(&mut *db).await?;
    let mut aborted = Vec::new();
    for record in expired {
        let upload = UploadRow::try_from(record)?;
        give_up(db, &upload, now).await?;
        aborted.push(upload.id);
    }
    Ok(aborted)
}

/// Forgets uploads that ended before `before`; how many, at most `limit`.
pub(super) async fn forget(db: &mut Connection, before: Micros, limit: u64) -> Result<u64> {
    let deleted = sqlx::query(FORGET).bind(before.0).bind(write_number("limit", limit)?).execute(db).await?;
    Ok(deleted.rows_affected())
}

pub(super) async fn is_open(db: &mut Connection, id: UploadId) -> Result<bool> {
    let any: Option<i64> = sqlx::query_scalar(IS_OPEN).bind(write_uuid(id.0)).fetch_optional(db).await?;
    Ok(any.is_some())
}
