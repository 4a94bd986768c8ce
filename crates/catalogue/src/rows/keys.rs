//! Access keys.

use imageops_model::{KeyId, Micros};

use super::{corrupt, read_label, read_scopes, read_tenant, read_uuid};
use crate::{Error, KeyProof, KeyRow, Result};

#[derive(sqlx::FromRow)]
pub(crate) struct KeyRecord {
    id: String,
    proof: String,
    secret_sha256: Vec<u8>,
    tenant: String,
    scopes: String,
    label: String,
    create_time: i64,
    expire_time: Option<i64>,
    revoke_time: Option<i64>,
}

impl TryFrom<KeyRecord> for KeyRow {
    type Error = Error;

    fn try_from(record: KeyRecord) -> Result<Self> {
        Ok(Self {
            id: KeyId(read_uuid("key id", &record.id)?),
            proof: KeyProof::parse(&record.proof).ok_or_else(|| corrupt("key proof"))?,
            proof_sha256: record.secret_sha256.try_into().map_err(|_| corrupt("key digest"))?,
            tenant: read_tenant(record.tenant)?,
            scopes: read_scopes(&record.scopes)?,
            label: read_label(record.label)?,
            create_time: Micros(record.create_time),
            expire_time: record.expire_time.map(Micros),
            revoke_time: record.revoke_time.map(Micros),
        })
    }
}
