//! Opens a store by its row, or by the setting that names it for the first time.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use imageops_model::{StoreId, StoreKind};
use imageops_store::{DirectoryStore, Error, ImageRoot, Result, S3Settings, S3Store, Store};
use tokio::runtime::Handle;

/// The key to the buckets: of the configuration alone, never of a row, a log or an answer.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Name of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials(hidden)")
    }
}

/// What opening needs beside the row.
#[derive(Clone, Debug)]
pub(super) struct Opener {
    /// Where uploads to buckets are staged: a directory for each below it.
    pub(super) staging: PathBuf,
    pub(super) credentials: Credentials,
    /// Where clients name files.
    pub(super) image_root: Arc<ImageRoot>,
    /// Calls to buckets run on it while a thread of the pool waits.
    pub(super) runtime: Handle,
}

impl Opener {
    /// Opens the store in `kind`. With an `id` it must be that very store, and nothing is written where it is not; without
    /// one it is made where there is none. Blocks.
    pub(super) fn open(&self, name: &str, kind: &StoreKind, id: Option<StoreId>) -> Result<Arc<dyn Store>> {
        match kind {
            StoreKind::Directory { path } => {
                let path = PathBuf::from(path);
                let store = match id {
                    Some(id) => DirectoryStore::open_existing(&path, id)?,
                    None => DirectoryStore::open_or_create(&path)?,
                };
                // Stored bytes are not to be named, nor replaced, as files.
                self.image_root.keep_out(&path)?;
                Ok(Arc::new(store))
            }
            StoreKind::Bucket { endpoint, region, bucket, prefix, path_style, allow_http } => {
                let settings = S3Settings {
                    endpoint: endpoint.clone(),
                    region: region.clone(),
                    bucket: bucket.clone(),
                    prefix: prefix.clone(),
                    access_key: self.credentials.access_key.clone(),
                    secret_key: self.credentials.secret_key.clone(),
                    allow_http: *allow_http,
                    path_style: *path_style,
                };
                let staging = self.staging.join(name);
                let runtime = self.runtime.clone();
                Ok(match id {
                    Some(id) => Arc::new(S3Store::open_existing(&settings, &staging, runtime, id)?),
                    None => Arc::new(S3Store::open_or_create(&settings, &staging, runtime)?),
                })
            }
        }
    }
}

/// What an operator is told of a store that cannot be used.
pub(super) fn sentence(error: &Error) -> String {
    match error {
        Error::Gone(sentence) | Error::Unusable(sentence) => sentence.clone(),
        other => other.to_string(),
    }
}
