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
    /// Another process holds the directory.
    #[error("another process is using this data directory")]
    InUse,
    /// The directory is not a store, or another store's, or takes no writes.
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

impl Error {
    /// Whether the store was not there, or could not be reached: nothing is known of its bytes.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Unavailable(_))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        // What a blob has failed with, on its way through readers that know nothing but such errors.
        let error = match error.downcast::<Self>() {
            Ok(inner) => return inner,
            Err(error) => error,
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_store_comes_out_as_it_went_in() {
        let inner = Error::Unavailable(io::ErrorKind::TimedOut.into());
        let outer = Error::from(io::Error::other(inner));
        assert!(matches!(&outer, Error::Unavailable(_)) && outer.is_away(), "{outer:?}");
        let plain = Error::from(io::Error::other("anything"));
        assert!(matches!(&plain, Error::Io(_)) && !plain.is_away(), "{plain:?}");
    }
}
