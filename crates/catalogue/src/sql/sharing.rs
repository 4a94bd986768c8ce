//! Equal bytes of one tenant are stored once.

use imageops_model::{ImageId, ReplicaState, StoreId, Tenant};

use super::{Connection, images};
use crate::rows::{read_uuid, write_number, write_uuid};
use crate::{Error, ImageRow, Result};

// Never across tenants, and never bytes that are not to be trusted (SEC-29).
pub(super) const SELECT_SAME: &str = "SELECT images.id, image_replicas.blob FROM images \
     JOIN image_replicas ON image = images.id \
     WHERE tenant = $1 AND sha256 = $2 AND size_bytes = $3 AND quarantine IS NULL AND store = $4 \
     AND image_replicas.state = 'ready' ORDER BY image_replicas.create_time, images.id LIMIT 1";

pub(super) async fn find_same(
    db: &mut Connection,
    tenant: &Tenant,
    sha256: &str,
    size_bytes: u64,
    store: StoreId,
) -> Result<Option<(ImageId, String)>> {
    let same: Option<(String, String)> = sqlx::query_as(SELECT_SAME)
        .bind(tenant.as_str())
        .bind(sha256)
        .bind(write_number("image size", size_bytes)?)
        .bind(write_uuid(store.0))
        .fetch_optional(db)
        .await?;
    same.map(|(image, blob)| Ok((ImageId(read_uuid("image id", &image)?), blob))).transpose()
}

/// Refuses an image that names the blobs of `shares` where that does not have them any more: they may be gone.
pub(super) async fn ensure(
    db: &mut Connection,
    tenant: &Tenant,
    shares: ImageId,
    image: &ImageRow,
) -> Result<()> {
    let other = images::find(db, shares).await?.filter(|other| {
        let is_same = (&other.sha256, other.size_bytes) == (&image.sha256, image.size_bytes);
        let has = |store: StoreId, blob: &str| {
            let ready = |known: &&crate::Replica| known.state == ReplicaState::Ready && known.store == store;
            other.replicas.iter().find(ready).is_some_and(|known| known.blob == blob)
        };
        other.tenant == *tenant
            && other.quarantine.is_none()
            && image.quarantine.is_none()
            && is_same
            && image.replicas.iter().all(|replica| has(replica.store, &replica.blob))
    });
    if other.is_some() { Ok(()) } else { Err(Error::Conflict { what: "blob" }) }
}
