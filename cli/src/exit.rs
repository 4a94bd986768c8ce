//! Exit statuses, and failures as one line.

use std::fmt;
use std::process::ExitCode;

use imageops_client::Error as ClientError;
use imageops_image::{Error as EngineError, ErrorKind};
use tonic::Code;

/// How the program ended. `check` ends as `qemu-img check` does, `inspect` by its verdict, all else with 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Success,
    /// It failed, or it was called in a way that makes no sense.
    Failure,
    /// `check`: corruptions were found.
    Corrupt,
    /// `check`: leaked clusters were found, no corruption.
    Leaks,
    /// `check`: the format has no check.
    NotSupported,
    /// `inspect`: the image is refused.
    Refused,
    /// `inspect`: nothing can be said of the image.
    Unknown,
    /// Ended by Ctrl-C or SIGTERM.
    Interrupted,
}

impl Exit {
    /// The status that the caller sees.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Corrupt | Self::Refused => 2,
            Self::Leaks | Self::Unknown => 3,
            Self::NotSupported => 63,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}

/// A failure: one line for people, saying what to do next when there is something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Stable code, for the JSON form. Empty: none.
    pub(crate) reason: String,
    pub(crate) message: String,
    next: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failure, reason: String::new(), message: message.into(), next: None }
    }

    pub(crate) fn interrupted() -> Self {
        Self { exit: Exit::Interrupted, reason: "CANCELLED".to_owned(), ..Self::new("interrupted") }
    }

    /// The same failure with what to do about it.
    pub(crate) fn advise(mut self, next: &'static str) -> Self {
        self.next = Some(next);
        self
    }

    /// The same failure in other words.
    pub(crate) fn say(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    /// The same failure, told of `what`.
    pub(crate) fn of(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        // `os error 2` tells a person nothing that the words before it do not.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or(&text);
        Self { reason: "IO".to_owned(), ..Self::new(format!("{what}: {}", lower_first(text))) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a server or an image put into the text.
        let line = crate::output::printable(&self.message);
        match self.next {
            Some(next) => write!(formatter, "{line}; {next}"),
            None => formatter.write_str(&line),
        }
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        if error.kind == ErrorKind::Cancelled {
            return Self::interrupted();
        }
        let failure = Self { reason: error.reason.to_owned(), ..Self::new(error.message) };
        match error.kind {
            ErrorKind::NoSpace => failure.advise("free some space or name an output on another file system"),
            ErrorKind::Changed => {
                failure.advise("try again when nothing writes to it, or work on a snapshot of it")
            }
            ErrorKind::InUse => failure.advise("stop what uses it, then try again"),
            ErrorKind::Verification => {
                failure.advise("no output was made; check memory and storage of this machine")
            }
            _ => failure,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self { reason: error.reason().to_owned(), ..Self::new(error.to_string()) };
        match (error.code(), error.reason()) {
            _ if error.is_transport() && failure.message.contains("certificate") => failure.advise(
                "--ca says whom to trust, --client-cert who you are, and the address must be in the server's certificate",
            ),
            _ if error.is_transport() => {
                failure.advise("is the server running there? --server or IMAGEOPS_SERVER names it")
            }
            (Code::Unauthenticated, _) => failure.advise("put a key of the server into IMAGEOPS_TOKEN"),
            (_, "QUOTA_EXCEEDED") => failure.advise("remove images for good, or have the quota raised"),
            (_, "NO_SPACE") => failure.advise("free some space where the server keeps its images"),
            (Code::ResourceExhausted | Code::Unavailable, _) => failure.advise("try again later"),
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_that_scripts_know() {
        let statuses = [
            (Exit::Success, 0),
            (Exit::Failure, 1),
            (Exit::Corrupt, 2),
            (Exit::Leaks, 3),
            (Exit::NotSupported, 63),
            (Exit::Refused, 2),
            (Exit::Unknown, 3),
            (Exit::Interrupted, 130),
        ];
        for (exit, status) in statuses {
            assert_eq!(exit.status(), status, "{exit:?}");
        }
    }

    #[test]
    fn a_failure_is_one_line() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(Failure::io("disk.img", &error).to_string(), "disk.img: no such file or directory");
        let failure = Failure::new("a\nb\u{1b}[31m").advise("try again");
        assert_eq!(failure.to_string(), "a b[31m; try again");
    }

    #[test]
    fn a_cancelled_operation_is_an_interruption() {
        let error = EngineError::new(ErrorKind::Cancelled, "CANCELLED", "the operation was cancelled");
        assert_eq!(Failure::from(error).exit, Exit::Interrupted);
    }
}
