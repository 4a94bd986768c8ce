//! A store in a bucket of a server that speaks S3.
//!
//! ```text
//! PREFIX/imageops-store     the stamp: what this is, and the store's id
//! PREFIX/catalogue          the id of the catalogue that knows what is in it
//! PREFIX/blobs/KEY          the blobs
//! PREFIX/incomplete/ID      uploads in parts that were begun: what the sweep aborts
//! PREFIX/probe/ID           while the store is asked whether it takes writes
//! ```
//!
//! Staged files lie in a directory of this machine. Any number of servers may use the same bucket; a key belongs to one
//! upload and is never written again, so that nothing depends on who comes first. Calls wait for the network on the thread
//! that makes them, which must not be one of the runtime's own.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt as _;
use imageops_model::StoreId;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, path};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::directory::stamp;
use crate::{Blob, DirectoryStore, Entry, Error, Kind, Result, Space, Store, check_key};

mod blob;
mod blocks;
mod breaker;
mod client;
mod connector;
mod failure;
mod incomplete;
mod parts;
mod publish;
mod settings;

#[cfg(test)]
mod tests;

use blob::S3Blob;
use client::Client;
pub use settings::S3Settings;

const STAMP: &str = "imageops-store";
const OWNER: &str = "catalogue";
const BLOBS: &str = "blobs";
const INCOMPLETE: &str = "incomplete";
const PROBE: &str = "probe";

/// A store in a bucket.
#[derive(Debug)]
pub struct S3Store {
    id: StoreId,
    client: Arc<Client>,
    /// Only its staged files are used.
    staging: DirectoryStore,
}

impl S3Store {
    /// Opens the store, stamping the bucket when it has none below the prefix. `staging` is a directory of this machine
    /// that belongs to this store alone; it is made and locked.
    pub fn open_or_create(settings: &S3Settings, staging: &Path, runtime: Handle) -> Result<Self> {
        let client = Client::new(settings, runtime)?;
        let id = match read_stamp(&client)? {
            Some(id) => id,
            None => write_stamp(&client)?,
        };
        Self::open(client, staging, id)
    }

    /// Opens the store `id`, which must be there: [`Error::Gone`] when the bucket has no stamp, [`Error::Unusable`] when
    /// it is another store's.
    pub fn open_existing(
        settings: &S3Settings,
        staging: &Path,
        runtime: Handle,
        id: StoreId,
    ) -> Result<Self> {
        let client = Client::new(settings, runtime)?;
        check_stamp(&client, id)?;
        Self::open(client, staging, id)
    }

    fn open(client: Arc<Client>, staging: &Path, id: StoreId) -> Result<Self> {
        Ok(Self { id, client, staging: DirectoryStore::open_or_create(staging)? })
    }

    fn objects(&self, name: &str) -> Result<Vec<Entry>> {
        let prefix = self.client.path(name);
        let found: Vec<_> =
            self.client.run_for(LIST_TIMEOUT, self.client.objects.list(Some(&prefix)).try_collect())?;
        let entries = found.into_iter().filter_map(|object| {
            let key = object.location.filename()?.to_owned();
            check_key(&key).ok()?;
            Some(Entry { key, modified: object.last_modified.into(), size_bytes: object.size })
        });
        Ok(entries.collect())
    }
}

/// Lists come a thousand at a time.
const LIST_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(300);

fn blob_path(client: &Client, blob: &str) -> path::Path {
    client.path(&format!("{BLOBS}/{blob}"))
}

fn read_stamp(client: &Client) -> Result<Option<StoreId>> {
    read_text(client, STAMP)?.map(|text| stamp::check(&text)).transpose()
}

/// A short text; that of an object too long to be one is empty.
fn read_text(client: &Client, name: &str) -> Result<Option<String>> {
    let read = async {
        let answer = client.objects.get(&client.path(name)).await?;
        if answer.meta.size > stamp::STAMP_BYTES_MAX { Ok(None) } else { answer.bytes().await.map(Some) }
    };
    match client.run(read) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())),
        Err(Error::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

fn check_stamp(client: &Client, id: StoreId) -> Result<()> {
    match read_stamp(client)? {
        Some(found) if found == id => Ok(()),
        Some(_) => Err(Error::Unusable("the bucket holds another store below the prefix".to_owned())),
        None => {
            let sentence = "the bucket holds no store below the prefix; name its place, or restore the stamp";
            Err(Error::Gone(sentence.to_owned()))
        }
    }
}

/// Stamps the bucket. Of several servers that do so at once, one is first and the others take its id.
fn write_stamp(client: &Client) -> Result<StoreId> {
    let mut blobs = client.objects.list(Some(&client.path(BLOBS)));
    if client.run(async { blobs.try_next().await })?.is_some() {
        let sentence = "the bucket holds blobs, but the stamp of their store is missing";
        return Err(Error::Unusable(sentence.to_owned()));
    }
    let text = stamp::text(StoreId(Uuid::new_v4()));
    let stamp = client.path(STAMP);
    match client.run(client.objects.put_opts(&stamp, text.into(), PutMode::Create.into())) {
        Ok(_) | Err(Error::Exists) => {}
        Err(error) => return Err(error),
    }
    // What is there counts: a try whose answer was lost, or another server, may have been before.
    read_stamp(client)?.ok_or_else(|| Error::Gone("the stamp of the store vanished".to_owned()))
}

impl Store for S3Store {
    fn id(&self) -> StoreId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::S3
    }

    fn owner(&self) -> Result<Option<Uuid>> {
        read_text(&self.client, OWNER)?.map(|text| stamp::check_owner(&text)).transpose()
    }

    fn set_owner(&self, catalogue: Uuid) -> Result<()> {
        let text = stamp::owner_text(catalogue);
        self.client.run(self.client.objects.put(&self.client.path(OWNER), text.into())).map(drop)
    }

    fn probe(&self) -> Result<()> {
        self.staging.probe()?;
        check_stamp(&self.client, self.id)?;
        let client = &self.client;
        let id = Uuid::new_v4();
        let object = client.path(&format!("{PROBE}/{id}"));
        let written = bytes::Bytes::copy_from_slice(id.as_bytes());
        client.run(client.objects.put(&object, written.clone().into()))?;
        let read = client.run(async { client.objects.get(&object).await?.bytes().await });
        let removed = client.run(client.objects.delete(&object));
        if read? != written {
            return Err(Error::Corrupt);
        }
        removed
    }

    fn stage(&self, key: &str) -> Result<File> {
        self.staging.stage(key)
    }

    fn open_staged(&self, key: &str) -> Result<File> {
        self.staging.open_staged(key)
    }

    fn discard_staged(&self, key: &str) -> Result<()> {
        self.staging.discard_staged(key)
    }

    fn publish(&self, staged: &str, blob: &str) -> Result<()> {
        check_key(blob)?;
        let file = self.staging.open_staged(staged)?;
        publish::publish(&self.client, &file, blob)
    }

    fn open(&self, blob: &str) -> Result<Box<dyn Blob>> {
        check_key(blob)?;
        Ok(Box::new(S3Blob::open(&self.client, blob_path(&self.client, blob))?))
    }

    fn remove(&self, blob: &str) -> Result<()> {
        check_key(blob)?;
        match self.client.run(self.client.objects.delete(&blob_path(&self.client, blob))) {
            Err(Error::NotFound) => Ok(()),
            answer => answer,
        }
    }

    fn list_staged(&self) -> Result<Vec<Entry>> {
        self.staging.list_staged()
    }

    fn list(&self) -> Result<Vec<Entry>> {
        self.objects(BLOBS)
    }

    /// Servers do not tell.
    fn space(&self) -> Result<Space> {
        Ok(Space::default())
    }

    fn staging_space(&self) -> Result<Space> {
        self.staging.space()
    }

    fn sweep_incomplete(&self, before: SystemTime) -> Result<u64> {
        incomplete::sweep(&self.client, before)
    }
}
