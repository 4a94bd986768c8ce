//! The catalogue in an SQLite file.
//!
//! One connection writes, a few read beside it (write-ahead log), so that writers of this process queue in the pool and
//! not at the file's lock. Every write begins with `BEGIN IMMEDIATE`: what a transaction has read stays true until it
//! commits, also when another process (`imageops-server key create`) has the file open. Commits are flushed
//! (`synchronous = FULL`) and survive power loss.

use std::path::Path;

use sqlx::{Sqlite, SqliteConnection as Connection, SqlitePool, Transaction};

use crate::Result;
use crate::search::Searches;
use crate::turn::Turn;

use self::SqliteCatalogue as Handle;

#[macro_use]
mod dialect;
mod open;
#[cfg(test)]
mod tests;

// The steps are those of every database: the same statements, but for what the dialect says.
#[path = "sql/catalogue.rs"]
mod catalogue;
#[path = "sql/commit.rs"]
mod commit;
#[path = "sql/companions.rs"]
mod companions;
#[path = "sql/doomed.rs"]
mod doomed;
#[path = "sql/image_rows.rs"]
mod image_rows;
#[path = "sql/images.rs"]
mod images;
#[path = "sql/job_ends.rs"]
mod job_ends;
#[path = "sql/jobs.rs"]
mod jobs;
#[path = "sql/keys.rs"]
mod keys;
#[path = "sql/leases.rs"]
mod leases;
#[path = "sql/records.rs"]
mod records;
#[path = "sql/removal.rs"]
mod removal;
#[path = "sql/replicas.rs"]
mod replicas;
#[path = "sql/sessions.rs"]
mod sessions;
#[path = "sql/sharing.rs"]
mod sharing;
#[path = "sql/stores.rs"]
mod stores;
#[path = "sql/trash.rs"]
mod trash;
#[path = "sql/uploads.rs"]
mod uploads;
#[path = "sql/usage.rs"]
mod usage;

/// The catalogue in an SQLite file.
#[derive(Clone, Debug)]
pub struct SqliteCatalogue {
    writer: SqlitePool,
    readers: SqlitePool,
    turn: Turn,
    searches: Searches,
}

impl SqliteCatalogue {
    /// Opens the catalogue at `path`, making the file (mode 0600) and bringing its schema up to date where needed. The
    /// directory must exist. Several processes may have the same file open.
    ///
    /// [`crate::Error::NewerSchema`] when a later version of the program has used it; [`crate::Error::Corrupt`] when it is no
    /// catalogue.
    pub async fn open(path: &Path) -> Result<Self> {
        open::open(path).await
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The place of the writer is asked for, so that a lock that is held or a read-only file shows; nothing is written.
    async fn try_to_write(&self) -> Result<()> {
        self.begin().await?.rollback().await?;
        Ok(())
    }

    async fn shut(&self) {
        self.readers.close().await;
        open::settle(&self.writer).await;
        self.writer.close().await;
    }
}
