//! Images: reading them, and changing what is said of them.

use imageops_model::{CompanionKind, ImageEvent, ImageId, ImageState, Label, Micros, StoreId, Tenant};

use super::{Connection, image_rows};
use crate::lists::{filter, found};
use crate::rows::{ImageRecord, write_json, write_uuid};
use crate::{Error, ImageChange, ImageCursor, ImageFilter, ImageOrder, ImagePage, ImageRow, Result, SortKey};

pub(super) const WHAT: &str = "image";

macro_rules! select_images {
    ($($rest:expr),+) => {
        concat!(
            "SELECT id, tenant, label, state, format, size_bytes, virtual_size_bytes, md5, sha256, sha512, crc32, \
             derived_from, revision, description, protected, hidden, disk_format, container_format, min_disk_gib, \
             min_ram_mib, media_type, platform, architecture, guest_os_type, system, virtio, origin_url, enabled, \
             companion_of, companion_kind, companion_key, use_time, quarantine, check_job, check_result, \
             check_failure, check_time, slim_job, slim_image, slim_failure, slim_time, upload, create_time, \
             update_time, trash_time, purge_time, ",
            pairs_of_image!("label"), " AS labels, ",
            pairs_of_image!("property"), " AS properties, ",
            tags_of_image!(), " AS tags, ",
            replicas_of_image!(), " AS replicas FROM images ",
            $($rest),+
        )
    };
}
pub(super) use select_images;

/// A page of some rows in one order: filters, then the rows behind the cursor's key and id.
macro_rules! select_page {
    ($which:literal, $key:literal, $comparison:literal, $direction:literal) => {
        select_page!($which, "($10 IS NULL OR label = $10)", $key, $comparison, $direction)
    };
    ($which:literal, $label:literal, $key:literal, $comparison:literal, $direction:literal) => {
        select_images!(
            "WHERE tenant = $1 AND ",
            // Word for word the condition of the indexes, else they cannot be used.
            $which,
            " AND state IN ($2, $3, $4, $5, $6, $7, $8) AND ($9 IS NULL OR format IN (SELECT value FROM ",
            wanted_words!("$9"),
            ")) AND ",
            $label,
            " AND ($11 IS NULL OR hidden = $11) AND NOT EXISTS (SELECT 1 FROM ",
            wanted_pairs!("$12"),
            " WHERE NOT EXISTS (SELECT 1 FROM image_texts \
             WHERE image = images.id AND kind = 'label' AND name = wanted.key AND image_texts.value = wanted.value)) \
             AND NOT EXISTS (SELECT 1 FROM ",
            wanted_words!("$13"),
            " WHERE NOT EXISTS (SELECT 1 FROM image_texts \
             WHERE image = images.id AND kind = 'tag' AND name = wanted.value)) AND (",
            $key,
            ", id) ",
            $comparison,
            " ($14, $15) ORDER BY ",
            $key,
            $direction,
            ", id",
            $direction,
            " LIMIT $16"
        )
    };
}

const SELECT: &str = select_images!("WHERE tenant = $1 AND id = $2");

// Jobs and scrubs know images by id alone; the tenant comes from the row.
const SELECT_BY_ID: &str = select_images!("WHERE id = $1");

const SELECT_BLOB: &str =
    "SELECT CAST(1 AS BIGINT) FROM image_replicas WHERE store = $1 AND blob = $2 LIMIT 1";

pub(super) const SELECT_UNREFERENCED: &str = concat!(
    "SELECT CAST(wanted.value AS TEXT) FROM ",
    wanted_words!("$2"),
    " WHERE NOT EXISTS (SELECT 1 FROM image_replicas WHERE store = $1 AND blob = wanted.value) \
     AND NOT EXISTS (SELECT 1 FROM doomed_blobs WHERE store = $1 AND blob = wanted.value)"
);

pub(super) async fn get(db: &mut Connection, tenant: &Tenant, id: ImageId) -> Result<ImageRow> {
    let record: Option<ImageRecord> =
        sqlx::query_as(SELECT).bind(tenant.as_str()).bind(write_uuid(id.0)).fetch_optional(db).await?;
    found(record, WHAT)?.try_into()
}

pub(super) async fn find(db: &mut Connection, id: ImageId) -> Result<Option<ImageRow>> {
    let record: Option<ImageRecord> =
        sqlx::query_as(SELECT_BY_ID).bind(write_uuid(id.0)).fetch_optional(db).await?;
    record.map(ImageRow::try_from).transpose()
}

/// The row, where it still is the one that the caller read.
pub(super) async fn get_expected(
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

/// As [`get_expected`], of an image that stands for itself.
pub(super) async fn get_own(
    db: &mut Connection,
    tenant: &Tenant,
    id: ImageId,
    expected_revision: Option<u64>,
) -> Result<ImageRow> {
    let row = get_expected(db, tenant, id, expected_revision).await?;
    if row.companion.is_some() { Err(Error::State { what: WHAT }) } else { Ok(row) }
}

/// The state of an image after `event`.
pub(super) fn after(image: &ImageRow, event: ImageEvent) -> Result<ImageState> {
    let after = image.state.after(event).map_err(|_| Error::State { what: WHAT })?;
    // Only those who remove the row ask for an event that ends it.
    after.ok_or(Error::State { what: WHAT })
}

pub(super) async fn list(
    db: &mut Connection,
    tenant: &Tenant,
    wanted: &ImageFilter,
    page: ImagePage,
) -> Result<Vec<ImageRow>> {
    let mut query =
        sqlx::query_as::<_, ImageRecord>(page_statement(page.order, wanted)).bind(tenant.as_str());
    for state in filter::<7, _>(&states(wanted), ImageState::ALL, ImageState::as_str) {
        query = query.bind(state);
    }
    let formats = (!wanted.formats.is_empty()).then(|| write_json(&wanted.formats)).transpose()?;
    query = query
        .bind(formats)
        .bind(wanted.label.as_ref().map(|label| label.as_str().to_owned()))
        .bind(wanted.hidden.map(i64::from))
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

/// All pages of some rows.
macro_rules! page_statement_of {
    ($which:literal, $order:expr) => {
        match $order {
            ImageOrder::Newest => select_page!($which, "create_time", "<", " DESC"),
            ImageOrder::Oldest => select_page!($which, "create_time", ">", " ASC"),
            ImageOrder::Label => select_page!($which, "label", ">", " ASC"),
            ImageOrder::LabelReversed => select_page!($which, "label", "<", " DESC"),
            ImageOrder::Largest => select_page!($which, "size_bytes", "<", " DESC"),
            ImageOrder::Smallest => select_page!($which, "size_bytes", ">", " ASC"),
        }
    };
}

pub(super) fn page_statement(order: ImageOrder, wanted: &ImageFilter) -> &'static str {
    match wanted.companions {
        None if wanted.label.is_some() => labelled_page_statement(order),
        None => page_statement_of!("companion_of IS NULL", order),
        Some(CompanionKind::Slim) => {
            page_statement_of!("companion_of IS NOT NULL AND companion_kind = 'slim'", order)
        }
        Some(CompanionKind::Conversion) => {
            page_statement_of!("companion_of IS NOT NULL AND companion_kind = 'conversion'", order)
        }
    }
}

/// A page of the images with one label, which are few as a rule: they are sought by it in whatever order they are wanted. An
/// order that no index of labels has is hidden from the planners, which would walk all images in it rather than sort those.
fn labelled_page_statement(order: ImageOrder) -> &'static str {
    macro_rules! select_labelled {
        ($key:literal, $comparison:literal, $direction:literal) => {
            select_page!("companion_of IS NULL", "label = $10", $key, $comparison, $direction)
        };
    }
    match order {
        ImageOrder::Newest => select_labelled!("create_time", "<", " DESC"),
        ImageOrder::Oldest => select_labelled!("create_time", ">", " ASC"),
        ImageOrder::Label => select_labelled!("label || ''", ">", " ASC"),
        ImageOrder::LabelReversed => select_labelled!("label || ''", "<", " DESC"),
        ImageOrder::Largest => select_labelled!("+size_bytes", "<", " DESC"),
        ImageOrder::Smallest => select_labelled!("+size_bytes", ">", " ASC"),
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
    let before = get_own(db, tenant, id, expected_revision).await?;
    let after = change.apply(&before);
    image_rows::save(db, &before, after, now).await
}

pub(super) async fn is_blob_referenced(db: &mut Connection, store: StoreId, blob: &str) -> Result<bool> {
    let any: Option<i64> =
        sqlx::query_scalar(SELECT_BLOB).bind(write_uuid(store.0)).bind(blob).fetch_optional(db).await?;
    Ok(any.is_some())
}

pub(super) async fn list_unreferenced(
    db: &mut Connection,
    store: StoreId,
    blobs: &[String],
) -> Result<Vec<String>> {
    let wanted = write_json(&blobs)?;
    Ok(sqlx::query_scalar(SELECT_UNREFERENCED).bind(write_uuid(store.0)).bind(wanted).fetch_all(db).await?)
}
