//! The one error type of the engine.

use std::io;

/// What kind of failure an [`Error`] is, for callers that map it to a status or an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file breaks the rules of the format it claims to be.
    Invalid,
    /// The image reaches outside itself or declares sizes past a limit.
    Unsafe,
    /// A known format, feature or option that the engine does not take.
    Unsupported,
    /// The tables of the image contradict each other, or its compressed data cannot be decoded.
    Corrupt,
    /// The source changed while it was read.
    Changed,
    /// The caller cancelled the operation.
    Cancelled,
    /// Another program uses the image.
    InUse,
    /// The output's name is taken.
    Exists,
    /// No room left on the target's file system.
    NoSpace,
    /// The output would grow past the caller's limit.
    OutputLimit,
    /// The written output did not read back as what went in.
    Verification,
    /// Reading or writing failed.
    Io,
}

/// A failure of the engine: a kind, a stable reason code, a sentence for people and the place in the file.
///
/// `reason` is UPPER_SNAKE and as stable as a field number (`UNSAFE_BACKING_FILE`, `INVALID_L1_SIZE`, …); every code
/// is listed in [`crate::reason`]. `message` is lower case, has no full stop, and never holds a path of the host.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure this is.
    pub kind: ErrorKind,
    /// Stable machine-readable code.
    pub reason: &'static str,
    /// Sentence for people.
    pub message: String,
    /// Byte offset in the image file that the failure is about, when there is one.
    pub offset_bytes: Option<u64>,
    /// The operating system's error behind it, when there is one.
    #[source]
    pub source: Option<io::Error>,
}

/// Result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with the stable code `reason`.
    pub fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into(), offset_bytes: None, source: None }
    }

    /// Whether the image is to blame, and not its medium or the caller.
    pub fn is_of_the_image(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Invalid | ErrorKind::Unsafe | ErrorKind::Unsupported | ErrorKind::Corrupt
        )
    }

    /// The same error with the byte offset in the image file that it is about.
    #[must_use]
    pub fn at(mut self, offset_bytes: u64) -> Self {
        self.offset_bytes = Some(offset_bytes);
        self
    }
}

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        let (kind, reason, message) = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (ErrorKind::NoSpace, crate::reason::NO_SPACE, "no space left for the output".to_owned())
            }
            _ => (ErrorKind::Io, crate::reason::IO, format!("reading or writing failed: {source}")),
        };
        Self { kind, reason, message, offset_bytes: None, source: Some(source) }
    }
}
