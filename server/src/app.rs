//! What all parts of the server share.

use std::fs::File;
use std::sync::Arc;

use imageops_catalogue::{Catalogue, ImageRow};
use imageops_fetch::Fetcher;
use imageops_image::format::Format;
use imageops_image::storage::{FileStorage, Storage};
use imageops_model::{ImageId, ImageState, ReplicaState, Source, StoreId, Tenant, UploadId};
use imageops_store::ImageRoot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use uuid::Uuid;

use crate::audit::Sink;
use crate::auth::Authenticator;
use crate::ballast::Ballast;
use crate::bells::Bells;
use crate::blob_storage;
use crate::config::Config;
use crate::doomed::Doomed;
use crate::failure::{Failure, Result};
use crate::hub::Hub;
use crate::limits::TenantLimits;
use crate::readers::Readers;
use crate::stored;
use crate::stores::{Slot, Stores};
use crate::upload::Uploads;
use crate::{reason, replicas};

/// The parts of a running server.
pub struct App {
    /// Settings in force.
    pub config: Config,
    /// Takes what is recorded of who did what.
    pub(crate) audit: Sink,
    /// Images, uploads, jobs, keys.
    pub catalogue: Arc<dyn Catalogue>,
    /// Where the bytes of images are.
    pub stores: Arc<Stores>,
    /// Under which this process holds leases; the same after a restart on the same data directory.
    pub worker: Uuid,
    /// Files that clients name.
    pub image_root: Arc<ImageRoot>,
    /// Live jobs.
    pub hub: Arc<Hub>,
    /// Checks callers.
    pub authenticator: Authenticator,
    /// Fetches what is imported.
    pub sources: Fetcher,
    /// What each tenant may take at a time.
    pub tenant_limits: Arc<TenantLimits>,
    /// Uploads whose bytes are under way.
    pub uploads: Uploads,
    /// Removals of bytes without a row.
    pub doomed: Doomed,
    /// Who reads from buckets.
    pub readers: Arc<Readers>,
    /// Room for removals on a full disk.
    pub ballast: Arc<Ballast>,
    /// Rung when a job was queued; the dispatchers of the workers wait on them.
    pub bells: Bells,
    /// Work that must come to its end before the process goes.
    pub tasks: TaskTracker,
    /// Cancelled when the server begins to go down: no new work, watchers come back later, jobs go back to the queue.
    pub shutdown: CancellationToken,
    /// Cancelled when the time that running uploads were given is over; what came of them is made durable.
    pub drain_over: CancellationToken,
}

/// A source, open for reading.
pub struct OpenSource {
    /// The bytes; inspection and use act on this one handle (SEC-26).
    pub storage: Arc<dyn Storage>,
    /// The file, of a `file` source.
    pub file: Option<File>,
    /// The format that was decided when the bytes came in; `None`: by content.
    pub format: Option<Format>,
}

impl App {
    /// Opens what a caller named. Blocking calls run on the pool.
    pub async fn open_source(&self, tenant: &Tenant, source: &Source) -> Result<OpenSource> {
        match source {
            Source::File(name) => {
                if !tenant.is_built_in() {
                    let message =
                        "files below the image root belong to the built-in tenant; upload the image instead";
                    return Err(Failure::new(Code::PermissionDenied, reason::FILE_SOURCES_DENIED, message));
                }
                let (root, wanted) = (Arc::clone(&self.image_root), name.clone());
                let file =
                    blocking(move || root.open_source(&wanted)).await?.map_err(|error| match error {
                        imageops_store::Error::NotFound | imageops_store::Error::InvalidName => {
                            Failure::not_found(reason::FILE_NOT_FOUND, "file", name.clone())
                        }
                        other => other.into(),
                    })?;
                let storage = file.try_clone().and_then(FileStorage::new).map_err(io_failed)?;
                Ok(OpenSource { storage: Arc::new(storage), file: Some(file), format: None })
            }
            Source::Image(id) => self.open_image(&self.active_image(tenant, *id).await?).await,
        }
    }

    /// Opens what a check reads: images in quarantine too, and their damaged copies where there is no other. Nothing else
    /// may, for it tells of the bytes and hands none of them out.
    pub async fn open_to_check(&self, tenant: &Tenant, source: &Source) -> Result<OpenSource> {
        let Source::Image(id) = source else { return self.open_source(tenant, source).await };
        let mut image = self.catalogue.get_image(tenant, *id).await?;
        if image.state != ImageState::Quarantined || !image.enabled {
            return self.open_source(tenant, source).await;
        }
        if image.ready_replica().is_none() {
            for replica in &mut image.replicas {
                replica.state = ReplicaState::Ready;
            }
        }
        self.open_image(&image).await
    }

    async fn open_image(&self, image: &ImageRow) -> Result<OpenSource> {
        let blob = replicas::open_first(self, image).await?;
        let storage = blob_storage::open(blob).map_err(io_failed)?;
        Ok(OpenSource { storage, file: None, format: image.format.parse().ok() })
    }

    /// An image whose bytes can be read.
    pub async fn active_image(&self, tenant: &Tenant, id: ImageId) -> Result<ImageRow> {
        let image = self.catalogue.get_image(tenant, id).await?;
        is_readable(&image)?;
        if let Some(companion) = &image.companion {
            // The same disk: what its image withholds, it withholds.
            let of = self.catalogue.get_image(tenant, companion.of).await?;
            if of.state == ImageState::Trashed || !of.enabled {
                is_readable(&of)?;
            }
        }
        Ok(image)
    }

    /// Runs what makes room. On a full disk the ballast is given up for it, and it runs once more.
    pub async fn making_room<T, F: Future<Output = Result<T>>>(&self, removal: impl Fn() -> F) -> Result<T> {
        let full = match removal().await {
            Err(failure) if failure.reason == imageops_image::reason::NO_SPACE => failure,
            done => return done,
        };
        let ballast = Arc::clone(&self.ballast);
        if !blocking(move || ballast.give_up()).await? {
            return Err(full);
        }
        tracing::warn!("the disk of the data directory is full; the room that was kept for removals is used");
        removal().await
    }

    /// Removes bytes that were published for a row that could not be written. What cannot be removed now, the collector
    /// finds.
    pub async fn remove_unless_referenced(&self, store: StoreId, blob: &str) {
        if !matches!(self.catalogue.is_blob_referenced(store, blob).await, Ok(false)) {
            return;
        }
        let Some(store) = self.stores.readable(store) else { return };
        let blob = blob.to_owned();
        if !matches!(blocking(move || store.remove(&blob)).await, Ok(Ok(()))) {
            tracing::warn!("a blob without a row was not removed; the collector finds it");
        }
    }

    /// Removes the staged bytes of an upload, in whichever store they are.
    pub async fn discard_staged(&self, upload: UploadId) {
        for slot in self.stores.all().into_iter().filter(Slot::is_connected) {
            stored::discard(self, slot.row.id, upload.0.to_string()).await;
        }
    }

    /// Removes the bytes that lost their last row. Those of a store that is not there, or does not answer, wait.
    pub async fn remove_doomed(&self) -> Result<()> {
        self.doomed.remove(self).await
    }
}

/// Whether the bytes of an image may be read, or why not.
fn is_readable(image: &ImageRow) -> Result<()> {
    let (reason, message) = match image.state {
        ImageState::Active if image.enabled => return Ok(()),
        ImageState::Active => (reason::IMAGE_DISABLED, "the image is disabled; enable it first"),
        ImageState::Trashed => (reason::IMAGE_TRASHED, "the image lies in the trash; restore it first"),
        ImageState::Quarantined => {
            (reason::IMAGE_QUARANTINED, "the image is in quarantine: its bytes are not to be trusted")
        }
        _ => (reason::IMAGE_NOT_ACTIVE, "the image has no bytes to read"),
    };
    Err(Failure::new(Code::FailedPrecondition, reason, message))
}

fn io_failed(error: std::io::Error) -> Failure {
    imageops_store::Error::from(error).into()
}

/// Runs what blocks on the pool. A panic there fails this one call, and is logged.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::internal)
}
