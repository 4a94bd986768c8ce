//! What a job makes. An image: staged and published under names of the attempt alone, and digested in between. A file
//! below the image root: written without a name, which it gets when it is complete.

use std::fs::File;
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::digest::{Digests, Selection, digest_storage};
use imageops_image::format::Format;
use imageops_image::output::{Existing, OutputFile};
use imageops_image::storage::FileStorage;
use imageops_model::{ImageId, StoreId};
use imageops_store::Store;
use uuid::Uuid;

use super::run::engine;
use super::tracker::Tracker;
use super::{Stop, publish_allowed};
use crate::app::{App, OpenSource, blocking};
use crate::failure::{Failure, Result};
use crate::reason;
use crate::stored::{self, StoredBytes};

/// Mode of outputs in the image root: other services on the same volume read them.
const OUTPUT_MODE: u32 = 0o644;

/// Digests of what a job makes.
const DIGESTS: Selection = Selection { md5: true, sha256: true, sha512: false, crc32: true };

/// Where the output of one attempt goes.
pub(super) struct ImageOutput {
    store: StoreId,
    opened: Arc<dyn Store>,
    /// Each attempt stages under its own name: one that lost its lease may still be writing.
    staged: String,
    /// So it does for its blob: what an attempt that comes back late does to its own bytes it does to nobody else's.
    blob: String,
}

impl ImageOutput {
    /// Chooses the store for about so many bytes.
    pub(super) async fn place(app: &Arc<App>, image: ImageId, attempt: u32, size_bytes: u64) -> Result<Self> {
        let store = app.stores.place("", Some(size_bytes), &[]).await?;
        let opened = app.stores.writable(store)?;
        let staged = format!("job-{}-{attempt}", image.0);
        Ok(Self { store, opened, staged, blob: Uuid::new_v4().to_string() })
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
        let (tracker, staging) = (tracker.clone(), staged.clone());
        let (report, size_bytes, digests) = engine(move || {
            let file = opened.stage_anew(&staging)?;
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
    pub(super) fn into_bytes(self, format: Format, virtual_size_bytes: u64) -> StoredBytes {
        StoredBytes {
            store: self.store,
            blob: self.blob,
            size_bytes: self.size_bytes,
            digests: self.digests,
            format: format.as_str().to_owned(),
            virtual_size_bytes: Some(virtual_size_bytes),
        }
    }
}

/// Has `write` make a file of `source`, which gets its name below the image root when it is complete.
pub(super) async fn make_file<R: Send + 'static>(
    app: &App,
    source: OpenSource,
    name: &str,
    (stop, tracker, control): (&Stop, &Tracker, Control),
    write: impl FnOnce(OpenSource, &File, &Control) -> Result<R> + Send + 'static,
) -> Result<R> {
    let (root, wanted) = (Arc::clone(&app.image_root), name.to_owned());
    let finding = Arc::clone(&root);
    let place = blocking(move || finding.output(&wanted)).await?.map_err(|_| invalid_output())?;
    let (stop, tracker) = (stop.clone(), tracker.clone());
    engine(move || {
        // Looked at again here: a link may have been set since the job was asked for.
        if let Some(file) = &source.file
            && root.is_same_file(file, &place)?
        {
            return Err(output_is_source());
        }
        let output = OutputFile::create_in(place.directory)?;
        let report = write(source, output.file(), &control)?;
        publish_allowed(&stop)?;
        tracker.publishing();
        output.publish(&place.file_name, OUTPUT_MODE, Existing::Replace)?;
        Ok(report)
    })
    .await
}

/// The output's name cannot be used.
pub fn invalid_output() -> Failure {
    let message = "the output must be a name below the image root, in a directory that exists";
    Failure::invalid_as(reason::INVALID_OUTPUT_FILE, "output_file", message)
}

/// The output would replace its own source.
pub fn output_is_source() -> Failure {
    let message = "the output is the source itself; choose another name";
    Failure::invalid_as(reason::OUTPUT_IS_SOURCE, "output_file", message)
}
