//! Hidden images that stand beside others: slim ones, and conversions that are kept while there is room.

use imageops_model::{CompanionKind, ImageId, ImageState, JobId, Micros, Tenant};

use super::images::{self, WHAT, select_images};
use super::usage::{self, Amount};
use super::{Connection, image_rows, jobs, removal};
use crate::lists::found;
use crate::rows::{ImageRecord, StoredJob, read_number, write_uuid};
use crate::{Companion, Conversions, Error, ImageRow, Result};

/// How often a use is recorded at most.
const TOUCH_MS_MIN: i64 = 60_000;

pub(super) const SELECT_OF: &str = select_images!("WHERE companion_of = $1 ORDER BY id");

pub(super) const SELECT_KEY: &str = select_images!("WHERE tenant = $1 AND companion_key = $2");

pub(super) const SELECT_BY_USE: &str = select_images!(
    "WHERE companion_kind = 'conversion' ORDER BY COALESCE(use_time, create_time), id LIMIT $1"
);

const SUM: &str =
    "SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM images WHERE companion_kind = 'conversion'";

const IS_TOUCH_DUE: &str =
    "SELECT CAST(1 AS BIGINT) FROM images WHERE id = $1 AND (use_time IS NULL OR use_time <= $2)";

const TOUCH: &str = "UPDATE images SET use_time = $1 WHERE id = $2 AND (use_time IS NULL OR use_time <= $3)";

const SET_SLIM: &str = "UPDATE images SET slim_image = $1, slim_time = $2, slim_failure = NULL, \
     slim_job = COALESCE(slim_job, $3) WHERE tenant = $4 AND id = $5";

const FORGET_SLIM: &str =
    "UPDATE images SET slim_image = NULL WHERE slim_image = $1 AND tenant = $2 AND id = $3";

/// The companions of an image.
pub(super) async fn of(db: &mut Connection, image: ImageId) -> Result<Vec<ImageRow>> {
    let records: Vec<ImageRecord> = sqlx::query_as(SELECT_OF).bind(write_uuid(image.0)).fetch_all(db).await?;
    records.into_iter().map(ImageRow::try_from).collect()
}

async fn find(db: &mut Connection, tenant: &Tenant, key: &str) -> Result<Option<ImageRow>> {
    let record: Option<ImageRecord> =
        sqlx::query_as(SELECT_KEY).bind(tenant.as_str()).bind(key).fetch_optional(db).await?;
    record.map(ImageRow::try_from).transpose()
}

pub(super) async fn find_conversion(
    db: &mut Connection,
    tenant: &Tenant,
    key: &str,
) -> Result<Option<ImageRow>> {
    let is_conversion = |image: &ImageRow| {
        image.state == ImageState::Active
            && image.companion.as_ref().is_some_and(|companion| companion.kind == CompanionKind::Conversion)
    };
    Ok(find(db, tenant, key).await?.filter(is_conversion))
}

/// Adds the companion that a job made; `job` as it was before its end.
pub(super) async fn insert(
    db: &mut Connection,
    job: &StoredJob,
    image: &ImageRow,
    companion: &Companion,
    now: Micros,
) -> Result<()> {
    let (tenant, held) = (&job.row.tenant, jobs::held(job));
    join(db, (tenant, held), job.row.id, image, companion, now).await
}

/// Adds a companion that `made_by` brought, to a tenant that has `held` for it.
pub(super) async fn join(
    db: &mut Connection,
    (tenant, held): (&Tenant, Amount),
    made_by: JobId,
    image: &ImageRow,
    companion: &Companion,
    now: Micros,
) -> Result<()> {
    let source = images::get_own(db, tenant, companion.of, None).await?;
    if let Some(key) = &companion.key
        && let Some(known) = find(db, tenant, key).await?
    {
        if known.state == ImageState::Active {
            return Err(Error::Conflict { what: WHAT });
        }
        // Its bytes are not to be trusted any more.
        removal::remove_row(db, &known, now).await?;
    }
    match companion.kind {
        // Kept for the service's own good, so it costs the tenant nothing.
        CompanionKind::Conversion => image_rows::insert(db, tenant, image, 0).await,
        CompanionKind::Slim => {
            if let Some(former) = source.slim.and_then(|slim| slim.image)
                && let Some(former) = images::find(db, former).await?
            {
                removal::remove_row(db, &former, now).await?;
            }
            let came = Amount { images: 0, bytes: image.size_bytes };
            usage::ensure_room(db, tenant, came, held).await?;
            usage::charge(db, tenant, came).await?;
            image_rows::insert(db, tenant, image, image.size_bytes).await?;
            sqlx::query(SET_SLIM)
                .bind(write_uuid(image.id.0))
                .bind(now.0)
                .bind(write_uuid(made_by.0))
                .bind(tenant.as_str())
                .bind(write_uuid(source.id.0))
                .execute(db)
                .await?;
            Ok(())
        }
    }
}

pub(super) async fn is_touch_due(db: &mut Connection, id: ImageId, now: Micros) -> Result<bool> {
    let due: Option<i64> = sqlx::query_scalar(IS_TOUCH_DUE)
        .bind(write_uuid(id.0))
        .bind(now.plus_ms(-TOUCH_MS_MIN).0)
        .fetch_optional(db)
        .await?;
    Ok(due.is_some())
}

pub(super) async fn touch(db: &mut Connection, id: ImageId, now: Micros) -> Result<()> {
    sqlx::query(TOUCH)
        .bind(now.0)
        .bind(write_uuid(id.0))
        .bind(now.plus_ms(-TOUCH_MS_MIN).0)
        .execute(db)
        .await?;
    Ok(())
}

pub(super) async fn list_by_use(db: &mut Connection, limit: u32) -> Result<Conversions> {
    let bytes: i64 = sqlx::query_scalar(SUM).fetch_one(&mut *db).await?;
    let records: Vec<ImageRecord> =
        sqlx::query_as(SELECT_BY_USE).bind(i64::from(limit.clamp(1, 1_000))).fetch_all(db).await?;
    let images = records.into_iter().map(ImageRow::try_from).collect::<Result<_>>()?;
    Ok(Conversions { images, bytes: read_number("bytes of conversions", bytes)? })
}

pub(super) async fn purge(db: &mut Connection, id: ImageId, now: Micros) -> Result<()> {
    let image = found(images::find(db, id).await?, WHAT)?;
    let companion = image.companion.as_ref().ok_or(Error::State { what: WHAT })?;
    removal::remove_row(db, &image, now).await?;
    sqlx::query(FORGET_SLIM)
        .bind(write_uuid(id.0))
        .bind(image.tenant.as_str())
        .bind(write_uuid(companion.of.0))
        .execute(db)
        .await?;
    Ok(())
}
