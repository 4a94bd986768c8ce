//! What tenants have, what is promised to them, and their limits.
//!
//! The row of a tenant is changed in the transaction that changes the rows that it counts: it is always their sum.

use imageops_model::Tenant;

use super::Connection;
use crate::rows::{UsageRecord, write_number};
use crate::{Error, Quota, Result, Usage};

// The tenant without a name sorts before all others.
const SELECT: &str = "SELECT COALESCE(usage.images, 0) AS images, COALESCE(usage.bytes, 0) AS bytes, \
     COALESCE(usage.reserved_images, 0) AS reserved_images, COALESCE(usage.reserved_bytes, 0) AS reserved_bytes, \
     quotas.images_max, quotas.bytes_max FROM (SELECT 1 AS one) AS always LEFT JOIN usage ON usage.tenant = $1 \
     LEFT JOIN quotas ON quotas.tenant = (SELECT MAX(tenant) FROM quotas WHERE tenant IN ('', $1))";

const BOOK: &str = "INSERT INTO usage (tenant, images, bytes, reserved_images, reserved_bytes) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant) DO UPDATE SET images = usage.images + excluded.images, \
     bytes = usage.bytes + excluded.bytes, reserved_images = usage.reserved_images + excluded.reserved_images, \
     reserved_bytes = usage.reserved_bytes + excluded.reserved_bytes";

const SET_QUOTA: &str = "INSERT INTO quotas (tenant, images_max, bytes_max) VALUES ($1, $2, $3) \
     ON CONFLICT (tenant) DO UPDATE SET images_max = excluded.images_max, bytes_max = excluded.bytes_max";

const FORGET_QUOTA: &str = "DELETE FROM quotas WHERE tenant = $1";

/// Images and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amount {
    pub(super) images: u64,
    pub(super) bytes: u64,
}

pub(super) async fn get(db: &mut Connection, tenant: &Tenant) -> Result<Usage> {
    let record: UsageRecord = sqlx::query_as(SELECT).bind(tenant.as_str()).fetch_one(db).await?;
    record.try_into()
}

pub(super) async fn set_quota(
    db: &mut Connection,
    tenant: Option<&Tenant>,
    quota: Option<Quota>,
) -> Result<()> {
    let tenant = tenant.map(Tenant::as_str).unwrap_or_default();
    let limit = |limit: Option<u64>| limit.map(|limit| write_number("quota", limit)).transpose();
    let query = match quota {
        Some(quota) => {
            sqlx::query(SET_QUOTA).bind(tenant).bind(limit(quota.images_max)?).bind(limit(quota.bytes_max)?)
        }
        None => sqlx::query(FORGET_QUOTA).bind(tenant),
    };
    query.execute(db).await?;
    Ok(())
}

/// Refuses what the quota does not allow; what is `held` already needs no room, also when the quota has become smaller since.
pub(super) async fn ensure_room(
    db: &mut Connection,
    tenant: &Tenant,
    wanted: Amount,
    held: Amount,
) -> Result<()> {
    if wanted.images <= held.images && wanted.bytes <= held.bytes {
        return Ok(());
    }
    let usage = get(db, tenant).await?;
    let images = usage.images.saturating_add(usage.reserved_images);
    let bytes = usage.bytes.saturating_add(usage.reserved_bytes);
    for (what, used, limit, wanted, held) in [
        ("images", images, usage.quota.images_max, wanted.images, held.images),
        ("bytes", bytes, usage.quota.bytes_max, wanted.bytes, held.bytes),
    ] {
        if let Some(limit) = limit
            && wanted > held
            && used.saturating_add(wanted) > limit
        {
            return Err(Error::QuotaExceeded { what, limit, used });
        }
    }
    Ok(())
}

/// Bytes that the quota still allows.
pub(super) async fn free_bytes(db: &mut Connection, tenant: &Tenant) -> Result<u64> {
    let usage = get(db, tenant).await?;
    let used = usage.bytes.saturating_add(usage.reserved_bytes);
    Ok(usage.quota.bytes_max.map_or(u64::MAX, |limit| limit.saturating_sub(used)))
}

/// Counts what was promised anew in place of what was promised before.
pub(super) async fn rebook(
    db: &mut Connection,
    tenant: &Tenant,
    before: Amount,
    after: Amount,
) -> Result<()> {
    book(db, tenant, (Amount::default(), Amount::default()), (before, after)).await
}

/// Counts images that came.
pub(super) async fn charge(db: &mut Connection, tenant: &Tenant, came: Amount) -> Result<()> {
    book(db, tenant, (Amount::default(), came), (Amount::default(), Amount::default())).await
}

/// Counts images that went.
pub(super) async fn uncharge(db: &mut Connection, tenant: &Tenant, went: Amount) -> Result<()> {
    book(db, tenant, (went, Amount::default()), (Amount::default(), Amount::default())).await
}

/// Each pair: as it was counted, as it is to be.
async fn book(
    db: &mut Connection,
    tenant: &Tenant,
    there: (Amount, Amount),
    promised: (Amount, Amount),
) -> Result<()> {
    if there.0 == there.1 && promised.0 == promised.1 {
        return Ok(());
    }
    let difference = |before: u64, after: u64| -> Result<i64> {
        Ok(write_number("usage", after)? - write_number("usage", before)?)
    };
    sqlx::query(BOOK)
        .bind(tenant.as_str())
        .bind(difference(there.0.images, there.1.images)?)
        .bind(difference(there.0.bytes, there.1.bytes)?)
        .bind(difference(promised.0.images, promised.1.images)?)
        .bind(difference(promised.0.bytes, promised.1.bytes)?)
        .execute(db)
        .await?;
    Ok(())
}
