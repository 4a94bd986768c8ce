//! The one error type of the crate.

use std::io;

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No zip, or one that breaks its own rules: truncated, damaged, contradicting itself.
    Invalid,
    /// A sound zip without an image.
    NoImage,
    /// It has what no upload may have: links, devices, too many members, names that meet, a bomb.
    Unsafe,
    /// The image is longer than the limit.
    TooLarge,
    /// A member is encrypted.
    Encrypted,
    /// A method or a feature that is not read.
    Unsupported,
    /// Reading failed.
    Io,
}

/// The stable reason codes.
pub mod reason {
    /// No zip, truncated, or its parts contradict each other.
    pub const ARCHIVE_INVALID: &str = "ARCHIVE_INVALID";
    /// The content is not what was packed: its checksum or its length is another.
    pub const ARCHIVE_DAMAGED: &str = "ARCHIVE_DAMAGED";
    /// No member is an image.
    pub const ARCHIVE_NO_IMAGE: &str = "ARCHIVE_NO_IMAGE";
    /// More than one member is an image.
    pub const ARCHIVE_SEVERAL_IMAGES: &str = "ARCHIVE_SEVERAL_IMAGES";
    /// Links, devices, too many members, names that meet, members that overlap.
    pub const ARCHIVE_UNSAFE: &str = "ARCHIVE_UNSAFE";
    /// The image is itself an archive or a compressed file.
    pub const ARCHIVE_NESTED: &str = "ARCHIVE_NESTED";
    /// It unpacks to far more than it holds.
    pub const ARCHIVE_BOMB: &str = "ARCHIVE_BOMB";
    /// The image is longer than the limit.
    pub const ARCHIVE_TOO_LARGE: &str = "ARCHIVE_TOO_LARGE";
    /// A member is encrypted.
    pub const ARCHIVE_ENCRYPTED: &str = "ARCHIVE_ENCRYPTED";
    /// A method or a feature that is not read.
    pub const ARCHIVE_UNSUPPORTED: &str = "ARCHIVE_UNSUPPORTED";
    /// Reading failed.
    pub const IO: &str = "IO";
}

/// A failure: a kind, a stable reason code and a sentence for people, which holds no name from the archive.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure this is.
    pub kind: ErrorKind,
    /// Stable machine-readable code.
    pub reason: &'static str,
    /// Sentence for people.
    pub message: String,
    /// The operating system's error behind it, when there is one.
    #[source]
    pub source: Option<io::Error>,
}

/// Result of the crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with the stable code `reason`.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into(), source: None }
    }

    /// The failure of a read from a [`crate::Member`], which comes as an [`io::Error`] like that of any file.
    pub fn from_read(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(ours) => ours,
            Err(error) => error.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, reason::ARCHIVE_INVALID, message)
    }

    pub(crate) fn dangerous(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsafe, reason::ARCHIVE_UNSAFE, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, reason::ARCHIVE_UNSUPPORTED, message)
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return Self::invalid("the archive ends early");
        }
        let message = format!("reading the archive failed: {source}");
        Self { kind: ErrorKind::Io, reason: reason::IO, message, source: Some(source) }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
