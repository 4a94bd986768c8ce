//! Equal bytes of one tenant are stored once.

use imageops_model::{ImageState, Micros, ReplicaState, StoreId};

use super::{Connection, doomed};
use crate::rows::{write_number, write_uuid};
use crate::{ImageRow, Result};

// Never across tenants, and never bytes that are not to be trusted (SEC-29).
pub(super) const SELECT_SAME: &str = "SELECT image_replicas.blob FROM images JOIN image_replicas ON image = images.id \
     WHERE tenant = $1 AND sha256 = $2 AND size_bytes = $3 AND quarantine IS NULL AND store = $4 \
     AND image_replicas.state = 'ready' ORDER BY image_replicas.create_time, images.id LIMIT 1";

/// The image with the bytes that its tenant has already, where it has; those that came are doomed then. To be asked when
/// all rows that make room for the image are gone: else it would share what goes with them.
pub(super) async fn share(db: &mut Connection, image: &ImageRow, now: Micros) -> Result<ImageRow> {
    let mut shared = image.clone();
    if image.state == ImageState::Quarantined || image.sha256.is_empty() {
        return Ok(shared);
    }
    for replica in shared.replicas.iter_mut().filter(|replica| replica.state == ReplicaState::Ready) {
        if let Some(blob) = find_same(db, image, replica.store).await?.filter(|blob| *blob != replica.blob) {
            doomed::doom(db, replica.store, &replica.blob, now).await?;
            replica.blob = blob;
        }
    }
    Ok(shared)
}

async fn find_same(db: &mut Connection, image: &ImageRow, store: StoreId) -> Result<Option<String>> {
    let same = sqlx::query_scalar(SELECT_SAME)
        .bind(image.tenant.as_str())
        .bind(&image.sha256)
        .bind(write_number("image size", image.size_bytes)?)
        .bind(write_uuid(store.0))
        .fetch_optional(db)
        .await?;
    Ok(same)
}
