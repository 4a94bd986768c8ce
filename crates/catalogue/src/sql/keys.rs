//! Access keys. A key is found by the digest of its secret: what an attacker could learn from the time of the look-up is
//! the digest's beginning, which does not lead to a secret.

use imageops_model::{KeyId, Micros};

use super::Connection;
use crate::lists::found;
use crate::rows::{KeyRecord, write_scopes, write_uuid};
use crate::{Error, KeyRow, Result};

const WHAT: &str = "key";

macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT id, secret_sha256, tenant, scopes, label, create_time, revoke_time FROM access_keys ",
            $rest
        )
    };
}

const INSERT: &str = "INSERT INTO access_keys (id, secret_sha256, tenant, scopes, label, create_time, revoke_time) \
     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";

const SELECT: &str = select_keys!("WHERE id = $1");

const SELECT_ALL: &str = select_keys!("ORDER BY create_time DESC, id DESC");

const SELECT_VALID: &str = select_keys!("WHERE secret_sha256 = $1 AND revoke_time IS NULL");

const REVOKE: &str = "UPDATE access_keys SET revoke_time = $1 WHERE id = $2 AND revoke_time IS NULL";

pub(super) async fn create(db: &mut Connection, key: &KeyRow) -> Result<()> {
    let inserted = sqlx::query(INSERT)
        .bind(write_uuid(key.id.0))
        .bind(key.secret_sha256.as_slice())
        .bind(key.tenant.as_str())
        .bind(write_scopes(&key.scopes))
        .bind(key.label.as_str())
        .bind(key.create_time.0)
        .bind(key.revoke_time.map(|time| time.0))
        .execute(db)
        .await?;
    if inserted.rows_affected() == 1 { Ok(()) } else { Err(Error::Conflict { what: WHAT }) }
}

pub(super) async fn list(db: &mut Connection) -> Result<Vec<KeyRow>> {
    let records: Vec<KeyRecord> = sqlx::query_as(SELECT_ALL).fetch_all(db).await?;
    records.into_iter().map(KeyRow::try_from).collect()
}

pub(super) async fn find(db: &mut Connection, secret_sha256: &[u8; 32]) -> Result<Option<KeyRow>> {
    let record: Option<KeyRecord> =
        sqlx::query_as(SELECT_VALID).bind(secret_sha256.as_slice()).fetch_optional(db).await?;
    record.map(KeyRow::try_from).transpose()
}

pub(super) async fn revoke(db: &mut Connection, id: KeyId, now: Micros) -> Result<KeyRow> {
    sqlx::query(REVOKE).bind(now.0).bind(write_uuid(id.0)).execute(&mut *db).await?;
    let record: Option<KeyRecord> = sqlx::query_as(SELECT).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}
