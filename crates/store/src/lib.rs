//! Stores: where the bytes of images lie, and the image root of the legacy surface.
//!
//! A [`Store`] stages bytes, publishes them whole and durable under a key made by the server, and reads them. It knows
//! nothing of the catalogue: the server joins both, and decides the order of durability in one place. All calls block and
//! belong on a bounded pool. [`ImageRoot`] resolves the names that clients send beneath one directory and never out of it.

use std::fs::File;
use std::time::SystemTime;

use imageops_model::StoreId;
use uuid::Uuid;

mod blob;
mod calls;
pub mod directory;
mod error;
pub mod fail_point;
#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
mod file_id;
pub mod image_root;
pub mod s3;
#[cfg(test)]
mod suite;

pub use blob::Blob;
pub use directory::{DirectoryStore, make_directories};
pub use error::{Error, Result};
pub use image_root::{ImageRoot, OutputPlace};
pub use s3::{S3Settings, S3Store};

/// A store of blobs. Keys are made by the server: 1 to 64 characters of `[0-9a-z-]`.
///
/// Each method may answer with [`Error::Gone`] when the store is no longer at its place, and with [`Error::Unavailable`]
/// when it cannot be reached now.
pub trait Store: Send + Sync + 'static {
    /// The store's id, stamped into it when it was made.
    fn id(&self) -> StoreId;

    /// What the bytes lie in.
    fn kind(&self) -> Kind;

    /// The catalogue that knows what is in the store, as [`Store::set_owner`] noted it; `None` when nobody did.
    fn owner(&self) -> Result<Option<Uuid>>;

    /// Notes, durable, which catalogue knows what is in the store: another one must not take its blobs for leftovers.
    fn set_owner(&self, catalogue: Uuid) -> Result<()>;

    /// Finds out whether the store is there and takes writes: it is still the one that was opened, and what is written to
    /// it can be flushed, read back and removed.
    fn probe(&self) -> Result<()>;

    /// Makes a staged file for `key`, or opens the one that is there. Staged files are files of this machine whatever the
    /// kind of the store; they survive a crash, are never visible as blobs, mode 0600.
    fn stage(&self, key: &str) -> Result<File>;

    /// Opens the staged file for `key`; [`Error::NotFound`] when there is none.
    fn open_staged(&self, key: &str) -> Result<File>;

    /// Removes a staged file. Removing what is not there is no error.
    fn discard_staged(&self, key: &str) -> Result<()>;

    /// Makes an empty staged file for `key`. What an earlier attempt still writes into the one that was there is lost with it.
    fn stage_anew(&self, key: &str) -> Result<File> {
        self.discard_staged(key)?;
        self.stage(key)
    }

    /// Makes the bytes of the staged file `staged` the blob `blob`, durable when the call returns and never replacing
    /// another one: [`Error::Exists`] when the name is that of other bytes. The staged name stays until
    /// [`Store::discard_staged`]: the caller drops it once the catalogue names the blob, so that a crash in between loses
    /// nothing. Publishing again ends in the same state. After a failed flush the bytes count as lost: the staged file is
    /// discarded (reliability rel_12).
    fn publish(&self, staged: &str, blob: &str) -> Result<()>;

    /// Opens a blob for reading.
    fn open(&self, blob: &str) -> Result<Box<dyn Blob>>;

    /// Removes a blob. Removing what is not there is no error.
    fn remove(&self, blob: &str) -> Result<()>;

    /// All staged files.
    fn list_staged(&self) -> Result<Vec<Entry>>;

    /// All blobs.
    fn list(&self) -> Result<Vec<Entry>>;

    /// Room for blobs.
    fn space(&self) -> Result<Space>;

    /// Sets the number of bytes that blobs and staged files may take together; `None`: as many as the medium has. Only
    /// directories have such a limit: those that share a file system can be held apart by it.
    fn set_limit(&self, _limit_bytes: Option<u64>) {}

    /// Room for staged files, which may lie elsewhere.
    fn staging_space(&self) -> Result<Space> {
        self.space()
    }

    /// Removes what calls that were cut off before `before` left behind and no list shows, such as parts of an object that
    /// was never completed; how many.
    fn sweep_incomplete(&self, _before: SystemTime) -> Result<u64> {
        Ok(0)
    }
}

/// What a store keeps its bytes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A directory of a mounted file system.
    Directory,
    /// A bucket of a server that speaks S3.
    S3,
}

/// A staged file or a blob in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// When its bytes were last changed.
    pub modified: SystemTime,
    /// Its length.
    pub size_bytes: u64,
}

/// Room of a store. `None` is unlimited, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Room in all, taken or not.
    pub total_bytes: Option<u64>,
    /// Bytes that can still be written.
    pub free_bytes: Option<u64>,
}

pub(crate) const KEY_BYTES_MAX: usize = 64;

/// Refuses what is no key, before it becomes part of any name.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Error::InvalidName)
    }
}
