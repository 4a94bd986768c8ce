//! The table of an EdgeGallery file-system service, for the import of what it knows. Nothing is ever written there.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::time::timeout;

/// Most rows that are read: the service itself never listed more than a thousand.
pub const ROWS_MAX: usize = 100_000;

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long the statement may take.
const STATEMENT_MS_MAX: &str = "60000";

// As JSON: builds differ in which columns there are and of which type.
const SELECT: &str = "SELECT row_to_json(legacy)::TEXT FROM image_d_b AS legacy LIMIT $1";

/// `undefined_table` (PostgreSQL's manual, appendix A).
const NO_SUCH_TABLE: &str = "42P01";

/// Where the service has its table.
#[derive(Clone)]
pub enum LegacyDatabase {
    /// `postgres://user:password@host/database`.
    Url(String),
    /// The parts that the service was configured with. It spoke without TLS, and so is it read.
    Parts {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Name of the database.
        database: String,
        /// User.
        username: String,
        /// Their password.
        password: String,
    },
}

/// A row of the table as the service wrote it: the text of what an import needs, empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyImage {
    /// `image_id`.
    pub image_id: String,
    /// `file_name`: the name that the image came with.
    pub file_name: String,
    /// `user_id`.
    pub user_id: String,
    /// `save_file_name`: the name that it was stored under.
    pub save_file_name: String,
    /// `upload_time`, as PostgreSQL writes times.
    pub upload_time: String,
    /// `slim_status`, a number.
    pub slim_status: String,
    /// `checksum`: MD5 of what the last check read, or a word for that it failed.
    pub checksum: String,
}

/// Why the table cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LegacyError {
    /// The address is none, nobody answers there, or lets us in.
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// Connecting took too long.
    #[error("the database does not answer")]
    Silent,
    /// The database is that of something else.
    #[error("the database has no table image_d_b")]
    NoTable,
    /// Reading failed.
    #[error("the table cannot be read: {0}")]
    Unreadable(#[source] sqlx::Error),
    /// A row is not what PostgreSQL makes of rows.
    #[error("a row of the table cannot be read: {0}")]
    Row(#[source] serde_json::Error),
    /// More than [`ROWS_MAX`].
    #[error("the table has more than {ROWS_MAX} rows")]
    TooMany,
}

impl LegacyImage {
    /// Takes what is needed of a row; the names of its columns in lower case.
    pub fn from_columns(mut columns: BTreeMap<String, String>) -> Self {
        let mut take = |name| columns.remove(name).unwrap_or_default();
        Self {
            image_id: take("image_id"),
            file_name: take("file_name"),
            user_id: take("user_id"),
            save_file_name: take("save_file_name"),
            upload_time: take("upload_time"),
            slim_status: take("slim_status"),
            checksum: take("checksum"),
        }
    }
}

/// Reads the whole table.
pub async fn read(database: &LegacyDatabase) -> Result<Vec<LegacyImage>, LegacyError> {
    let options = options(database)?;
    let connecting = timeout(CONNECT_WAIT, PgConnection::connect_with(&options));
    let mut connection =
        connecting.await.map_err(|_| LegacyError::Silent)?.map_err(LegacyError::Unreachable)?;
    let query = sqlx::query_scalar(SELECT).bind(ROWS_MAX as i64 + 1);
    let rows: Vec<String> = query.fetch_all(&mut connection).await.map_err(unreadable)?;
    // All is read: how the connection ends does not matter.
    let _ = connection.close().await;
    if rows.len() > ROWS_MAX {
        return Err(LegacyError::TooMany);
    }
    rows.iter().map(|row| read_row(row)).collect()
}

fn options(database: &LegacyDatabase) -> Result<PgConnectOptions, LegacyError> {
    let options = match database {
        LegacyDatabase::Url(url) => PgConnectOptions::from_str(url).map_err(LegacyError::Unreachable)?,
        LegacyDatabase::Parts { host, port, database, username, password } => {
            PgConnectOptions::new_without_pgpass()
                .host(host)
                .port(*port)
                .database(database)
                .username(username)
                .password(password)
                .ssl_mode(PgSslMode::Disable)
        }
    };
    Ok(options.application_name("imageops import").disable_statement_logging().options([
        ("default_transaction_read_only", "on"),
        ("statement_timeout", STATEMENT_MS_MAX),
        ("timezone", "UTC"),
    ]))
}

fn unreadable(error: sqlx::Error) -> LegacyError {
    let code = error.as_database_error().and_then(|failure| failure.code());
    if code.is_some_and(|code| code == NO_SUCH_TABLE) {
        LegacyError::NoTable
    } else {
        LegacyError::Unreadable(error)
    }
}

fn read_row(json: &str) -> Result<LegacyImage, LegacyError> {
    let columns: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).map_err(LegacyError::Row)?;
    let text = |value| match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let columns = columns.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), text(value)));
    Ok(LegacyImage::from_columns(columns.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_whatever_the_types_of_its_columns() {
        let late = r#"{"image_id":"i","file_name":"a\"b.img","slim_status":2,"checksum":null,"virtual_size":0.062,
            "upload_time":"2021-10-19T16:33:03+00:00"}"#;
        let seed = r#"{"image_id":"i","file_name":"a\"b.img","slim_status":"2","upload_time":"2021-10-19T16:33:03+00:00"}"#;
        let expected = LegacyImage {
            image_id: "i".to_owned(),
            file_name: "a\"b.img".to_owned(),
            slim_status: "2".to_owned(),
            upload_time: "2021-10-19T16:33:03+00:00".to_owned(),
            ..LegacyImage::default()
        };
        for row in [late, seed] {
            assert_eq!(read_row(row).ok(), Some(expected.clone()), "{row}");
        }
        assert!(matches!(read_row("[]"), Err(LegacyError::Row(_))));
    }

    #[tokio::test]
    async fn a_database_that_is_not_there_is_unreachable() {
        let parts = LegacyDatabase::Parts {
            host: "127.0.0.1".to_owned(),
            port: 1,
            database: "none".to_owned(),
            username: "someone".to_owned(),
            password: "hidden".to_owned(),
        };
        for database in [parts, LegacyDatabase::Url("nothing".to_owned())] {
            let failed = read(&database).await.expect_err("nobody listens there");
            assert!(matches!(failed, LegacyError::Unreachable(_)), "{failed:?}");
            assert!(!failed.to_string().contains("hidden"), "{failed}");
        }
    }
}
