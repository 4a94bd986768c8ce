//! What all parts of the server share.

use std::fs::File;
use std::sync::Arc;

use imageops_catalogue::{Catalogue, ImageRow};
use imageops_image::format::Format;
use imageops_model::{ImageId, ImageState, Source, Tenant};
use imageops_store::{ImageRoot, Store};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::hub::Hub;
use crate::reason;
use crate::upload::Uploads;

/// Doomed bytes that are asked for at a time.
const DOOMED_BATCH: u32 = 100;

/// The parts of a running server.
pub struct App {
    /// Settings in force.
    pub config: Config,
    /// Images, uploads, jobs, keys.
    pub catalogue: Arc<dyn Catalogue>,
    /// Bytes of images.
    pub store: Arc<dyn Store>,
    /// Files that clients name.
    pub image_root: Arc<ImageRoot>,
    /// Live jobs.
    pub hub: Arc<Hub>,
    /// Checks callers.
    pub authenticator: Authenticator,
    /// Uploads whose bytes are under way.
    pub uploads: Uploads,
    /// Rung when a job was queued; the dispatcher of the workers waits on it.
    pub job_queued: Notify,
    /// Work that must come to its end before the process goes.
    pub tasks: TaskTracker,
    /// Cancelled when the server begins to go down: no new work, watchers come back later, jobs go back to the queue.
    pub shutdown: CancellationToken,
    /// Cancelled when the time that running uploads were given is over; what came of them is made durable.
    pub drain_over: CancellationToken,
}

/// A source, open for reading.
pub struct OpenSource {
    /// The file; inspection and use act on this one handle (SEC-26).
    pub file: File,
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
                Ok(OpenSource { file, format: None })
            }
            Source::Image(id) => {
                let image = self.active_image(tenant, *id).await?;
                let file = self.open_blob(&image).await?;
                Ok(OpenSource { file, format: image.format.parse().ok() })
            }
        }
    }

    /// An image whose bytes can be read.
    pub async fn active_image(&self, tenant: &Tenant, id: ImageId) -> Result<ImageRow> {
        let image = self.catalogue.get_image(tenant, id).await?;
        let (reason, message) = match image.state {
            ImageState::Active if image.enabled => return Ok(image),
            ImageState::Active => (reason::IMAGE_DISABLED, "the image is disabled; enable it first"),
            ImageState::Trashed => (reason::IMAGE_TRASHED, "the image lies in the trash; restore it first"),
            ImageState::Quarantined => {
                (reason::IMAGE_NOT_ACTIVE, "the image is in quarantine; its bytes are not handed out")
            }
            _ => (reason::IMAGE_NOT_ACTIVE, "the image has no bytes to read"),
        };
        Err(Failure::new(Code::FailedPrecondition, reason, message))
    }

    /// Removes the bytes whose last row went. What cannot be removed now a sweep removes.
    pub async fn remove_doomed(&self) -> Result<()> {
        loop {
            let doomed = self.catalogue.take_doomed(DOOMED_BATCH).await?;
            for (id, blob) in &doomed {
                if *id == self.store.id() {
                    let (store, blob) = (Arc::clone(&self.store), blob.clone());
                    blocking(move || store.remove(&blob)).await??;
                }
                self.catalogue.forget_doomed(*id, blob).await?;
            }
            if doomed.len() < DOOMED_BATCH as usize {
                return Ok(());
            }
        }
    }

    /// Removes bytes that no row names any more, or never did. What cannot be removed now the next start removes.
    pub async fn remove_unless_referenced(&self, blob: &str) {
        if !matches!(self.catalogue.is_blob_referenced(self.store.id(), blob).await, Ok(false)) {
            return;
        }
        let (store, blob) = (Arc::clone(&self.store), blob.to_owned());
        if !matches!(blocking(move || store.remove(&blob)).await, Ok(Ok(()))) {
            tracing::warn!("a blob without a row was not removed; the next start removes it");
        }
    }

    /// The bytes of an image.
    pub async fn open_blob(&self, image: &ImageRow) -> Result<File> {
        let ready = image.ready_replica().ok_or_else(|| {
            Failure::new(Code::FailedPrecondition, reason::IMAGE_NOT_ACTIVE, "the image has no bytes to read")
        })?;
        let (store, blob) = (Arc::clone(&self.store), ready.blob.clone());
        blocking(move || store.open(&blob)).await?.map_err(|error| match error {
            // Rows without bytes cannot exist: someone removed them from the store.
            imageops_store::Error::NotFound => {
                Failure::internal(format!("the bytes of {} are gone from the store", image.id))
            }
            other => other.into(),
        })
    }
}

/// Runs what blocks on the pool. A panic there fails this one call, and is logged.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::internal)
}
