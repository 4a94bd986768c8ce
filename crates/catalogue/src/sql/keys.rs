//! Access keys. A key is found by the digest of its secret: what an attacker could learn from the time of the look-up is
//! the digest's beginning, which does not lead to a secret.

use imageops_model::{KeyId, Micros, Tenant};

use super::Connection;
use crate::lists::{Slice, found};
use crate::rows::{KeyRecord, write_scopes, write_uuid};
use crate::{Error, KeyProof, KeyRow, Page, Result};

const WHAT: &str = "key";

macro_rules! select_keys {
    ($rest:literal) => {
        concat!(
            "SELECT id, proof, secret_sha256, tenant, scopes, label, create_time, expire_time, revoke_time \
             FROM access_keys ",
            $rest
        )
    };
}

const INSERT: &str = "INSERT INTO access_keys \
     (id, proof, secret_sha256, tenant, scopes, label, create_time, expire_time, revoke_time) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";

const SELECT: &str = select_keys!("WHERE id = $1 AND ($2 IS NULL OR tenant = $2)");

const SELECT_PAGE: &str = select_keys!(
    "WHERE ($1 IS NULL OR tenant = $1) AND (create_time, id) < ($2, $3) ORDER BY create_time DESC, id DESC LIMIT $4"
);

const SELECT_VALID: &str = select_keys!(
    "WHERE secret_sha256 = $1 AND proof = $2 AND revoke_time IS NULL AND (expire_time IS NULL OR expire_time > $3)"
);

const REVOKE: &str = "UPDATE access_keys SET revoke_time = $1 \
     WHERE id = $2 AND ($3 IS NULL OR tenant = $3) AND revoke_time IS NULL";

pub(super) async fn create(db: &mut Connection, key: &KeyRow) -> Result<()> {
    let inserted = sqlx::query(INSERT)
        .bind(write_uuid(key.id.0))
        .bind(key.proof.as_str())
        .bind(key.proof_sha256.as_slice())
        .bind(key.tenant.as_str())
        .bind(write_scopes(&key.scopes))
        .bind(key.label.as_str())
        .bind(key.create_time.0)
        .bind(key.expire_time.map(|time| time.0))
        .bind(key.revoke_time.map(|time| time.0))
        .execute(db)
        .await?;
    if inserted.rows_affected() == 1 { Ok(()) } else { Err(Error::Conflict { what: WHAT }) }
}

pub(super) async fn get(db: &mut Connection, tenant: Option<&Tenant>, id: KeyId) -> Result<KeyRow> {
    let record: Option<KeyRecord> = sqlx::query_as(SELECT)
        .bind(write_uuid(id.0))
        .bind(tenant.map(Tenant::as_str))
        .fetch_optional(db)
        .await?;
    found(record, WHAT)?.try_into()
}

pub(super) async fn list(db: &mut Connection, tenant: Option<&Tenant>, page: Page) -> Result<Vec<KeyRow>> {
    let slice = Slice::from(page);
    let records: Vec<KeyRecord> = sqlx::query_as(SELECT_PAGE)
        .bind(tenant.map(Tenant::as_str))
        .bind(slice.create_time)
        .bind(slice.id)
        .bind(slice.limit)
        .fetch_all(db)
        .await?;
    records.into_iter().map(KeyRow::try_from).collect()
}

pub(super) async fn find(
    db: &mut Connection,
    proof: KeyProof,
    sha256: &[u8; 32],
    now: Micros,
) -> Result<Option<KeyRow>> {
    let record: Option<KeyRecord> = sqlx::query_as(SELECT_VALID)
        .bind(sha256.as_slice())
        .bind(proof.as_str())
        .bind(now.0)
        .fetch_optional(db)
        .await?;
    record.map(KeyRow::try_from).transpose()
}

pub(super) async fn revoke(
    db: &mut Connection,
    tenant: Option<&Tenant>,
    id: KeyId,
    now: Micros,
) -> Result<KeyRow> {
    sqlx::query(REVOKE)
        .bind(now.0)
        .bind(write_uuid(id.0))
        .bind(tenant.map(Tenant::as_str))
        .execute(&mut *db)
        .await?;
    get(db, tenant, id).await
}
