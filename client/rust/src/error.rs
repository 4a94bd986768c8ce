//! The one error type of the client.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Result of the client's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call, an upload, a download or a watch failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server, or the connection to it, answered with an error.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The address is not one that can be connected to.
    #[error("not a server address: {uri:?} (give it as http://host:port or https://host:port)")]
    Address {
        /// What was given.
        uri: String,
    },
    /// Certificates or keys that the connection cannot be made with.
    #[error("no TLS with this: {0}")]
    Tls(String),
    /// The key holds characters that no key has.
    #[error("not a key: it holds characters that no key has")]
    Token,
    /// The local source of an upload could not be read.
    #[error("reading the source failed: {0}")]
    Source(#[source] io::Error),
    /// The source of an upload changed its length while it was read.
    #[error(
        "the source changed while it was uploaded: {expected_bytes} bytes at the start, {found_bytes} now"
    )]
    SourceChanged {
        /// Length at the start.
        expected_bytes: u64,
        /// Length that was found.
        found_bytes: u64,
    },
    /// The local target of a download could not be written.
    #[error("writing the target failed: {0}")]
    Target(#[source] io::Error),
    /// An upload ended without an image: it was given up, or its bytes were refused.
    #[error("the upload has ended without an image: {message}")]
    UploadEnded {
        /// Stable code.
        reason: String,
        /// Sentence for people.
        message: String,
    },
    /// Bytes arrived damaged, again and again.
    #[error("bytes arrived damaged at offset {offset_bytes}")]
    Damaged {
        /// Where they belong in the image.
        offset_bytes: u64,
    },
    /// The bytes of a whole download are not those that the server promised.
    #[error("the SHA-256 digest of the downloaded bytes is {found}, not {expected}")]
    Digest {
        /// Digest that the server promised.
        expected: String,
        /// Digest of what came.
        found: String,
    },
    /// The runtime ended while a digest was taken.
    #[error("the program is ending")]
    Interrupted,
    /// The server broke its own contract.
    #[error("the server's answer breaks the contract: {0}")]
    Protocol(&'static str),
}

/// An error answer, taken apart.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct CallError {
    /// gRPC status code.
    pub code: Code,
    /// Stable code of the service (`ErrorInfo.reason`). Empty: the error did not come from the service itself.
    pub reason: String,
    /// What the reason is about, by name (`ErrorInfo.metadata`).
    pub metadata: HashMap<String, String>,
    /// Sentence for people.
    pub message: String,
    /// How long to wait before trying again, when the server said so.
    pub retry_after: Option<Duration>,
    /// The connection failed, not the service.
    pub transport: bool,
}

impl CallError {
    /// The innermost cause says what happened (`connection refused`); the outer ones only that something did.
    fn innermost(status: &Status) -> Option<String> {
        let mut cause = status.source()?;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Some(cause.to_string())
    }

    fn sentence(&self) -> String {
        match (self.message.is_empty(), self.transport) {
            (true, _) => format!("the server answered {:?} without a message", self.code),
            (false, true) => format!("the connection to the server failed: {}", self.message),
            (false, false) => self.message.clone(),
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let (reason, metadata) = match details.error_info() {
            Some(info) => (info.reason.clone(), info.metadata.clone()),
            None => (String::new(), HashMap::new()),
        };
        // A status made from a broken connection carries that as its source; one that was received carries none.
        let transport = status.source().is_some();
        let message = CallError::innermost(&status).unwrap_or_else(|| status.message().to_owned());
        Self::Call(Box::new(CallError {
            code: status.code(),
            reason,
            metadata,
            message,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            transport,
        }))
    }
}

impl Error {
    /// gRPC status code that stands for this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Call(error) => error.code,
            Self::Address { .. } | Self::Tls(_) | Self::Token => Code::InvalidArgument,
            Self::Source(_) | Self::Target(_) => Code::Unknown,
            Self::SourceChanged { .. } | Self::UploadEnded { .. } => Code::FailedPrecondition,
            Self::Damaged { .. } | Self::Digest { .. } => Code::DataLoss,
            Self::Interrupted => Code::Cancelled,
            Self::Protocol(_) => Code::Internal,
        }
    }

    /// Stable code of the service, or an empty string.
    pub fn reason(&self) -> &str {
        match self {
            Self::Call(error) => &error.reason,
            Self::UploadEnded { reason, .. } => reason,
            Self::SourceChanged { .. } => "SOURCE_CHANGED",
            _ => "",
        }
    }

    /// A value of the error's metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        match self {
            Self::Call(error) => error.metadata.get(name).map(String::as_str),
            _ => None,
        }
    }

    /// How long the server asked to wait before trying again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(error) => error.retry_after,
            _ => None,
        }
    }

    /// Whether the connection failed, not the service.
    pub fn is_transport(&self) -> bool {
        matches!(self, Self::Call(error) if error.transport)
    }

    /// Whether the same call may succeed when it is made again: the connection broke, the server is going down, or it
    /// said itself when to come back.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Call(error) => {
                error.transport || error.code == Code::Unavailable || error.retry_after.is_some()
            }
            Self::Damaged { .. } => true,
            _ => false,
        }
    }
}

/// The name of a code, as gRPC writes it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn details_are_taken_apart() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("OFFSET_MISMATCH", "imageops", [("durable_bytes".to_owned(), "4096".to_owned())])
            .set_retry_info(Some(Duration::from_secs(2)));
        let error = Error::from(Status::with_error_details(Code::OutOfRange, "wrong offset", details));
        assert_eq!(error.code(), Code::OutOfRange);
        assert_eq!(error.reason(), "OFFSET_MISMATCH");
        assert_eq!(error.metadata("durable_bytes"), Some("4096"));
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(error.to_string(), "wrong offset");
        assert!(error.retryable());
    }

    #[test]
    fn what_may_be_tried_again() {
        assert!(Error::from(Status::unavailable("going down")).retryable());
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::from(Status::from_error(Box::new(refused)));
        assert!(error.retryable() && error.is_transport(), "{error:?}");
        assert_eq!(error.to_string(), "the connection to the server failed: connection refused");
        for code in [Code::NotFound, Code::InvalidArgument, Code::Internal, Code::ResourceExhausted] {
            assert!(!Error::from(Status::new(code, "no")).retryable(), "{code:?}");
        }
    }
}
