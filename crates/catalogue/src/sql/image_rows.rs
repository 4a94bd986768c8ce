//! Images: writing their rows.

use std::collections::BTreeMap;

use imageops_model::{ImageDetails, ImageFacts, ImageId, Micros, Tenant};
use sqlx::query::Query;

use super::images::WHAT;
use super::{Connection, replicas};
use crate::rows::{write_failure, write_number, write_uuid};
use crate::{Error, ImageRow, Result};

type Database = <Connection as sqlx::Connection>::Database;
type Statement<'q> = Query<'q, Database, <Database as sqlx::Database>::Arguments>;

const INSERT: &str = "INSERT INTO images (id, tenant, companion_of, companion_kind, companion_key, use_time, create_time, \
     label, state, description, protected, hidden, disk_format, container_format, min_disk_gib, min_ram_mib, \
     media_type, platform, architecture, guest_os_type, system, virtio, origin_url, enabled, quarantine, \
     upload, revision, update_time, trash_time, purge_time, format, size_bytes, virtual_size_bytes, md5, \
     sha256, sha512, crc32, derived_from, charged_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
     $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, \
     $32, $33, $34, $35, $36, $37, $38, $39) ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE images SET label = $1, state = $2, description = $3, protected = $4, hidden = $5, disk_format = \
     $6, container_format = $7, min_disk_gib = $8, min_ram_mib = $9, media_type = $10, platform = $11, \
     architecture = $12, guest_os_type = $13, system = $14, virtio = $15, origin_url = $16, enabled = $17, \
     quarantine = $18, upload = $19, revision = $20, update_time = $21, trash_time = $22, purge_time = $23 \
     WHERE tenant = $24 AND id = $25 AND revision = $26";

const FILL: &str = "UPDATE images SET format = $1, size_bytes = $2, virtual_size_bytes = $3, md5 = $4, sha256 = $5, sha512 = \
     $6, crc32 = $7, derived_from = $8, charged_bytes = $9 WHERE tenant = $10 AND id = $11";

const SET_CHECK: &str = "UPDATE images SET check_job = $1, check_result = $2, check_failure = $3, check_time = $4 \
     WHERE tenant = $5 AND id = $6";

const INSERT_TEXT: &str = "INSERT INTO image_texts (image, kind, name, value) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (image, kind, name) DO UPDATE SET value = excluded.value";

const DELETE_TEXT: &str = "DELETE FROM image_texts WHERE image = $1 AND kind = $2 AND name = $3";

const IS_RETIRED: &str = "SELECT CAST(1 AS BIGINT) FROM retired_images WHERE id = $1";

/// Adds an image of `tenant`, for which its usage counts `charged_bytes`; it can only be that tenant's.
pub(super) async fn insert(
    db: &mut Connection,
    tenant: &Tenant,
    image: &ImageRow,
    charged_bytes: u64,
) -> Result<()> {
    let retired: Option<i64> =
        sqlx::query_scalar(IS_RETIRED).bind(write_uuid(image.id.0)).fetch_optional(&mut *db).await?;
    if image.tenant != *tenant || retired.is_some() {
        return Err(Error::Conflict { what: WHAT });
    }
    let companion = image.companion.as_ref();
    let query = sqlx::query(INSERT)
        .bind(write_uuid(image.id.0))
        .bind(tenant.as_str())
        .bind(companion.map(|companion| write_uuid(companion.of.0)))
        .bind(companion.map(|companion| companion.kind.as_str()))
        .bind(companion.and_then(|companion| companion.key.as_deref()))
        .bind(image.use_time.map(|time| time.0))
        .bind(image.create_time.0);
    let query = bind_content(bind_said(query, image)?, image, charged_bytes)?;
    if query.execute(&mut *db).await?.rows_affected() == 0 {
        return Err(Error::Conflict { what: WHAT });
    }
    write_texts(db, image.id, None, &image.details).await?;
    for replica in &image.replicas {
        replicas::put(db, image.id, replica).await?;
    }
    // What a job made may have been checked by it.
    if let Some(check) = &image.check {
        sqlx::query(SET_CHECK)
            .bind(write_uuid(check.job.0))
            .bind(&check.result)
            .bind(write_failure(check.failure.as_ref())?)
            .bind(check.time.map(|time| time.0))
            .bind(tenant.as_str())
            .bind(write_uuid(image.id.0))
            .execute(db)
            .await?;
    }
    Ok(())
}

/// Writes what differs of what is said and of the state, as the next revision; where nothing does, nothing.
pub(super) async fn save(
    db: &mut Connection,
    before: &ImageRow,
    after: ImageRow,
    now: Micros,
) -> Result<ImageRow> {
    if after == *before {
        return Ok(after);
    }
    let after = ImageRow { revision: before.revision + 1, update_time: now, ..after };
    let updated = bind_said(sqlx::query(UPDATE), &after)?
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

/// Writes what the bytes of an image are, and where.
pub(super) async fn fill(db: &mut Connection, image: &ImageRow, charged_bytes: u64) -> Result<()> {
    bind_content(sqlx::query(FILL), image, charged_bytes)?
        .bind(image.tenant.as_str())
        .bind(write_uuid(image.id.0))
        .execute(&mut *db)
        .await?;
    for replica in &image.replicas {
        replicas::put(db, image.id, replica).await?;
    }
    Ok(())
}

/// What can change at any time.
fn bind_said<'q>(query: Statement<'q>, image: &'q ImageRow) -> Result<Statement<'q>> {
    let query = query
        .bind(image.label.as_str())
        .bind(image.state.as_str())
        .bind(&image.details.description)
        .bind(i64::from(image.details.protected));
    Ok(bind_facts(query, &image.details.facts)
        .bind(i64::from(image.enabled))
        .bind(write_failure(image.quarantine.as_ref())?)
        .bind(image.upload.map(|upload| write_uuid(upload.0)))
        .bind(write_number("image revision", image.revision)?)
        .bind(image.update_time.0)
        .bind(image.trash_time.map(|time| time.0))
        .bind(image.purge_time.map(|time| time.0)))
}

fn bind_facts<'q>(query: Statement<'q>, facts: &'q ImageFacts) -> Statement<'q> {
    query
        .bind(i64::from(facts.hidden))
        .bind(&facts.disk_format)
        .bind(&facts.container_format)
        .bind(i64::from(facts.min_disk_gib))
        .bind(i64::from(facts.min_ram_mib))
        .bind(facts.media_type.map(|media_type| media_type.as_str()))
        .bind(&facts.platform)
        .bind(&facts.architecture)
        .bind(&facts.guest_os_type)
        .bind(i64::from(facts.system))
        .bind(facts.virtio.map(i64::from))
        .bind(&facts.origin_url)
}

/// What is so once there are bytes.
fn bind_content<'q>(query: Statement<'q>, image: &'q ImageRow, charged_bytes: u64) -> Result<Statement<'q>> {
    let virtual_size_bytes =
        image.virtual_size_bytes.map(|bytes| write_number("virtual size", bytes)).transpose()?;
    Ok(query
        .bind(&image.format)
        .bind(write_number("image size", image.size_bytes)?)
        .bind(virtual_size_bytes)
        .bind(&image.md5)
        .bind(&image.sha256)
        .bind(&image.sha512)
        .bind(image.crc32.map(i64::from))
        .bind(image.derived_from.map(|id| write_uuid(id.0)))
        .bind(write_number("image size", charged_bytes)?))
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
        for (name, _) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
            sqlx::query(DELETE_TEXT).bind(write_uuid(id.0)).bind(kind).bind(name).execute(&mut *db).await?;
        }
        for (name, value) in after.iter().filter(|(name, value)| before.get(*name) != Some(*value)) {
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
fn texts(details: &ImageDetails) -> [BTreeMap<&str, &str>; 3] {
    fn pairs(texts: &BTreeMap<String, String>) -> BTreeMap<&str, &str> {
        texts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
    let tags = details.tags.iter().map(|tag| (tag.as_str(), "")).collect();
    [pairs(&details.labels), pairs(&details.properties), tags]
}
