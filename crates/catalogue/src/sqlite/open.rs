//! Opening and closing the file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::SqliteCatalogue;
use crate::search::Searches;
use crate::turn::Turn;
use crate::{Error, Result};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a statement waits for another process's transaction.
const BUSY_MS_MAX: u64 = 5_000;
/// How long a call waits for a connection of this process.
const ACQUIRE_MS_MAX: u64 = 10_000;
const READERS_MAX: u32 = 4;

pub(super) async fn open(path: &Path) -> Result<SqliteCatalogue> {
    let guard = lock(path.to_owned()).await?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_millis(BUSY_MS_MAX));
    let pool = || {
        SqlitePoolOptions::new()
            .acquire_timeout(Duration::from_millis(ACQUIRE_MS_MAX))
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
    };
    let writer = pool()
        .max_connections(1)
        // SQLite ends a transaction by itself when the file system is full. The driver then believes for ever that it is in
        // one and refuses each next: such a connection is exchanged for a new one.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .connect_with(options.clone())
        .await?;
    if let Err(error) = migrate(&writer).await {
        writer.close().await;
        return Err(error);
    }
    let readers =
        pool().max_connections(READERS_MAX).connect_with(options.pragma("query_only", "ON")).await?;
    drop(guard);
    Ok(SqliteCatalogue { writer, readers, turn: Turn::default(), searches: Searches::default() })
}

/// Copies the write-ahead log into the file. Whoever opens it next would do the same: a failure loses nothing.
pub(super) async fn settle(writer: &SqlitePool) {
    for statement in ["PRAGMA optimize", "PRAGMA wal_checkpoint(TRUNCATE)"] {
        if let Err(error) = sqlx::query(statement).execute(writer).await {
            tracing::debug!(statement, error = %error, "the catalogue was closed without this");
        }
    }
}

/// Makes the file and keeps other openers out until the schema is there: neither the switch to the write-ahead log nor a
/// migration can be done by two at a time. The lock lies in a file of its own, because closing any handle of the database
/// file would end SQLite's own locks on it.
async fn lock(path: PathBuf) -> Result<File> {
    let locked = tokio::task::spawn_blocking(move || lock_blocking(&path)).await;
    let locked = locked.unwrap_or_else(|error| Err(io::Error::other(error)));
    locked.map_err(|error| Error::Unavailable(sqlx::Error::Io(error)))
}

fn lock_blocking(path: &Path) -> io::Result<File> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock_path)?;
    lock.lock()?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(made) => made.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(lock),
        Err(error) => return Err(error),
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()?;
    Ok(lock)
}

async fn migrate(writer: &SqlitePool) -> Result<()> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let connection: &mut SqliteConnection = &mut transaction;
    // All or nothing: each migration is a savepoint of the one transaction.
    match MIGRATIONS.run_direct(None, connection, false).await {
        Ok(()) => Ok(transaction.commit().await?),
        Err(MigrateError::VersionMissing(found)) => {
            let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
            Err(Error::NewerSchema { found, known })
        }
        Err(MigrateError::Execute(error)) => Err(error.into()),
        Err(error) => Err(Error::Migration(error)),
    }
}
