//! Failures of the service, and what a client is told of them.
//!
//! A [`Failure`] is a code, a stable reason and a safe sentence. Inner errors are logged here, once, and never reach a
//! client: no paths, no SQL.

use std::collections::HashMap;
use std::time::Duration;

use imageops_image::ErrorKind;
use imageops_model::JobFailure;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::reason;

/// Domain of all reasons.
pub const DOMAIN: &str = "imageops";

/// A failure: what a call, a job or an upload ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// gRPC code.
    pub code: Code,
    /// Stable reason.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
    details: Box<Details>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Details {
    metadata: HashMap<String, String>,
    field: Option<&'static str>,
    resource: Option<(&'static str, String)>,
    retry_after: Option<Duration>,
}

/// Result of the service's functions.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with its code, reason and sentence.
    pub fn new(code: Code, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into(), details: Box::default() }
    }

    /// A request member that cannot be used.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::invalid_as(reason::INVALID_ARGUMENT, field, message)
    }

    /// A request member that cannot be used, with a reason of its own.
    pub fn invalid_as(reason: &str, field: &'static str, message: impl Into<String>) -> Self {
        let mut failure = Self::new(Code::InvalidArgument, reason, message);
        failure.details.field = Some(field);
        failure
    }

    /// A resource that does not exist for the caller.
    pub fn not_found(reason: &str, kind: &'static str, name: impl Into<String>) -> Self {
        let mut failure = Self::new(Code::NotFound, reason, format!("no such {kind}"));
        failure.details.resource = Some((kind, name.into()));
        failure
    }

    /// A fault of the server: the cause goes to the log, the client gets a neutral sentence.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal failure");
        Self::new(Code::Internal, reason::INTERNAL, "the server failed; its log has more")
    }

    /// Tells the client when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.details.retry_after = Some(delay);
        self
    }

    /// Adds a value that programs may read.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.details.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// The form that a job or an upload keeps.
    pub fn into_job_failure(self) -> JobFailure {
        JobFailure { code: self.code as i32, reason: self.reason, message: self.message }
    }
}

impl From<JobFailure> for Failure {
    fn from(failure: JobFailure) -> Self {
        Self::new(Code::from_i32(failure.code), failure.reason, failure.message)
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let Failure { code, reason, message, details } = failure;
        let details = *details;
        let mut rich = ErrorDetails::with_error_info(reason, DOMAIN, details.metadata);
        if let Some(field) = details.field {
            rich.add_bad_request_violation(field, message.clone());
        }
        if let Some((kind, name)) = details.resource {
            rich.set_resource_info(kind, name, "", message.clone());
        }
        if let Some(delay) = details.retry_after {
            rich.set_retry_info(Some(delay));
        }
        Self::with_error_details(code, message, rich)
    }
}

impl From<imageops_catalogue::Error> for Failure {
    fn from(error: imageops_catalogue::Error) -> Self {
        use imageops_catalogue::Error;
        match error {
            Error::NotFound { what } => {
                Self::new(Code::NotFound, not_found_reason(what), format!("no such {what}"))
            }
            Error::Conflict { what: "image" } => {
                let message = "the id stands for another image, or for one that is gone; take a new one";
                Self::new(Code::AlreadyExists, reason::IMAGE_EXISTS, message)
            }
            Error::Conflict { what: "store" } => {
                let message = "a store with this name or at this place is registered already";
                Self::new(Code::AlreadyExists, reason::STORE_EXISTS, message)
            }
            Error::Conflict { what: "key" } => {
                let message = "a key with this id, or of this certificate, is there already; revoke it and make another";
                Self::new(Code::AlreadyExists, reason::KEY_EXISTS, message)
            }
            Error::Conflict { what: "replica" } => {
                Self::new(Code::AlreadyExists, reason::REPLICA_STATE, "the store holds a copy already")
            }
            Error::Conflict { what } => Self::new(
                Code::AlreadyExists,
                reason::REQUEST_ID_REUSED,
                format!("this request id already stands for another {what}; take a new one"),
            ),
            Error::State { what: "session" } => {
                let message = "the session is being composed; wait for the end of that";
                Self::new(Code::Aborted, reason::SESSION_BUSY, message).retry_after(Duration::from_secs(1))
            }
            Error::State { what } => Self::new(
                Code::FailedPrecondition,
                match what {
                    "image" => reason::IMAGE_NOT_ACTIVE,
                    "upload" => reason::UPLOAD_ENDED,
                    "replica" => reason::REPLICA_STATE,
                    "store" => reason::STORE_NOT_EMPTY,
                    _ => reason::JOB_ENDED,
                },
                format!("the {what} is in a state that does not allow this"),
            ),
            Error::QuotaExceeded { what, limit, used } => quota_exceeded(what, limit, used),
            Error::Stale { what } => Self::new(
                Code::Aborted,
                reason::STALE_ETAG,
                format!("the {what} has changed since; read it again and decide anew"),
            ),
            Error::Protected => Self::new(
                Code::FailedPrecondition,
                reason::IMAGE_PROTECTED,
                "the image is protected; take `protected` away before deleting it",
            ),
            Error::QueueFull => {
                Self::new(Code::ResourceExhausted, reason::LIMIT_REACHED, "the queue of jobs is full")
                    .retry_after(Duration::from_secs(5))
            }
            Error::NoSpace(cause) => {
                tracing::warn!(%cause, "the disk of the catalogue is full");
                no_space()
            }
            Error::Unavailable(cause) => {
                tracing::warn!(%cause, "the catalogue does not answer");
                Self::new(Code::Unavailable, reason::UNAVAILABLE, "the catalogue does not answer; try again")
                    .retry_after(Duration::from_secs(1))
            }
            other => Self::internal(other),
        }
    }
}

/// The tenant would have more than it may.
pub fn quota_exceeded(what: &str, limit: u64, used: u64) -> Failure {
    metrics::counter!("imageops_rejected_total", "reason" => "quota").increment(1);
    let message =
        format!("the quota of {limit} {what} does not allow this: {used} are taken or reserved; delete some");
    Failure::new(Code::ResourceExhausted, reason::QUOTA_EXCEEDED, message)
        .with("what", what)
        .with("limit", limit)
        .with("used", used)
}

fn not_found_reason(what: &str) -> &'static str {
    match what {
        "image" => reason::IMAGE_NOT_FOUND,
        "upload" => reason::UPLOAD_NOT_FOUND,
        "session" => reason::SESSION_NOT_FOUND,
        "store" => reason::STORE_NOT_FOUND,
        "key" => reason::KEY_NOT_FOUND,
        "replica" => reason::REPLICA_STATE,
        _ => reason::JOB_NOT_FOUND,
    }
}

impl From<imageops_store::Error> for Failure {
    fn from(error: imageops_store::Error) -> Self {
        match error {
            imageops_store::Error::NoSpace(_) => no_space(),
            imageops_store::Error::Gone(cause) => {
                tracing::error!(cause, "a store is gone");
                let message = "the store is not there now; try again when its operator has brought it back";
                Self::new(Code::Unavailable, reason::STORE_DISCONNECTED, message)
                    .retry_after(Duration::from_secs(60))
            }
            imageops_store::Error::Unavailable(cause) => {
                tracing::warn!(%cause, "a store cannot be reached");
                Self::new(
                    Code::Unavailable,
                    reason::STORE_DISCONNECTED,
                    "the store cannot be reached now; try again",
                )
                .retry_after(Duration::from_secs(5))
            }
            imageops_store::Error::Corrupt => {
                tracing::error!("a store holds other bytes than it was given");
                Self::new(
                    Code::DataLoss,
                    reason::BYTES_DAMAGED,
                    "the store does not hold the bytes that came; send them again",
                )
            }
            other => Self::internal(other),
        }
    }
}

impl From<imageops_image::Error> for Failure {
    fn from(mut error: imageops_image::Error) -> Self {
        // What the engine read lay in a store that failed.
        if let Some(source) = error.source.take() {
            match source.downcast::<imageops_store::Error>() {
                Ok(store) => return store.into(),
                Err(source) => error.source = Some(source),
            }
        }
        let code = match error.kind {
            ErrorKind::Invalid | ErrorKind::Unsafe | ErrorKind::Unsupported => Code::InvalidArgument,
            ErrorKind::Corrupt => Code::DataLoss,
            ErrorKind::Changed => Code::Aborted,
            ErrorKind::Exists => Code::AlreadyExists,
            ErrorKind::Cancelled => Code::Cancelled,
            ErrorKind::NoSpace | ErrorKind::OutputLimit => Code::ResourceExhausted,
            _ => {
                tracing::error!(reason = error.reason, message = %error, source = ?error.source, "the engine failed");
                Code::Internal
            }
        };
        let failure = Self::new(code, error.reason, error.message);
        match error.offset_bytes {
            Some(offset) => failure.with("offset_bytes", offset),
            None => failure,
        }
    }
}

/// A job was told to stop.
pub fn stopped() -> Failure {
    Failure::new(Code::Cancelled, imageops_image::reason::CANCELLED, "the job was stopped")
}

/// The store or the image root has no room left.
pub fn no_space() -> Failure {
    Failure::new(Code::ResourceExhausted, imageops_image::reason::NO_SPACE, "no space left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_one_error_info_and_no_inner_text() {
        let error = imageops_store::Error::Io(std::io::Error::other("/secret/path"));
        let status = Status::from(Failure::from(error));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason::INTERNAL, DOMAIN));
    }

    #[test]
    fn a_store_that_fails_under_the_engine_is_not_the_servers_fault() {
        let away = imageops_store::Error::Unavailable(std::io::ErrorKind::TimedOut.into());
        let error = imageops_image::Error::from(std::io::Error::other(away));
        let failure = Failure::from(error);
        assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, reason::STORE_DISCONNECTED));
        let other = Failure::from(imageops_image::Error::from(std::io::Error::other("a disk")));
        assert_eq!((other.code, other.reason.as_str()), (Code::Internal, imageops_image::reason::IO));
    }

    #[test]
    fn a_limit_tells_when_to_come_back() {
        let status = Status::from(Failure::from(imageops_catalogue::Error::QueueFull));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().and_then(|info| info.retry_delay).is_some());
    }
}
