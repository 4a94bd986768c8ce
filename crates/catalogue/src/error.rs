//! The one error type of the catalogue.

/// A failure of the catalogue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such row for this tenant.
    #[error("no such {what}")]
    NotFound {
        /// `job`, `upload`, `image` or `key`.
        what: &'static str,
    },
    /// The id, or the request id, already stands for something else.
    #[error("the id already stands for another {what}")]
    Conflict {
        /// See [`Error::NotFound`].
        what: &'static str,
    },
    /// The row's state does not allow it.
    #[error("the {what} is in a state that does not allow this")]
    State {
        /// See [`Error::NotFound`].
        what: &'static str,
    },
    /// The worker no longer holds the lease.
    #[error("another worker has taken the job over")]
    Fenced,
    /// As many jobs as allowed are queued or running.
    #[error("the queue is full")]
    QueueFull,
    /// The database does not answer, is locked, or has no room.
    #[error("the catalogue is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A row does not read as what was written.
    #[error("a row of the catalogue is damaged: {what}")]
    Corrupt {
        /// What does not read.
        what: String,
    },
    /// The database's schema is newer than this program, or a migration failed.
    #[error("the catalogue's schema does not fit this version")]
    Migration(#[source] sqlx::migrate::MigrateError),
}

/// Result of the catalogue's methods.
pub type Result<T, E = Error> = std::result::Result<T, E>;
