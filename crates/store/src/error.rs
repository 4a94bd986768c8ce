//! What can go wrong.

use std::io;

/// A failure of a store or of the image root. Messages never hold a path of the host, or a secret.
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
    /// Another process holds the directory, or it is not a store, or another store's, or takes no writes.
    #[error("{0}")]
    Unusable(String),
    /// The store is not at its place: its file system is not mounted, its directory was moved, its bucket is missing.
    /// The sentence tells what to do.
    #[error("{0}")]
    Gone(String),
    /// The store cannot be reached now; later it may be.
    #[error("the store cannot be reached")]
    Unavailable(#[source] io::Error),
    /// What the store holds are not the bytes that were given to it.
    #[error("the store holds other bytes than it was given")]
    Corrupt,
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
            io::ErrorKind::ReadOnlyFilesystem => {
                Self::Unusable("the file system is mounted read-only; mount it for writing".to_owned())
            }
            // What network file systems, and those of a process that ended, answer.
            io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::NotConnected => {
                Self::Gone("the file system has lost its server; mount it again".to_owned())
            }
            _ => Self::Io(error),
        }
    }
}

/// Result of the stores' methods.
pub type Result<T, E = Error> = std::result::Result<T, E>;
