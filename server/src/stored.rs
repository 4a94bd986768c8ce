//! Bytes that become stored: the one way into a store, and the row that tells of them.
//!
//! Nothing else publishes (reliability 4.1). Whoever publishes writes the row next, and removes the blob when it cannot.

use imageops_catalogue::{Companion, ImageRow, Replica};
use imageops_image::CancelToken;
use imageops_image::digest::Digests;
use imageops_model::{
    ImageDetails, ImageId, ImageState, JobFailure, Label, Micros, ReplicaState, StoreId, Tenant,
};

use crate::app::{App, blocking};
use crate::failure::Result;
use crate::reading::{Reading, read_whole};
use crate::replicas;

/// Makes the staged file `staged` the blob `blob` of its store: flushed, named, and its name durable.
pub async fn publish(app: &App, store: StoreId, staged: &str, blob: &str) -> Result<()> {
    let (opened, staged, blob) = (app.stores.writable(store)?, staged.to_owned(), blob.to_owned());
    let published = blocking(move || opened.publish(&staged, &blob)).await?;
    published.inspect_err(|error| app.stores.report(store, error)).map_err(Into::into)
}

/// Which bytes a staged file became.
pub struct Published {
    /// Their key in the store.
    pub blob: String,
    /// The image that has them too.
    pub shares: Option<ImageId>,
}

/// Makes the staged file `staged` the blob `fresh`, unless the tenant has an image with the same bytes in the same store.
/// That one's are read first: a digest in a row proves nothing of what has become of them. Never are the staged ones put in
/// their place: until the row is written an upload may go on with them.
pub async fn publish_or_share(
    app: &App,
    tenant: &Tenant,
    (sha256, size_bytes): (&str, u64),
    (store, staged, fresh): (StoreId, &str, &str),
) -> Result<Published> {
    if let Some((image, blob)) = app.catalogue.find_same(tenant, sha256, size_bytes, store).await?
        && is_whole(app, image, (store, &blob), (sha256, size_bytes)).await?
    {
        return Ok(Published { blob, shares: Some(image) });
    }
    publish(app, store, staged, fresh).await?;
    Ok(Published { blob: fresh.to_owned(), shares: None })
}

/// Whether the bytes of an image in a store are those that its row tells of: all of them are read.
pub async fn is_whole(
    app: &App,
    image: ImageId,
    (store, blob): (StoreId, &str),
    (sha256, size_bytes): (&str, u64),
) -> Result<bool> {
    match read(app, store, blob).await? {
        Ok(reading) if reading.is(sha256, size_bytes) => return Ok(true),
        Ok(Reading::Whole { .. }) => drop(replicas::mark_damaged(app, store, blob).await?),
        // What cannot be read now a scrub judges.
        Ok(Reading::Failed(error)) => {
            tracing::warn!(%image, %error, "equal bytes cannot be read, and are not shared")
        }
        Err(error) => tracing::warn!(%image, %error, "equal bytes cannot be opened, and are not shared"),
    }
    Ok(false)
}

async fn read(app: &App, store: StoreId, blob: &str) -> Result<imageops_store::Result<Reading>> {
    let opened = match replicas::open(app, store, blob).await? {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    blocking(move || read_whole(&*opened, &CancelToken::default(), |_, _| Ok(()), |_| {})).await?.map(Ok)
}

/// Drops a staged file that nobody needs any more. What cannot be removed now the next start removes.
pub async fn discard(app: &App, store: StoreId, staged: String) {
    let Some(opened) = app.stores.readable(store) else { return };
    match blocking(move || opened.discard_staged(&staged)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "a staged file was not removed; the next start removes it"),
        Err(_) => {}
    }
}

/// What is known of bytes that were published.
pub struct StoredBytes {
    /// The store that holds them.
    pub store: StoreId,
    /// Their key in it.
    pub blob: String,
    /// Their length.
    pub size_bytes: u64,
    /// MD5 and SHA-256 at least.
    pub digests: Digests,
    /// Format by content, in the engine's spelling.
    pub format: String,
    /// Size that the guest sees.
    pub virtual_size_bytes: Option<u64>,
}

/// What the image of such bytes is.
pub struct ImageOf {
    /// Its id.
    pub id: ImageId,
    /// Its owner.
    pub tenant: Tenant,
    /// Its label.
    pub label: Label,
    /// What is said of it.
    pub details: ImageDetails,
    /// The image that it was made from.
    pub derived_from: Option<ImageId>,
    /// The image that it is a companion of.
    pub companion: Option<Companion>,
    /// Why it is in quarantine from the start.
    pub quarantine: Option<JobFailure>,
}

/// The row of an image whose bytes were published.
pub fn image(image: ImageOf, bytes: StoredBytes, now: Micros) -> ImageRow {
    ImageRow {
        id: image.id,
        tenant: image.tenant,
        label: image.label,
        state: if image.quarantine.is_some() { ImageState::Quarantined } else { ImageState::Active },
        format: bytes.format,
        size_bytes: bytes.size_bytes,
        virtual_size_bytes: bytes.virtual_size_bytes,
        md5: bytes.digests.md5.unwrap_or_default(),
        sha256: bytes.digests.sha256.unwrap_or_default(),
        sha512: bytes.digests.sha512,
        crc32: bytes.digests.crc32,
        replicas: vec![Replica {
            store: bytes.store,
            blob: bytes.blob,
            state: ReplicaState::Ready,
            create_time: now,
            update_time: now,
            verify_time: None,
        }],
        derived_from: image.derived_from,
        companion: image.companion,
        use_time: None,
        details: image.details,
        enabled: true,
        quarantine: image.quarantine,
        check: None,
        slim: None,
        upload: None,
        revision: 1,
        create_time: now,
        update_time: now,
        trash_time: None,
        purge_time: None,
    }
}
