//! Copies the bytes of an image into another store: staged there, compared with the digest on the way, and published.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use imageops_catalogue::{ImageRow, Replica};
use imageops_model::{ReplicaState, StoreId};
use imageops_store::{Blob, Store};

use super::run::engine;
use super::{Stop, publish_allowed};
use crate::app::App;
use crate::clock::now;
use crate::failure::Result;
use crate::reading::{Reading, read_whole};
use crate::{replicas, stored};

/// Where a copy goes.
pub(super) struct Target {
    pub(super) store: StoreId,
    /// Name of the staged file, of one attempt alone.
    pub(super) staged: String,
    /// Name of the bytes in the store, used once.
    pub(super) blob: String,
}

/// Makes a copy of `image`; its row is the caller's to write. `passed` is told of the bytes as they go by. Without success
/// nothing of it stays. A copy to read from that does not have its digest is marked as damaged, and the next one is read.
pub(super) async fn transfer(
    app: &Arc<App>,
    image: &ImageRow,
    target: Target,
    stop: &Stop,
    passed: impl Fn(u64) + Clone + Send + 'static,
) -> Result<Replica> {
    let (store, staged) = (target.store, target.staged.clone());
    let result = write_and_publish(app, image, target, stop, passed).await;
    stored::discard(app, store, staged).await;
    result
}

async fn write_and_publish(
    app: &Arc<App>,
    image: &ImageRow,
    Target { store, staged, blob }: Target,
    stop: &Stop,
    passed: impl Fn(u64) + Clone + Send + 'static,
) -> Result<Replica> {
    let opened = app.stores.writable(store)?;
    let mut failure = replicas::none_there();
    for source in replicas::readable(app, image) {
        let source_blob = match replicas::open(app, source.store, &source.blob).await? {
            Ok(source_blob) => source_blob,
            Err(error) => {
                tracing::warn!(image = %image.id, store = %source.store, %error, "a copy cannot be opened");
                failure = error.into();
                continue;
            }
        };
        let copied = copy(Arc::clone(&opened), staged.clone(), source_blob, stop, passed.clone());
        match copied.await? {
            reading if reading.is(&image.sha256, image.size_bytes) => {
                publish_allowed(stop)?;
                stored::publish(app, store, &staged, &blob).await?;
                return Ok(ready(store, blob));
            }
            Reading::Whole { .. } => {
                replicas::mark_damaged(app, source.store, &source.blob).await?;
                failure = replicas::damaged();
            }
            Reading::Failed(error) => {
                tracing::warn!(image = %image.id, store = %source.store, %error, "a copy cannot be read");
                failure = imageops_store::Error::from(error).into();
            }
        }
    }
    Err(failure)
}

/// Writes a staged file with the bytes of a blob, holes as holes.
async fn copy(
    store: Arc<dyn Store>,
    staged: String,
    source: Box<dyn Blob>,
    stop: &Stop,
    passed: impl Fn(u64) + Send + 'static,
) -> Result<Reading> {
    let cancel = stop.token();
    engine(move || {
        let file = store.stage_anew(&staged)?;
        let write = |offset: u64, data: &[u8]| write_at(&file, offset, data);
        let reading = read_whole(&*source, &cancel, write, passed)?;
        file.set_len(source.size_bytes()).map_err(imageops_store::Error::from)?;
        Ok(reading)
    })
    .await
}

fn write_at(file: &File, offset: u64, data: &[u8]) -> Result<()> {
    Ok(file.write_all_at(data, offset).map_err(imageops_store::Error::from)?)
}

/// Whether a store holds a copy of an image that can be read.
pub(super) fn has_ready_copy(image: &ImageRow, store: StoreId) -> bool {
    image.replicas.iter().any(|known| known.store == store && known.state == ReplicaState::Ready)
}

/// The row of a copy that is there.
pub(super) fn ready(store: StoreId, blob: String) -> Replica {
    let time = now();
    Replica {
        store,
        blob,
        state: ReplicaState::Ready,
        create_time: time,
        update_time: time,
        verify_time: None,
    }
}
