//! The image that a job makes: staged under the attempt's own name, digested, and published under the image's id.

use std::fs::File;
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::digest::{Digests, Selection, digest_storage};
use imageops_image::storage::FileStorage;
use imageops_model::{ImageId, StoreId};
use imageops_store::Store;

use super::run::engine;
use super::tracker::Tracker;
use super::{Stop, publish_allowed};
use crate::app::App;
use crate::failure::Result;
use crate::stored::{self, StoredBytes};

/// Digests of what a job makes.
const DIGESTS: Selection = Selection { md5: true, sha256: true, sha512: false, crc32: true };

/// Where the output of one attempt goes.
pub(super) struct ImageOutput {
    store: StoreId,
    opened: Arc<dyn Store>,
    /// Each attempt stages under its own name: one that lost its lease may still be writing.
    staged: String,
    /// The image's id is part of the job: an attempt that crashed after publishing is published over, not beside.
    blob: String,
}

impl ImageOutput {
    /// Chooses the store for about so many bytes.
    pub(super) async fn place(app: &Arc<App>, image: ImageId, attempt: u32, size_bytes: u64) -> Result<Self> {
        let store = app.stores.place("", Some(size_bytes), &[]).await?;
        let opened = app.stores.writable(store)?;
        let staged = format!("job-{}-{attempt}", image.0);
        Ok(Self { store, opened, staged, blob: image.0.to_string() })
    }

    /// Has `write` write the staged file, then digests and publishes it. Without success nothing of it stays.
    pub(super) async fn make<R: Send + 'static>(
        self,
        app: &App,
        (stop, tracker, control): (&Stop, &Tracker, Control),
        write: impl FnOnce(&File, &Control) -> Result<R> + Send + 'static,
    ) -> Result<(R, Made)> {
        let (store, staged) = (self.store, self.staged.clone());
        let result = self.write_and_publish(app, stop, tracker, control, write).await;
        stored::discard(app, store, staged).await;
        result
    }

    async fn write_and_publish<R: Send + 'static>(
        self,
        app: &App,
        stop: &Stop,
        tracker: &Tracker,
        control: Control,
        write: impl FnOnce(&File, &Control) -> Result<R> + Send + 'static,
    ) -> Result<(R, Made)> {
        let Self { store, opened, staged, blob } = self;
        let (tracker, staging, key) = (tracker.clone(), staged.clone(), blob.clone());
        let (report, size_bytes, digests) = engine(move || {
            opened.discard_staged(&staging)?;
            opened.remove(&key)?;
            let file = opened.stage(&staging)?;
            let report = write(&file, &control)?;
            tracker.publishing();
            let size_bytes = file.metadata().map_err(imageops_image::Error::from)?.len();
            let storage = FileStorage::new(file).map_err(imageops_image::Error::from)?;
            Ok((report, size_bytes, digest_storage(&storage, DIGESTS, &control)?))
        })
        .await?;
        publish_allowed(stop)?;
        stored::publish(app, store, &staged, &blob).await?;
        Ok((report, Made { store, blob, size_bytes, digests }))
    }
}

/// What was published.
pub(super) struct Made {
    store: StoreId,
    blob: String,
    /// Length of the output.
    pub(super) size_bytes: u64,
    /// Its digests.
    pub(super) digests: Digests,
}

impl Made {
    /// As the bytes of an image.
    pub(super) fn into_bytes(self, format: &str, virtual_size_bytes: u64) -> StoredBytes {
        StoredBytes {
            store: self.store,
            blob: self.blob,
            size_bytes: self.size_bytes,
            digests: self.digests,
            format: format.to_owned(),
            virtual_size_bytes: Some(virtual_size_bytes),
        }
    }
}
