//! Uploads: statements, and the steps of their life.

use imageops_model::{JobFailure, Micros, Tenant, UploadEvent, UploadId, UploadState};

use super::{Connection, image_rows};
use crate::lists::{Slice, filter, found};
use crate::rows::{UploadRecord, read_uuid, write_failure, write_json, write_number, write_uuid};
use crate::{Committed, Created, Error, ImageRow, NewJob, Page, Result, UploadRow};

const WHAT: &str = "upload";

/// Uploads that one call aborts or forgets at most.
const EXPIRE_MAX: i64 = 1_000;

macro_rules! select_uploads {
    ($rest:literal) => {
        concat!(
            "SELECT id, tenant, state, label, details, declared_format, size_bytes, expected_md5, expected_sha256, \
             store, session, part, record, archive, wishes, durable_bytes, reserved_bytes, image, failure, create_time, update_time, expire_time FROM uploads ",
            $rest
        )
    };
}

const SELECT: &str = select_uploads!("WHERE tenant = $1 AND id = $2");

// The server writes for an upload that it has looked up with its tenant; ids are unique over all of them.
const SELECT_BY_ID: &str = select_uploads!("WHERE id = $1");

const SELECT_PAGE: &str = select_uploads!(
    "WHERE tenant = $1 AND state IN ($2, $3, $4, $5, $6) AND (create_time, id) < ($7, $8) \
     ORDER BY create_time DESC, id DESC LIMIT $9"
);

const INSERT: &str = "INSERT INTO uploads (id, tenant, state, label, declared_format, size_bytes, expected_md5, \
     expected_sha256, durable_bytes, create_time, update_time, expire_time, details, store, session, part, record, \
     archive, wishes) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";

const UPDATE: &str = "UPDATE uploads SET state = $1, durable_bytes = $2, image = $3, failure = $4, update_time = $5, \
     expire_time = $6 WHERE tenant = $7 AND id = $8 AND state = $9 AND durable_bytes = $10";

const IS_OPEN: &str = "SELECT CAST(1 AS BIGINT) FROM uploads WHERE id = $1 AND state IN ('open', 'stored')";

const ABORT_EXPIRED: &str = "UPDATE uploads SET state = 'aborted', update_time = $1 WHERE id IN \
     (SELECT id FROM uploads WHERE state = 'open' AND expire_time < $1 ORDER BY expire_time LIMIT $2) \
     AND state = 'open' RETURNING id";

const FORGET: &str = "DELETE FROM uploads WHERE id IN \
     (SELECT id FROM uploads WHERE state IN ('committed', 'aborted', 'failed') AND update_time < $1 ORDER BY update_time LIMIT $2)";

pub(super) async fn create(db: &mut Connection, upload: UploadRow) -> Result<Created<UploadRow>> {
    if let Some(known) = find(db, upload.id).await? {
        return if is_same_request(&known, &upload) {
            Ok(Created::Existing(known))
        } else {
            Err(Error::Conflict { what: WHAT })
        };
    }
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
        .execute(&mut *db)
        .await?;
    Ok(Created::New(get(db, &upload.tenant, upload.id).await?))
}

fn is_same_request(known: &UploadRow, asked: &UploadRow) -> bool {
    known.tenant == asked.tenant
        && known.label == asked.label
        && known.details == asked.details
        && known.declared_format == asked.declared_format
        && known.size_bytes == asked.size_bytes
        && known.expected_md5 == asked.expected_md5
        && known.expected_sha256 == asked.expected_sha256
}

pub(super) async fn get(db: &mut Connection, tenant: &Tenant, id: UploadId) -> Result<UploadRow> {
    let record: Option<UploadRecord> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}

async fn find(db: &mut Connection, id: UploadId) -> Result<Option<UploadRow>> {
    let record: Option<UploadRecord> =
        sqlx::query_as(SELECT_BY_ID).bind(write_uuid(id.0)).fetch_optional(db).await?;
    record.map(UploadRow::try_from).transpose()
}

async fn load(db: &mut Connection, id: UploadId) -> Result<UploadRow> {
    found(find(db, id).await?, WHAT)
}

/// Moves `before` by the state machine and returns the row to be changed further and saved.
fn apply(before: &UploadRow, event: UploadEvent, now: Micros) -> Result<UploadRow> {
    let state = before.state.after(event).map_err(|_| Error::State { what: WHAT })?;
    Ok(UploadRow { state, update_time: now, ..before.clone() })
}

/// Writes `after` over `before`, where the row still is what was read.
async fn save(db: &mut Connection, before: &UploadRow, after: &UploadRow) -> Result<()> {
    let updated = sqlx::query(UPDATE)
        .bind(after.state.as_str())
        .bind(write_number("durable bytes", after.durable_bytes)?)
        .bind(after.image.map(|id| write_uuid(id.0)))
        .bind(write_failure(after.failure.as_ref())?)
        .bind(after.update_time.0)
        .bind(after.expire_time.0)
        .bind(before.tenant.as_str())
        .bind(write_uuid(before.id.0))
        .bind(before.state.as_str())
        .bind(write_number("durable bytes", before.durable_bytes)?)
        .execute(db)
        .await?;
    if updated.rows_affected() == 1 { Ok(()) } else { Err(Error::State { what: WHAT }) }
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
    save(db, &before, &after).await
}

pub(super) async fn commit(
    db: &mut Connection,
    id: UploadId,
    image: &ImageRow,
    _check_job: &Option<NewJob>,
    now: Micros,
) -> Result<Committed> {
    let before = load(db, id).await?;
    let mut after = apply(&before, UploadEvent::Commit, now)?;
    after.image = Some(image.id);
    // Bytes are flushed before they are committed: all of them are durable now.
    after.durable_bytes = image.size_bytes;
    image_rows::insert(db, &before.tenant, image, image.size_bytes).await?;
    save(db, &before, &after).await?;
    Ok(Committed { upload: after, image: image.clone(), check_job: None, discard: Vec::new() })
}

pub(super) async fn abort(
    db: &mut Connection,
    tenant: &Tenant,
    id: UploadId,
    now: Micros,
) -> Result<UploadRow> {
    let before = get(db, tenant, id).await?;
    let after = apply(&before, UploadEvent::Abort, now)?;
    if after.state == before.state {
        return Ok(before);
    }
    save(db, &before, &after).await?;
    Ok(after)
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
    save(db, &before, &after).await?;
    Ok(after)
}

pub(super) async fn expire(db: &mut Connection, now: Micros, forget_before: Micros) -> Result<Vec<UploadId>> {
    let aborted: Vec<String> =
        sqlx::query_scalar(ABORT_EXPIRED).bind(now.0).bind(EXPIRE_MAX).fetch_all(&mut *db).await?;
    sqlx::query(FORGET).bind(forget_before.0).bind(EXPIRE_MAX).execute(db).await?;
    aborted.iter().map(|id| Ok(UploadId(read_uuid("upload id", id)?))).collect()
}

pub(super) async fn is_open(db: &mut Connection, id: UploadId) -> Result<bool> {
    let any: Option<i64> = sqlx::query_scalar(IS_OPEN).bind(write_uuid(id.0)).fetch_optional(db).await?;
    Ok(any.is_some())
}
