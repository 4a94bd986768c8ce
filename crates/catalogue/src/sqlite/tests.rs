//! The suite on SQLite, and what only a file can show.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use sqlx::Row;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

use imageops_model::{JobId, Lane, Tenant};

use super::*;
use crate::suite::{Database, added, assert_error, at, catalogue_suite, image_row, new_job};
use crate::{Catalogue as _, Error, ImageChange, ImageFilter, ImageOrder};

struct SqliteFile(TempDir);

impl Database for SqliteFile {
    type Catalogue = SqliteCatalogue;

    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    async fn open(&self) -> SqliteCatalogue {
        SqliteCatalogue::open(&self.0.path().join("catalogue.db")).await.unwrap()
    }

    async fn fill_old(&self, statements: &'static [&'static str]) {
        let options =
            SqliteConnectOptions::new().filename(self.0.path().join("catalogue.db")).create_if_missing(true);
        let pool = SqlitePool::connect_with(options).await.unwrap();
        let migrations = sqlx::migrate!("migrations/sqlite").iter().take(3).cloned().collect();
        Migrator::with_migrations(migrations).run(&pool).await.unwrap();
        for statement in statements {
            sqlx::query(*statement).execute(&pool).await.unwrap();
        }
        pool.close().await;
    }

    async fn finding(catalogue: &SqliteCatalogue, queries: &'static [&'static str]) -> Vec<&'static str> {
        let mut finding = Vec::new();
        for query in queries {
            if !sqlx::query(*query).fetch_all(&catalogue.readers).await.unwrap().is_empty() {
                finding.push(*query);
            }
        }
        finding
    }
}

catalogue_suite!(SqliteFile);

#[tokio::test]
async fn the_files_are_private() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    catalogue.create_job(new_job(at(0)), 1).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(file.0.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        names.push(entry.file_name().into_string().unwrap());
    }
    assert!(names.contains(&"catalogue.db-wal".to_owned()), "{names:?}");
}

#[tokio::test]
async fn commits_are_flushed_and_readers_do_not_write() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    for (pragma, expected) in
        [("PRAGMA synchronous", 2_i64), ("PRAGMA foreign_keys", 1), ("PRAGMA busy_timeout", 5000)]
    {
        let value: i64 = sqlx::query_scalar(pragma).fetch_one(&catalogue.writer).await.unwrap();
        assert_eq!(value, expected, "{pragma}");
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&catalogue.writer).await.unwrap();
    assert_eq!(mode, "wal");
    assert!(sqlx::query("DELETE FROM jobs").execute(&catalogue.readers).await.is_err());
}

#[tokio::test]
async fn many_open_a_new_file_at_once() {
    let file = SqliteFile::new();
    let path = file.0.path().join("catalogue.db");
    let opens: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { SqliteCatalogue::open(&path).await })
        })
        .collect();
    for open in opens {
        open.await.unwrap().unwrap().ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9000, 'of the future', TRUE, x'00', 0)",
    )
    .execute(&catalogue.writer)
    .await
    .unwrap();
    catalogue.close().await;
    let refused = SqliteCatalogue::open(&file.0.path().join("catalogue.db")).await;
    assert_error!(refused, Error::NewerSchema { found: 9000, .. });
}

#[tokio::test]
async fn what_is_no_catalogue_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("text");
    std::fs::write(&path, "not a database, but long enough to hold the header of one: ".repeat(20)).unwrap();
    assert_error!(SqliteCatalogue::open(&path).await, Error::Corrupt { .. });
    let nowhere = directory.path().join("missing").join("catalogue.db");
    assert_error!(SqliteCatalogue::open(&nowhere).await, Error::Unavailable(_));
}

#[tokio::test]
async fn a_damaged_row_is_told_as_such() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    let job = new_job(at(0));
    catalogue.create_job(job.clone(), 1).await.unwrap();
    sqlx::query("UPDATE jobs SET state = 'unheard of'").execute(&catalogue.writer).await.unwrap();
    assert_error!(catalogue.get_job(&job.tenant, job.id).await, Error::Corrupt { .. });
}

/// Names the database to the process that the test below starts and kills.
const VICTIM: &str = "IMAGEOPS_TEST_CATALOGUE";

/// The other process: adds jobs as long as it lives and tells each id once the job is acknowledged.
#[tokio::test]
async fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let catalogue = SqliteCatalogue::open(path.as_ref()).await.unwrap();
    loop {
        let job = new_job(at(0));
        catalogue.create_job(job.clone(), u64::MAX).await.unwrap();
        println!("acknowledged {}", job.id);
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    let mut acknowledged = Vec::new();
    for round in 1..=3 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["sqlite::tests::victim", "--exact", "--nocapture"])
            .env(VICTIM, file.0.path().join("catalogue.db"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        for _ in 0..20 * round {
            let line = lines.next().unwrap().unwrap();
            acknowledged.extend(line.split_once("acknowledged ").map(|(_, id)| id.parse::<JobId>().unwrap()));
            // This process writes meanwhile.
            let job = new_job(at(0));
            catalogue.create_job(job.clone(), u64::MAX).await.unwrap();
            acknowledged.push(job.id);
        }
        process.kill().unwrap();
        process.wait().unwrap();
    }
    catalogue.close().await;
    let catalogue = file.open().await;
    assert!(acknowledged.len() > 200, "{}", acknowledged.len());
    for id in acknowledged {
        catalogue.get_job(&Tenant::built_in(), id).await.unwrap();
    }
    let sound: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&catalogue.writer).await.unwrap();
    assert_eq!(sound, "ok");
}

/// A file system of one megabyte, unmounted in the end.
struct Tiny(TempDir);

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn no_space_is_told_and_passes() {
    let tiny = Tiny(TempDir::new().unwrap());
    let path = tiny.0.path();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(path).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a catalogue on a full file system: mounting a tmpfs needs root");
        return;
    }
    let catalogue = SqliteCatalogue::open(&path.join("catalogue.db")).await.unwrap();
    let ballast = path.join("ballast");
    std::fs::write(&ballast, vec![1; 400_000]).unwrap();
    let mut acknowledged = Vec::new();
    let failure = loop {
        let job = new_job(at(0));
        match catalogue.create_job(job.clone(), u64::MAX).await {
            Ok(_) => acknowledged.push(job.id),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 10_000, "a full file system was not noticed");
    };
    assert!(matches!(failure, Error::NoSpace(_)), "{failure:?}");
    catalogue.get_job(&Tenant::built_in(), acknowledged[0]).await.unwrap();
    std::fs::remove_file(ballast).unwrap();
    let last = new_job(at(0));
    catalogue.create_job(last.clone(), u64::MAX).await.unwrap();
    acknowledged.push(last.id);
    for id in acknowledged {
        catalogue.get_job(&Tenant::built_in(), id).await.unwrap();
    }
    catalogue.close().await;
}

/// A call that its caller gave up must not leave the one writing connection in a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_leaves_no_transaction() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    for n in 0..200_u64 {
        let call = catalogue.create_job(new_job(at(0)), 1_000_000);
        let patience = std::time::Duration::from_micros(n * 17 % 1500);
        let _ = tokio::time::timeout(patience, call).await;
    }
    catalogue.ping().await.unwrap();
    catalogue.create_job(new_job(at(0)), 1_000_000).await.unwrap();
}

#[tokio::test]
async fn statements_use_the_indexes() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    for (statement, index) in [
        (
            "EXPLAIN QUERY PLAN SELECT spec FROM jobs WHERE tenant = 'a' AND state IN ('queued', 'failed') \
             AND kind IN ('check', 'check') AND (create_time, id) < (5, 'a') ORDER BY create_time DESC, id DESC LIMIT 9",
            "jobs_by_creation",
        ),
        (
            "EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE end_time IS NOT NULL AND end_time < 5 ORDER BY end_time LIMIT 9",
            "jobs_by_end",
        ),
        (
            "EXPLAIN QUERY PLAN SELECT label FROM uploads WHERE tenant = 'a' AND state IN ('open', 'open') \
             AND (create_time, id) < (5, 'a') ORDER BY create_time DESC, id DESC LIMIT 9",
            "uploads_by_creation",
        ),
        (
            "EXPLAIN QUERY PLAN SELECT id FROM uploads WHERE state = 'open' AND expire_time < 5 ORDER BY expire_time LIMIT 9",
            "uploads_to_expire",
        ),
        (
            "EXPLAIN QUERY PLAN SELECT id FROM uploads WHERE state IN ('committed', 'aborted', 'failed') AND update_time < 5 ORDER BY update_time LIMIT 9",
            "uploads_to_forget",
        ),
        (
            "EXPLAIN QUERY PLAN SELECT 1 FROM image_replicas WHERE store = 'a' AND blob = 'b' LIMIT 1",
            "replicas_by_blob",
        ),
    ] {
        let rows = sqlx::query(statement).fetch_all(&catalogue.writer).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(plan.iter().any(|step| step.contains(index)), "{index}: {plan:?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{index} sorts: {plan:?}");
    }
}

#[tokio::test]
async fn statements_on_copies_and_parts_use_the_indexes() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    for (statement, index) in [
        (sharing::SELECT_SAME, "images_by_content"),
        (replicas::SELECT_TO_VERIFY, "replicas_to_verify"),
        (replicas::SELECT_IN_STORE, "replicas_by_store"),
        (replicas::SELECT_OF_BLOB, "replicas_by_blob"),
        (replicas::SELECT_DAMAGED, "replicas_by_blob (store=? AND blob=?)"),
        (images::SELECT_UNREFERENCED, "replicas_by_blob"),
        (companions::SELECT_BY_USE, "conversions_by_use"),
        (companions::SELECT_OF, "companions_by_image"),
        (companions::SELECT_KEY, "companions_by_key"),
        (sessions::SELECT_PARTS, "parts_by_number"),
        (sessions::SELECT_LIVE, "uploads_by_session"),
        (sessions::SELECT_EXPIRED, "sessions_to_expire"),
        (doomed::SELECT, "doomed_by_time"),
        (jobs::SELECT_LIVE_PAGE, "jobs_by_turn (tenant=? AND (create_time,id)<(?,?))"),
        (jobs::SELECT_OF_IMAGE, "jobs_by_image"),
        (jobs::SELECT_COALESCED, "jobs_to_coalesce"),
        (jobs::SELECT_ALIAS, "jobs_by_alias"),
    ] {
        let plan = plan(&catalogue, statement).await;
        assert!(plan.iter().any(|step| step.contains(index)), "{index}: {plan:?}");
        let scans = |step: &String| step.starts_with("SCAN images") && !step.contains(index);
        assert!(!plan.iter().any(scans), "{index}: {plan:?}");
    }
}

/// The steps by which the writer would run a statement.
async fn plan(catalogue: &SqliteCatalogue, statement: &str) -> Vec<String> {
    let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let rows = sqlx::query(explained).fetch_all(&catalogue.writer).await.unwrap();
    rows.iter().map(|row| row.get("detail")).collect()
}

/// Else an idle worker reads, at each question, all that wait for others.
#[tokio::test]
async fn a_lane_reads_no_job_of_another() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    catalogue.create_job(new_job(at(0)), 1).await.unwrap();
    // What is known of the numbers of rows changes nothing: indexes without rows have none.
    for known in ["SELECT 1", "ANALYZE"] {
        sqlx::query(known).execute(&catalogue.writer).await.unwrap();
        for (lane, index) in [
            (Lane::Work, "jobs_to_work"),
            (Lane::Import, "jobs_to_import"),
            (Lane::Scrub, "jobs_to_scrub"),
            (Lane::Drain, "jobs_to_drain"),
        ] {
            let statements = leases::statements(lane);
            for statement in [statements.select_claimable, statements.is_any_claimable] {
                let plan = plan(&catalogue, statement).await;
                assert!(plan[0].contains(index), "{index}: {plan:?}");
                // What runs of the tenant is counted where there is a job that could be claimed.
                let counts = |step: &String| {
                    step.starts_with("CORRELATED") || step.contains("imports_running (tenant=?")
                };
                assert!(plan[1..].iter().all(counts), "{index}: {plan:?}");
            }
        }
    }
}

/// Views that show tags as things of their own know them by their ids.
#[tokio::test]
async fn a_tag_that_stays_keeps_its_id() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    let tags = |words: &[&str]| ImageChange {
        tags: Some(words.iter().map(|word| (*word).to_owned()).collect()),
        ..ImageChange::default()
    };
    let image = added(&catalogue, image_row(Tenant::built_in())).await.id;
    let update = async |words: &[&str]| {
        catalogue.update_image(&Tenant::built_in(), image, tags(words), None, at(2)).await.unwrap()
    };
    update(&["a", "b"]).await;
    sqlx::query("UPDATE image_texts SET id = 'of ' || name").execute(&catalogue.writer).await.unwrap();
    update(&["b", "c"]).await;
    let ids: Vec<(String, Option<String>)> = sqlx::query_as("SELECT name, id FROM image_texts ORDER BY name")
        .fetch_all(&catalogue.readers)
        .await
        .unwrap();
    assert_eq!(ids, [("b".to_owned(), Some("of b".to_owned())), ("c".to_owned(), None)]);
}

#[tokio::test]
async fn a_page_is_sought_and_not_sorted() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    for (order, index, key) in [
        (ImageOrder::Newest, "images_by_creation", "(create_time,id)<"),
        (ImageOrder::Oldest, "images_by_creation", "(create_time,id)>"),
        (ImageOrder::Label, "images_by_label", "(label,id)>"),
        (ImageOrder::LabelReversed, "images_by_label", "(label,id)<"),
        (ImageOrder::Largest, "images_by_size", "(size_bytes,id)<"),
        (ImageOrder::Smallest, "images_by_size", "(size_bytes,id)>"),
    ] {
        let steps = plan(&catalogue, images::page_statement(order, &ImageFilter::default())).await;
        assert!(steps[0].starts_with("SEARCH images") && steps[0].contains(index), "{steps:?}");
        assert!(steps[0].contains(key), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("ORDER BY")), "{steps:?}");
    }
}

/// However many images there are of other labels, and whatever is known of their number.
#[tokio::test]
async fn images_of_one_label_are_sought_by_it() {
    let file = SqliteFile::new();
    let catalogue = file.open().await;
    let image = added(&catalogue, image_row(Tenant::built_in())).await;
    let wanted = ImageFilter { label: Some(image.label), ..ImageFilter::default() };
    for known in ["SELECT 1", "ANALYZE"] {
        sqlx::query(known).execute(&catalogue.writer).await.unwrap();
        for (order, key) in [
            (ImageOrder::Newest, "images_by_label_and_age (tenant=? AND label=? AND (create_time,id)<(?,?))"),
            (ImageOrder::Oldest, "images_by_label_and_age (tenant=? AND label=? AND (create_time,id)>(?,?))"),
            (ImageOrder::Label, "(tenant=? AND label=?)"),
            (ImageOrder::LabelReversed, "(tenant=? AND label=?)"),
            (ImageOrder::Largest, "(tenant=? AND label=?)"),
            (ImageOrder::Smallest, "(tenant=? AND label=?)"),
        ] {
            let step = &plan(&catalogue, images::page_statement(order, &wanted)).await[0];
            assert!(step.starts_with("SEARCH images") && step.contains(key), "{order:?}: {step}");
        }
    }
}
