//! Uploads in parts: a session begins with its first part, and ends when it is composed, given up, or forgotten.

use imageops_model::{Micros, Tenant, UploadEvent, UploadId, UploadState};

use super::Connection;
use super::uploads::{self, select_uploads};
use super::usage::{self, Amount};
use crate::lists::found;
use crate::rows::{UploadRecord, write_uuid};
use crate::{Created, Error, ImageRow, Result, UploadPart, UploadRow};

const WHAT: &str = "session";

/// How long stored parts wait at least for the next one.
const WAIT_MS_MIN: i64 = 24 * 3_600_000;

const SELECT: &str = "SELECT composing FROM upload_sessions WHERE tenant = $1 AND session = $2";

const JOIN: &str = "INSERT INTO upload_sessions (tenant, session, create_time, update_time, expire_time) \
     VALUES ($1, $2, $3, $3, $4) ON CONFLICT (tenant, session) DO UPDATE SET update_time = excluded.update_time, \
     expire_time = CASE WHEN excluded.expire_time > upload_sessions.expire_time \
     THEN excluded.expire_time ELSE upload_sessions.expire_time END";

const COMPOSE: &str =
    "UPDATE upload_sessions SET composing = $1, update_time = $2 WHERE tenant = $3 AND session = $4";

const FREE: &str = "UPDATE upload_sessions SET composing = NULL, update_time = $1 \
     WHERE tenant = $2 AND session = $3 AND composing = $4";

const DELETE: &str = "DELETE FROM upload_sessions WHERE tenant = $1 AND session = $2";

pub(super) const SELECT_EXPIRED: &str = "SELECT tenant, session FROM upload_sessions \
     WHERE composing IS NULL AND expire_time < $1 ORDER BY expire_time LIMIT 1";

pub(super) const SELECT_PARTS: &str = select_uploads!(
    "WHERE tenant = $1 AND session = $2 AND state = 'stored' AND part IS NOT NULL ORDER BY part"
);

// What composes them comes first: it must not make an image while its parts are given up.
pub(super) const SELECT_LIVE: &str = select_uploads!(
    "WHERE tenant = $1 AND session = $2 AND state IN ('open', 'stored') ORDER BY part NULLS FIRST, id LIMIT $3"
);

const SELECT_STORED: &str =
    select_uploads!("WHERE tenant = $1 AND session = $2 AND part = $3 AND state = 'stored'");

/// What an upload that joins a session leaves of it.
pub(super) struct Joined {
    /// Parts whose staged bytes can go.
    pub(super) parts: Vec<UploadId>,
    /// Bytes of the quota that they held.
    pub(super) held_bytes: u64,
}

/// A part begins: makes the session, or extends it.
pub(super) async fn join(db: &mut Connection, upload: &UploadRow, part: &UploadPart) -> Result<()> {
    ensure_not_composed(db, &upload.tenant, &part.session).await?;
    extend(db, &upload.tenant, &part.session, upload.create_time, upload.expire_time).await
}

/// The session lives at least until `expire_time`, and a day from now.
pub(super) async fn extend(
    db: &mut Connection,
    tenant: &Tenant,
    session: &str,
    now: Micros,
    expire_time: Micros,
) -> Result<()> {
    sqlx::query(JOIN)
        .bind(tenant.as_str())
        .bind(session)
        .bind(now.0)
        .bind(expire_time.max(now.plus_ms(WAIT_MS_MIN)).0)
        .execute(db)
        .await?;
    Ok(())
}

/// The upload that composes the session; the outer `None`: there is no session.
async fn composing(db: &mut Connection, tenant: &Tenant, session: &str) -> Result<Option<Option<String>>> {
    let row: Option<(Option<String>,)> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(session).fetch_optional(db).await?;
    Ok(row.map(|(composing,)| composing))
}

pub(super) async fn ensure_not_composed(db: &mut Connection, tenant: &Tenant, session: &str) -> Result<()> {
    match composing(db, tenant, session).await? {
        Some(Some(_)) => Err(Error::State { what: WHAT }),
        Some(None) | None => Ok(()),
    }
}

pub(super) async fn store_part(
    db: &mut Connection,
    id: UploadId,
    part: &UploadPart,
    now: Micros,
) -> Result<Vec<UploadId>> {
    let before = uploads::load(db, id).await?;
    let mut after = uploads::apply(&before, UploadEvent::Store, now)?;
    match &before.part {
        Some(declared) if declared == part => {}
        None if can_become_part(&before) => uploads::name_part(db, &before, part).await?,
        _ => return Err(Error::State { what: uploads::WHAT }),
    }
    ensure_not_composed(db, &before.tenant, &part.session).await?;
    let same_place: Vec<UploadRecord> = sqlx::query_as(SELECT_STORED)
        .bind(before.tenant.as_str())
        .bind(&part.session)
        .bind(i64::from(part.number))
        .fetch_all(&mut *db)
        .await?;
    let replaced = abort_all(db, same_place, now).await?;
    after.reserved_bytes = before.durable_bytes;
    let (wanted, held) = (Amount { images: 0, bytes: after.reserved_bytes }, uploads::held(&before));
    usage::ensure_room(db, &before.tenant, wanted, held).await?;
    uploads::save(db, &before, &after).await?;
    extend(db, &before.tenant, &part.session, now, before.expire_time).await?;
    Ok(replaced)
}

fn can_become_part(upload: &UploadRow) -> bool {
    upload.composes.is_none() && upload.record.is_none() && upload.archive.is_none()
}

pub(super) async fn list_parts(
    db: &mut Connection,
    tenant: &Tenant,
    session: &str,
) -> Result<Vec<UploadRow>> {
    let records: Vec<UploadRecord> =
        sqlx::query_as(SELECT_PARTS).bind(tenant.as_str()).bind(session).fetch_all(db).await?;
    records.into_iter().map(UploadRow::try_from).collect()
}

/// Bytes of the quota that the stored parts of a session hold.
pub(super) async fn held_bytes(db: &mut Connection, tenant: &Tenant, session: &str) -> Result<u64> {
    Ok(sum_held(&list_parts(db, tenant, session).await?))
}

fn sum_held(parts: &[UploadRow]) -> u64 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.reserved_bytes))
}

pub(super) async fn begin_compose(
    db: &mut Connection,
    upload: UploadRow,
    session: &str,
    now: Micros,
) -> Result<(Created<UploadRow>, Vec<UploadRow>)> {
    let upload = UploadRow { part: None, composes: Some(session.to_owned()), ..upload };
    if let Some(known) = uploads::find_same(db, &upload).await? {
        let parts = list_parts(db, &upload.tenant, session).await?;
        return Ok((Created::Existing(known), parts));
    }
    let composing = found(composing(db, &upload.tenant, session).await?, WHAT)?;
    if composing.is_some() {
        return Err(Error::State { what: WHAT });
    }
    let parts = list_parts(db, &upload.tenant, session).await?;
    if parts.is_empty() {
        return Err(Error::NotFound { what: WHAT });
    }
    let missing_bytes = upload.size_bytes.unwrap_or(0).saturating_sub(sum_held(&parts));
    let row = uploads::add(db, upload, missing_bytes).await?;
    sqlx::query(COMPOSE)
        .bind(write_uuid(row.id.0))
        .bind(now.0)
        .bind(row.tenant.as_str())
        .bind(session)
        .execute(db)
        .await?;
    Ok((Created::New(row), parts))
}

/// The upload that composed the session ended without success: it is as before.
pub(super) async fn free(
    db: &mut Connection,
    tenant: &Tenant,
    session: &str,
    upload: UploadId,
    now: Micros,
) -> Result<()> {
    sqlx::query(FREE)
        .bind(now.0)
        .bind(tenant.as_str())
        .bind(session)
        .bind(write_uuid(upload.0))
        .execute(db)
        .await?;
    Ok(())
}

/// The session became an image: stored parts are committed, open ones came too late, and it is gone.
pub(super) async fn dissolve(
    db: &mut Connection,
    tenant: &Tenant,
    session: &str,
    image: &ImageRow,
    now: Micros,
) -> Result<Joined> {
    let stored = list_parts(db, tenant, session).await?;
    for part in &stored {
        let mut after = uploads::apply(part, UploadEvent::Commit, now)?;
        after.image = Some(image.id);
        uploads::save(db, part, &after).await?;
    }
    let late = live(db, tenant, session, usize::MAX).await?;
    let late = abort_all(db, late, now).await?;
    sqlx::query(DELETE).bind(tenant.as_str()).bind(session).execute(db).await?;
    let parts = stored.iter().map(|part| part.id).chain(late).collect();
    Ok(Joined { parts, held_bytes: sum_held(&stored) })
}

pub(super) async fn abort_composition(db: &mut Connection, id: UploadId, now: Micros) -> Result<bool> {
    let Some(upload) = uploads::find(db, id).await? else { return Ok(false) };
    if upload.composes.is_none() || upload.state != UploadState::Open {
        return Ok(false);
    }
    uploads::abort(db, &upload.tenant, id, now).await?;
    Ok(true)
}

/// Gives up at most `limit` uploads of a session, and the session with the last of them; it is over when there were fewer.
pub(super) async fn abort(
    db: &mut Connection,
    tenant: &Tenant,
    session: &str,
    now: Micros,
    limit: usize,
) -> Result<Vec<UploadId>> {
    let some = live(db, tenant, session, limit).await?;
    let is_over = some.len() < limit;
    let aborted = abort_all(db, some, now).await?;
    if is_over {
        sqlx::query(DELETE).bind(tenant.as_str()).bind(session).execute(db).await?;
    }
    Ok(aborted)
}

/// Gives up at most `limit` uploads of the session whose time is over for longest, as [`abort`] does; their ids. `None` when
/// there is no such session.
pub(super) async fn expire(db: &mut Connection, now: Micros, limit: usize) -> Result<Option<Vec<UploadId>>> {
    let expired: Option<(String, String)> =
        sqlx::query_as(SELECT_EXPIRED).bind(now.0).fetch_optional(&mut *db).await?;
    let Some((tenant, session)) = expired else { return Ok(None) };
    Ok(Some(abort(db, &crate::rows::read_tenant(tenant)?, &session, now, limit).await?))
}

async fn live(
    db: &mut Connection,
    tenant: &Tenant,
    session: &str,
    limit: usize,
) -> Result<Vec<UploadRecord>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    Ok(sqlx::query_as(SELECT_LIVE).bind(tenant.as_str()).bind(session).bind(limit).fetch_all(db).await?)
}

async fn abort_all(db: &mut Connection, records: Vec<UploadRecord>, now: Micros) -> Result<Vec<UploadId>> {
    let mut aborted = Vec::new();
    for record in records {
        let upload = UploadRow::try_from(record)?;
        uploads::give_up(db, &upload, now).await?;
        aborted.push(upload.id);
    }
    Ok(aborted)
}
