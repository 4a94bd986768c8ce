//! The catalogue in a PostgreSQL database.
//!
//! Every write is one transaction at the level SERIALIZABLE: what it has read stays true until it commits, as if it were
//! alone. Where two get in each other's way the database refuses one, which is made again, a bounded number of times; few
//! run at a time, so that this is rare.
//! Commits are as durable as the database's settings make them; its defaults survive power loss.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection as Connection, PgPool, Postgres, Transaction};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use uuid::Uuid;

use self::PostgresCatalogue as Handle;
use crate::search::Searches;
use crate::turn::Turn;
use crate::{Error, Result};

#[macro_use]
mod dialect;
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

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

const CONNECTIONS_MAX: u32 = 16;
/// Transactions of this process at a time. Nearly all write the one row of a tenant's usage: more of them would only make
/// each other begin again. Readers have the other connections.
const WRITERS_MAX: usize = 4;
/// How long a call waits for a connection, or for its turn to write.
const ACQUIRE_MS_MAX: u64 = 5_000;
/// How long the first connection may take at a start, which is over within 5 s (rel_43).
const CONNECT_MS_MAX: u64 = 4_000;
/// How long a statement may take, a lock that others hold included.
const STATEMENT_MS_MAX: &str = "10000";
/// A transaction whose client has gone silent ends by itself.
const IDLE_MS_MAX: &str = "30000";
/// How often a transaction that met another one is tried.
const TRIES_MAX: u32 = 200;
/// The longest mean pause before the next try.
const PAUSE_MS_MAX: u32 = 20;

/// The catalogue in a PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresCatalogue {
    pool: PgPool,
    /// Held by each transaction from before it begins until it has ended.
    writers: Arc<Semaphore>,
    turn: Turn,
    searches: Searches,
}

impl PostgresCatalogue {
    /// Connects to the database at `url` (`postgres://user:password@host/database`) and brings its schema up to date where
    /// needed; others who do so at the same time wait.
    ///
    /// [`Error::NewerSchema`] when a later version of the program has used it; [`Error::Unavailable`] when the address is
    /// none or nobody answers there.
    pub async fn connect(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?.application_name("imageops").options([
            ("statement_timeout", STATEMENT_MS_MAX),
            ("idle_in_transaction_session_timeout", IDLE_MS_MAX),
        ]);
        let connecting = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_millis(ACQUIRE_MS_MAX))
            .connect_with(options);
        let pool = timeout(Duration::from_millis(CONNECT_MS_MAX), connecting)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        match MIGRATIONS.run(&pool).await {
            Ok(()) => {
                let writers = Arc::new(Semaphore::new(WRITERS_MAX));
                Ok(Self { pool, writers, turn: Turn::default(), searches: Searches::default() })
            }
            Err(MigrateError::VersionMissing(found)) => {
                let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
                Err(Error::NewerSchema { found, known })
            }
            Err(MigrateError::Execute(error)) => Err(error.into()),
            Err(error) => Err(Error::Migration(error)),
        }
    }

    /// Waits for a turn to write, as long as for a connection.
    async fn may_write(&self) -> Result<SemaphorePermit<'_>> {
        let turn = timeout(Duration::from_millis(ACQUIRE_MS_MAX), self.writers.acquire()).await;
        let turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?;
        Ok(turn.map_err(|_| sqlx::Error::PoolClosed)?)
    }

    async fn begin(&self) -> Result<Transaction<'static, Postgres>> {
        Ok(self.pool.begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE").await?)
    }

    /// Whether a write would be taken: a standby answers, but takes none.
    async fn try_to_write(&self) -> Result<()> {
        let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&self.pool).await?;
        if standby {
            return Err(Error::Unavailable(sqlx::Error::Protocol("the database is a standby".to_owned())));
        }
        Ok(())
    }

    async fn shut(&self) {
        self.pool.close().await;
    }
}

/// Whether a transaction failed only because another one was faster; made again it sees what that one did.
fn met_another(error: &Error) -> bool {
    // Serialisation failure, deadlock, and a key that the other one has just taken.
    const CODES: [&str; 3] = ["40001", "40P01", "23505"];
    match error {
        Error::Unavailable(sqlx::Error::Database(failure)) => {
            failure.code().is_some_and(|code| CODES.contains(&&*code))
        }
        _ => false,
    }
}

/// Counts the tries of a transaction.
struct Tries(u32);

impl Tries {
    /// Waits before the next try, a little longer each time and by chance: those that met would meet again. The error when
    /// there were enough.
    async fn pause(&mut self, error: Error) -> Result<()> {
        self.0 += 1;
        if self.0 >= TRIES_MAX {
            return Err(error);
        }
        let mean_us = u64::from(self.0.min(PAUSE_MS_MAX)) * 1_000;
        let (chance, _) = Uuid::new_v4().as_u64_pair();
        tokio::time::sleep(Duration::from_micros(chance % (2 * mean_us))).await;
        Ok(())
    }
}
