//! The suite on a real PostgreSQL: each database of the suite is a schema of its own there.
#![allow(clippy::unwrap_used)]

use tokio::sync::OnceCell;
use uuid::Uuid;

use super::*;
use crate::Catalogue as _;
use crate::suite::{Database, assert_error, catalogue_suite};

/// Names the server to test with.
const URL: &str = "IMAGEOPS_TEST_POSTGRES";

fn url() -> Option<String> {
    std::env::var(URL).ok().filter(|url| !url.is_empty())
}

struct Schema {
    name: String,
    made: OnceCell<()>,
}

impl Schema {
    fn url(&self) -> String {
        format!("{}&options[search_path]={}", url().unwrap(), self.name)
    }

    async fn make(&self) {
        self.made
            .get_or_init(async || {
                let pool = PgPool::connect(&url().unwrap()).await.unwrap();
                let statement = format!("CREATE SCHEMA {}", self.name);
                sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
                pool.close().await;
            })
            .await;
    }
}

impl Database for Schema {
    type Catalogue = PostgresCatalogue;

    fn missing() -> Option<&'static str> {
        url()
            .is_none()
            .then_some("IMAGEOPS_TEST_POSTGRES is not set; cargo xtask test starts a server and sets it")
    }

    fn new() -> Self {
        Self { name: format!("test_{}", Uuid::new_v4().simple()), made: OnceCell::new() }
    }

    async fn open(&self) -> PostgresCatalogue {
        self.make().await;
        PostgresCatalogue::connect(&self.url()).await.unwrap()
    }

    async fn fill_old(&self, statements: &'static [&'static str]) {
        self.make().await;
        let pool = PgPool::connect(&self.url()).await.unwrap();
        let migrations = MIGRATIONS.iter().take(3).cloned().collect();
        Migrator::with_migrations(migrations).run(&pool).await.unwrap();
        for statement in statements {
            sqlx::query(*statement).execute(&pool).await.unwrap();
        }
        pool.close().await;
    }

    async fn finding(catalogue: &PostgresCatalogue, queries: &'static [&'static str]) -> Vec<&'static str> {
        let mut finding = Vec::new();
        for query in queries {
            if !sqlx::query(*query).fetch_all(&catalogue.pool).await.unwrap().is_empty() {
                finding.push(*query);
            }
        }
        finding
    }
}

catalogue_suite!(Schema);

#[tokio::test]
async fn an_address_that_is_none_is_unavailable() {
    for url in ["nothing", "postgres://imageops@127.0.0.1:1/none"] {
        assert_error!(PostgresCatalogue::connect(url).await, Error::Unavailable(_));
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    if let Some(reason) = Schema::missing() {
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let schema = Schema::new();
    let catalogue = schema.open().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', TRUE, '', 0)";
    sqlx::query(newer).execute(&catalogue.pool).await.unwrap();
    assert_error!(PostgresCatalogue::connect(&schema.url()).await, Error::NewerSchema { found: 9999, .. });
    catalogue.close().await;
}
