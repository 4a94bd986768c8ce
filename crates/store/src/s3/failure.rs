//! What the object store's errors mean to us. Their texts name servers, objects and keys: none of them gets out.

use std::error::Error as StdError;
use std::io;

use object_store::Error as ObjectError;
use object_store::client::HttpError;

use crate::Error;

/// Characters of the server's own code for an error that are passed on.
const CODE_CHARS_MAX: usize = 40;

pub(super) fn failure(error: ObjectError) -> Error {
    let code = code(&error);
    match (&error, code.as_deref()) {
        (_, Some("NoSuchBucket")) => {
            Error::Gone("the bucket of the store is missing; create it, or name another".to_owned())
        }
        (_, Some("QuotaExceeded" | "EntityTooLarge" | "XMinioStorageFull" | "InsufficientCapacity")) => {
            Error::NoSpace(io::Error::new(io::ErrorKind::QuotaExceeded, "the object store takes no more"))
        }
        (_, Some("RequestTimeTooSkewed")) => {
            Error::Unusable("the clocks of this machine and of the object store differ; set them".to_owned())
        }
        (ObjectError::NotFound { .. }, _) => Error::NotFound,
        (ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }, _) => Error::Exists,
        (ObjectError::PermissionDenied { .. } | ObjectError::Unauthenticated { .. }, _) => Error::Unusable(
            "the object store refuses the access key; check the key, its secret, and what it may do"
                .to_owned(),
        ),
        (_, Some(code)) if is_refusal(code) => {
            Error::Io(io::Error::other(format!("the object store refuses the request: {code}")))
        }
        (_, code) => {
            let kind = transport(&error).unwrap_or("failure");
            let text = match code {
                Some(code) => format!("the object store answers {code}"),
                None => format!("the object store does not answer: {kind}"),
            };
            Error::Unavailable(io::Error::other(text))
        }
    }
}

/// The time that an operation was given is over.
pub(super) fn overdue() -> Error {
    Error::Unavailable(io::Error::new(io::ErrorKind::TimedOut, "the object store does not answer in time"))
}

/// As an error of reading.
pub(super) fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::NotFound => io::Error::new(io::ErrorKind::NotFound, Error::NotFound),
        // The object is not the one that was opened.
        Error::Exists | Error::Corrupt => io::Error::new(io::ErrorKind::InvalidData, Error::Corrupt),
        other => io::Error::other(other),
    }
}

/// Whether the server understood the request and will not do it, so that trying again is of no use. One that got other bytes
/// than were sent, or fewer, may get the right ones the next time.
fn is_refusal(code: &str) -> bool {
    !matches!(
        code,
        "BadDigest"
            | "XAmzContentSHA256Mismatch"
            | "XAmzContentChecksumMismatch"
            | "IncompleteBody"
            | "InternalError"
            | "SlowDown"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "TooManyRequests"
            | "Throttling"
    )
}

/// The code in the server's answer: `<Code>SlowDown</Code>`.
fn code(error: &ObjectError) -> Option<String> {
    let text = error.to_string();
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_plain = code.len() <= CODE_CHARS_MAX && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_plain && !code.is_empty()).then(|| code.to_owned())
}

fn transport(error: &ObjectError) -> Option<&'static str> {
    use object_store::client::HttpErrorKind::{Connect, Decode, Interrupted, Request, Timeout};
    let mut current: &(dyn StdError + 'static) = error;
    let mut found = None;
    // The innermost knows best: see `sendable_again`.
    loop {
        if let Some(error) = current.downcast_ref::<HttpError>() {
            found = Some(match error.kind() {
                Connect => "no connection",
                Timeout => "timeout",
                Interrupted | Request => "the connection broke",
                Decode => "the answer makes no sense",
                _ => "it has failed for a while",
            });
        }
        let Some(source) = current.source() else { return found };
        current = source;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: &str) -> Error {
        let source = format!("<Error><Code>{code}</Code></Error>").into();
        failure(ObjectError::Generic { store: "S3", source })
    }

    #[test]
    fn bytes_that_became_others_on_the_way_can_be_sent_again() {
        for code in
            ["BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"]
        {
            assert!(matches!(answered(code), Error::Unavailable(_)), "{code}");
        }
        assert!(matches!(answered("InvalidRequest"), Error::Io(_)));
    }
}
