//! Exit codes of the server, one for each cause (docs/configuration.md lists them).

use std::fmt;
use std::process::ExitCode;

/// Why the server did not start, or did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Unknown flag or command.
    Usage,
    /// A setting cannot be used.
    Configuration,
    /// The data directory, the store or the image root cannot be used.
    Storage,
    /// Another server holds the data directory.
    InUse,
    /// The catalogue cannot be opened.
    Catalogue,
    /// A port cannot be bound.
    Port,
    /// Something failed while serving.
    Internal,
    /// Not all that was to be imported could be.
    Refused,
}

impl Exit {
    /// The number, after sysexits(3) where one fits.
    pub fn number(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Configuration => 78,
            Self::Storage => 73,
            Self::InUse => 75,
            Self::Catalogue => 76,
            Self::Port => 69,
            Self::Internal => 70,
            Self::Refused => 65,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// A failure that ends the process: the cause decides the exit code, the message is the one line that is printed.
#[derive(Debug)]
pub struct Fatal {
    /// Cause.
    pub exit: Exit,
    /// One line: what is wrong and what to do.
    pub message: String,
}

impl Fatal {
    /// A failure with its cause and line.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Fatal {}
