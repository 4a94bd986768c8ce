//! The one error type of the catalogue.

use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

/// A failure of the catalogue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such row for this tenant.
    #[error("no such {what}")]
    NotFound {
        /// `job`, `upload`, `session`, `image`, `replica`, `store` or `key`.
        what: &'static str,
    },
    /// The id, or the request id, already stands for something else.
    #[error("the id already stands for another {what}")]
    Conflict {
        /// See [`Error::NotFound`]; also `blob` and `alias`.
        what: &'static str,
    },
    /// The row's state does not allow it.
    #[error("the {what} is in a state that does not allow this")]
    State {
        /// See [`Error::NotFound`].
        what: &'static str,
    },
    /// The row has changed since it was read.
    #[error("the {what} has changed since")]
    Stale {
        /// See [`Error::NotFound`].
        what: &'static str,
    },
    /// The image refuses to be deleted.
    #[error("the image is protected")]
    Protected,
    /// The worker no longer holds the lease.
    #[error("another worker has taken the job over")]
    Fenced,
    /// The tenant would have more than it may.
    #[error("the quota of {limit} {what} does not allow this")]
    QuotaExceeded {
        /// `images` or `bytes`.
        what: &'static str,
        /// Most that it may have.
        limit: u64,
        /// What it has, and what is promised to its uploads and jobs.
        used: u64,
    },
    /// As many jobs as allowed are queued or running.
    #[error("the queue is full")]
    QueueFull,
    /// A figure is larger than a row can hold: 2^63 - 1.
    #[error("{what} is too large")]
    OutOfRange {
        /// Name of the field.
        what: &'static str,
    },
    /// The database does not answer, or is locked.
    #[error("the catalogue is not available")]
    Unavailable(#[source] sqlx::Error),
    /// The disk of the database is full. Nothing was written; the same call works once there is room.
    #[error("the catalogue has no room left")]
    NoSpace(#[source] sqlx::Error),
    /// A row, or the database file, does not read as what was written.
    #[error("the catalogue is damaged: {what}")]
    Corrupt {
        /// What does not read.
        what: String,
    },
    /// The database was used by a later version, which this program must not write to.
    #[error(
        "the catalogue has schema {found}, this version knows schemas up to {known}: start the newer version"
    )]
    NewerSchema {
        /// Schema of the database.
        found: i64,
        /// Newest schema of this program.
        known: i64,
    },
    /// A migration failed.
    #[error("the catalogue's schema could not be brought up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
}

/// Result of the catalogue's methods.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Primary result codes of SQLite: the low byte of an extended code.
const SQLITE_CORRUPT: i64 = 11;
const SQLITE_FULL: i64 = 13;
const SQLITE_NOT_A_DATABASE: i64 = 26;

/// Codes of PostgreSQL (its manual, appendix A).
const POSTGRES_DISK_FULL: &str = "53100";
const POSTGRES_DATA_CORRUPTED: &str = "XX001";
const POSTGRES_INDEX_CORRUPTED: &str = "XX002";

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
                Self::Corrupt { what: error.to_string() }
            }
            sqlx::Error::Database(failure) => match cause(&**failure) {
                Cause::Damage => Self::Corrupt { what: failure.message().to_owned() },
                Cause::NoSpace => Self::NoSpace(error),
                Cause::Other => Self::Unavailable(error),
            },
            _ => Self::Unavailable(error),
        }
    }
}

/// What a database's own failure means to us.
enum Cause {
    Damage,
    NoSpace,
    Other,
}

fn cause(failure: &dyn DatabaseError) -> Cause {
    let code = failure.code().unwrap_or_default();
    if failure.try_downcast_ref::<SqliteError>().is_none() {
        return match &*code {
            POSTGRES_DISK_FULL => Cause::NoSpace,
            POSTGRES_DATA_CORRUPTED | POSTGRES_INDEX_CORRUPTED => Cause::Damage,
            _ => Cause::Other,
        };
    }
    match code.parse::<i64>().unwrap_or(0) & 0xff {
        SQLITE_CORRUPT | SQLITE_NOT_A_DATABASE => Cause::Damage,
        SQLITE_FULL => Cause::NoSpace,
        _ => Cause::Other,
    }
}
