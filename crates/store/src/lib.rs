//! Stores: where the bytes of images lie, and the image root of the legacy surface.
//!
//! A [`Store`] stages bytes, publishes them whole and durable under a key made by the server, and reads them. It knows
//! nothing of the catalogue: the server joins both, and decides the order of durability in one place. All calls block and
//! belong on a bounded pool. [`ImageRoot`] resolves the names that clients send beneath one directory and never out of it.

use std::fs::File;
use std::io;

use imageops_model::StoreId;

mod calls;
pub mod directory;
pub mod fail_point;
mod file_id;
pub mod image_root;

pub use directory::DirectoryStore;
pub use image_root::{ImageRoot, OutputPlace};

/// A store of blobs. Keys are made by the server: 1 to 64 characters of `[0-9a-z-]`.
pub trait Store: Send + Sync + 'static {
    /// The store's id, stamped into it when it was made.
    fn id(&self) -> StoreId;

    /// Makes a staged file for `key`, or opens the one that is there. Staged files survive a crash, are never visible as
    /// blobs, mode 0600.
    fn stage(&self, key: &str) -> Result<File>;

    /// Opens the staged file for `key`; [`Error::NotFound`] when there is none.
    fn open_staged(&self, key: &str) -> Result<File>;

    /// Removes a staged file. Removing what is not there is no error.
    fn discard_staged(&self, key: &str) -> Result<()>;

    /// Makes the staged file `staged` the blob `blob`: flushes the file, links it under its new name without replacing
    /// anything, flushes the directory of the blobs. The staged name stays until [`Store::discard_staged`]: the caller
    /// drops it once the catalogue names the blob, so that a crash in between loses nothing. Publishing again ends in the
    /// same state. After a failed flush the bytes count as lost: the staged file is discarded (reliability rel_12).
    fn publish(&self, staged: &str, blob: &str) -> Result<()>;

    /// Opens a blob for reading.
    fn open(&self, blob: &str) -> Result<File>;

    /// Removes a blob. Removing what is not there is no error.
    fn remove(&self, blob: &str) -> Result<()>;

    /// Keys of all staged files.
    fn list_staged(&self) -> Result<Vec<String>>;

    /// Keys of all blobs.
    fn list(&self) -> Result<Vec<String>>;

    /// Bytes that can still be written.
    fn free_bytes(&self) -> Result<u64>;
}

/// A failure of a store or of the image root. Messages never hold a path of the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such blob, staged file or source.
    #[error("not found")]
    NotFound,
    /// The key is taken.
    #[error("the key is taken")]
    Exists,
    /// The name cannot be used: empty, absolute, leads out of the root, or into what the service keeps there.
    #[error("the name cannot be used")]
    InvalidName,
    /// No room left.
    #[error("no space left")]
    NoSpace(#[source] io::Error),
    /// Another process holds the directory, or it is not a store, or another store's.
    #[error("{0}")]
    Unusable(String),
    /// Any other failure.
    #[error("input or output failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(error),
            _ => Self::Io(error),
        }
    }
}

/// Result of the stores' methods.
pub type Result<T, E = Error> = std::result::Result<T, E>;
