//! One file of the old installation becomes an image, as the bytes of an upload do.

use std::sync::Arc;

use imageops::v1;
use imageops_catalogue::{Created, ImageRow, UploadRow};
use imageops_image::storage::FileStorage;
use imageops_model::{JobFailure, Tenant};

use super::files::{LegacyFile, PREFIX_BYTES};
use crate::app::{App, blocking};
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::upload::{
    CommitError, Ingest, Origin, Promise, admission, commit_import, judge_prefix, judge_storage, refuse,
    store_of,
};

/// Copies the file into the store and makes it an image.
pub(super) async fn bring(
    app: &Arc<App>,
    file: &LegacyFile,
    metadata: v1::UploadMetadata,
    origin: Origin,
) -> Result<ImageRow> {
    let asked = admission::read(app, &Tenant::built_in(), metadata)?;
    let store = app.stores.place("", Some(file.size_bytes), &[]).await?;
    // Nobody goes on with it: when the import is cut off its bytes go at the next start.
    let upload = UploadRow { store: Some(store), expire_time: now(), ..asked };
    let (Created::New(upload) | Created::Existing(upload)) = app.catalogue.create_upload(upload).await?;
    match copy(app, &upload, file, origin).await {
        Ok(image) => Ok(image),
        Err(CommitError::Refused(failure)) => {
            refuse(app, &upload, &failure).await?;
            Err(failure)
        }
        Err(CommitError::Other(failure)) => {
            app.catalogue.abort_upload(&upload.tenant, upload.id, now()).await?;
            app.discard_staged(upload.id).await;
            Err(failure)
        }
    }
}

async fn copy(
    app: &App,
    upload: &UploadRow,
    file: &LegacyFile,
    origin: Origin,
) -> Result<ImageRow, CommitError> {
    // Before all of it is copied: most of what is unsafe shows in the header.
    if file.prefix.len() == PREFIX_BYTES && upload.archive.is_none() {
        judge_prefix(upload, &file.prefix).map_err(CommitError::Refused)?;
    }
    let (store, key) = (app.stores.writable(store_of(app, upload))?, upload.id.0.to_string());
    let staged = blocking(move || store.stage_anew(&key)).await?;
    let staged = staged.inspect_err(|error| app.stores.report(store_of(app, upload), error))?;
    let mut ingest = Ingest::open(staged, 0, false).await?;
    ingest.append(file.reopen()?, file.size_bytes).await?;
    let committed = commit_import(app, upload, &mut ingest, &[Promise::of(upload)], origin).await?;
    Ok(committed.image)
}

/// Judges the file where it lies: the failure that an import of it would end with, or why it would go into quarantine. What
/// only shows when all is read, a checksum or the inside of an archive, is not looked at.
pub(super) async fn judge_only(
    app: &App,
    file: &LegacyFile,
    metadata: v1::UploadMetadata,
) -> Result<Option<JobFailure>> {
    let upload = admission::read(app, &Tenant::built_in(), metadata)?;
    if upload.archive.is_some() {
        return Ok(None);
    }
    let storage = FileStorage::new(file.reopen()?)
        .map_err(|error| Failure::from(imageops_store::Error::from(error)))?;
    Ok(judge_storage(app, &upload, Arc::new(storage)).await??.quarantine)
}
