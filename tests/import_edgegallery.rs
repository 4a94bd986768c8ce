//! An EdgeGallery file-system installation moves in: a real table, real files, and afterwards the same answers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use support::images::{have, qemu_img, skip};
use support::random::Random;
use support::status::eventually;
use support::upload::digests;
use support::{Service, http};

const EXIT_USAGE: i32 = 64;
const EXIT_REFUSED: i32 = 65;
const EXIT_STORAGE: i32 = 73;
const EXIT_IN_USE: i32 = 75;
const EXIT_CATALOGUE: i32 = 76;
const EXIT_CONFIGURATION: i32 = 78;

const GOOD: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30001";
const RAW: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30002";
const ZIP: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30003";
const SLIM: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30004";
const SLIM_FAILED: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30005";
const CORRUPT: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30006";
const MISSING: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30007";
const BACKING: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30008";
const CHANGED: &str = "94d6e70d-51f7-4b0d-965f-59dca2c30009";
const LINK: &str = "94d6e70d-51f7-4b0d-965f-59dca2c3000a";

/// Long before anything here was read.
const AGED_SECONDS: i64 = 978_307_200;

/// The table as late builds have it, but for columns that nobody asks for.
const LATE_TABLE: &str = "CREATE TABLE image_d_b (image_id VARCHAR(255) PRIMARY KEY, file_name TEXT, user_id TEXT, \
    save_file_name TEXT, storage_medium TEXT, upload_time TIMESTAMP WITH TIME ZONE, slim_status INTEGER, \
    request_id_check TEXT, checksum TEXT, check_result INTEGER, virtual_size DOUBLE PRECISION)";
/// As an early build had it.
const EARLY_TABLE: &str = "CREATE TABLE image_d_b (image_id VARCHAR(255) PRIMARY KEY, file_name VARCHAR(255), \
    user_id VARCHAR(255), save_file_name VARCHAR(255), upload_time TIMESTAMP, slim_status VARCHAR(8))";

/// A schema of its own on the PostgreSQL server to test with; else the skip has been noted.
struct Database(String);

impl Database {
    fn make() -> Option<Self> {
        let url = std::env::var("IMAGEOPS_TEST_POSTGRES").ok().filter(|url| !url.is_empty());
        let Some(url) = url else {
            skip("IMAGEOPS_TEST_POSTGRES is not set; cargo xtask test starts a server and sets it");
            return None;
        };
        if !["psql", "qemu-img", "zip"].into_iter().all(have) {
            return None;
        }
        let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
        Self(url.clone()).run(&format!("CREATE SCHEMA {schema}"));
        Some(Self(format!("{url}&options=-csearch_path%3D{schema}")))
    }

    fn run(&self, sql: &str) -> String {
        let output = Command::new("psql").arg(&self.0).args(["-q", "-t", "-A", "-c", sql]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn insert(&self, row: &[(&str, &str)]) {
        let names: Vec<_> = row.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> =
            row.iter().map(|(_, value)| format!("'{}'", value.replace('\'', "''"))).collect();
        self.run(&format!("INSERT INTO image_d_b ({}) VALUES ({})", names.join(", "), values.join(", ")));
    }

    fn row(&self, id: &str, name: &str, slim_status: &str, checksum: &str) {
        self.insert(&[
            ("image_id", id),
            ("file_name", name),
            ("user_id", "o'brien"),
            ("save_file_name", &format!("{id}{name}")),
            ("storage_medium", "/usr/app/vmImage/"),
            ("upload_time", "2021-10-19 18:33:03.25+02"),
            ("slim_status", slim_status),
            ("checksum", checksum),
        ]);
    }
}

/// The directory of an old installation.
struct Installation(PathBuf);

impl Installation {
    fn below(service: &Service) -> Self {
        let directory = service.scratch().join("vmImage");
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A qcow2 image of a disk with some noise on it, perhaps with compressed clusters; its MD5.
    fn qcow2(&self, name: &str, seed: u64, options: &[&str]) -> String {
        let raw = self.0.join("disk.tmp");
        fs::write(&raw, disk(seed)).unwrap();
        let path = self.path(name);
        let convert = [&["convert", "-f", "raw", "-O", "qcow2"], options].concat();
        let made = qemu_img(convert.into_iter().map(Path::new).chain([&*raw, &*path]));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::remove_file(raw).unwrap();
        self.md5(name)
    }

    fn md5(&self, name: &str) -> String {
        digests(&fs::read(self.path(name)).unwrap()).md5
    }

    /// All that can be told of it from outside: names, contents, times, of access too.
    fn state(&self) -> BTreeMap<String, (u64, i64, i64, i64, i64, String)> {
        let states = support::names_in(&self.0).into_iter().map(|name| {
            // Before they are read here.
            let entry = fs::symlink_metadata(self.path(&name)).unwrap();
            let md5 = if entry.is_file() { self.md5(&name) } else { String::new() };
            let times = (entry.mtime(), entry.mtime_nsec(), entry.ctime(), entry.ctime_nsec());
            (name, (entry.len(), times.0, times.1, times.2, times.3, md5))
        });
        states.collect()
    }

    /// Makes every time of access so old that a read would renew it.
    fn age(&self) {
        for name in support::names_in(&self.0) {
            let status = Command::new("touch")
                .args(["-h", "-a", "-d", &format!("@{AGED_SECONDS}")])
                .arg(self.path(&name))
                .status();
            assert!(status.unwrap().success());
        }
    }

    /// Files whose time of access is not the old one any more; links are read by whoever follows them.
    fn were_read(&self) -> Vec<String> {
        let mut names = support::names_in(&self.0);
        names.retain(|name| {
            let entry = fs::symlink_metadata(self.path(name)).unwrap();
            entry.is_file() && entry.atime() > AGED_SECONDS
        });
        names
    }
}

fn disk(seed: u64) -> Vec<u8> {
    // Few values, so that compressed clusters differ from others.
    let noise = Random::from_seed(seed).bytes(200_000).into_iter().map(|byte| byte & 7);
    let mut disk = vec![0; 1 << 20];
    disk.extend(noise);
    disk.resize(4 << 20, 0);
    disk
}

/// Overwrites two reference counts that are in use with zeros.
fn corrupt(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let read = |at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    let block = read(read(48));
    file.write_all_at(&[0; 4], block).unwrap();
}

/// Runs the import on the service's directories.
fn import(service: &Service, arguments: &[&str]) -> Output {
    let mut command = service.setup().command();
    for name in ["HOST", "PORT", "DB_NAME", "USERNAME", "PASSWORD"] {
        command.env_remove(format!("POSTGRES_{name}"));
    }
    command.arg("import-edgegallery").args(arguments).output().unwrap()
}

/// What it printed, when it ended as expected.
#[track_caller]
fn printed(output: &Output, exit: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{}{errors}", String::from_utf8_lossy(&output.stdout));
    if exit != 0 {
        let lines = errors.lines().filter(|line| line.starts_with("imageops-server: ")).count();
        assert_eq!(lines, 1, "one clear line: {errors}");
    }
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The line of a file begins with the outcome and goes on with id, name and reason.
#[track_caller]
fn assert_line(table: &str, outcome: &str, id: &str, rest: &str) {
    let found =
        table.lines().any(|line| line.starts_with(outcome) && line.contains(id) && line.contains(rest));
    assert!(found, "{outcome} {id} {rest} is not in:\n{table}");
}

fn fs_path(id: &str) -> String {
    format!("/image-management/v1/images/{id}")
}

fn query(service: &Service, id: &str) -> Value {
    let answer = http::get(service.http(), &fs_path(id));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The answer once the check that an import queues has ended.
async fn checked(service: &Service, id: &str) -> Value {
    eventually("the check of an imported image", async || {
        Some(query(service, id)).filter(|answer| answer["checkStatusResponse"]["status"] != 4)
    })
    .await
}

fn download(service: &Service, id: &str) -> http::Answer {
    http::get(service.http(), &format!("{}/action/download", fs_path(id)))
}

/// Fills the table and the directory with all sorts of rows.
fn furnish(old: &Installation, database: &Database, outside: &Path) {
    let stored = |id: &str, name: &str| format!("{id}{name}");
    database.row(GOOD, "disk.qcow2", "0", &old.qcow2(&stored(GOOD, "disk.qcow2"), 1, &[]).to_uppercase());
    fs::write(old.path(&stored(RAW, "raw.img")), disk(2)).unwrap();
    database.row(RAW, "raw.img", "0", &old.md5(&stored(RAW, "raw.img")));
    // As early builds kept what came.
    fs::create_dir(outside.join("pack")).unwrap();
    fs::write(outside.join("pack/inner.img"), disk(3)).unwrap();
    let mut zip = Command::new("zip");
    zip.current_dir(outside).args(["-q", "-r"]).arg(old.path(&stored(ZIP, "pack.zip"))).arg("pack");
    assert!(zip.status().unwrap().success());
    database.insert(&[
        ("image_id", ZIP),
        ("file_name", "pack.zip"),
        ("save_file_name", &stored(ZIP, "pack.zip")),
        ("upload_time", "2020-01-02 03:04:05+00"),
    ]);
    old.qcow2(&stored(SLIM, "big.img"), 4, &[]);
    let slim = old.qcow2(&format!("compressed{}", stored(SLIM, "big.img")), 4, &["-c"]);
    database.row(SLIM, "big.img", "2", &slim);
    database.row(SLIM_FAILED, "disk.img", "3", &old.qcow2(&stored(SLIM_FAILED, "disk.img"), 5, &[]));
    old.qcow2(&stored(CORRUPT, "bad.qcow2"), 6, &[]);
    corrupt(&old.path(&stored(CORRUPT, "bad.qcow2")));
    database.row(CORRUPT, "bad.qcow2", "0", &old.md5(&stored(CORRUPT, "bad.qcow2")));
    database.row(MISSING, "gone.img", "0", "");
    let base = outside.join("base.qcow2");
    fs::copy(old.path(&stored(GOOD, "disk.qcow2")), &base).unwrap();
    let backing = old.path(&stored(BACKING, "top.qcow2"));
    let create =
        ["create", "-f", "qcow2", "-F", "qcow2", "-b", base.to_str().unwrap(), backing.to_str().unwrap()];
    assert!(qemu_img(create).status.success());
    database.row(BACKING, "top.qcow2", "0", &old.md5(&stored(BACKING, "top.qcow2")));
    old.qcow2(&stored(CHANGED, "disk.qcow2"), 7, &[]);
    database.row(CHANGED, "disk.qcow2", "0", &"0123456789abcdef".repeat(2));
    symlink(&base, old.path(&stored(LINK, "link.qcow2"))).unwrap();
    database.row(LINK, "link.qcow2", "0", "");
    database.row("../../etc/passwd", "x.img", "0", "");
}

#[tokio::test]
async fn an_installation_moves_in_and_stays_as_it_was() {
    let Some(database) = Database::make() else { return };
    let mut service = Service::start();
    let old = Installation::below(&service);
    let outside = service.scratch().join("outside");
    fs::create_dir(&outside).unwrap();
    database.run(LATE_TABLE);
    furnish(&old, &database, &outside);
    let directory = old.0.to_str().unwrap().to_owned();
    let from = ["--directory", &directory, "--database-url", &database.0];
    let (files, rows) = (old.state(), database.run("SELECT * FROM image_d_b ORDER BY image_id"));
    old.age();

    let busy = import(&service, &from);
    assert_eq!(printed(&busy, EXIT_IN_USE), "");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("store"), "{busy:?}");
    service.kill();

    let planned = printed(&import(&service, &[&from[..], &["--dry-run"]].concat()), EXIT_REFUSED);
    assert_line(&planned, "would import", CORRUPT, "quarantine");
    assert_line(&planned, "refused", BACKING, "top.qcow2");
    // What only a read of all bytes shows comes later.
    assert_line(&planned, "would import", CHANGED, "disk.qcow2");
    assert!(planned.ends_with("8 to be imported, 0 skipped, 4 refused\n"), "{planned}");
    assert_eq!((service.blobs(), service.staged()), (vec![], vec![]));

    let table = printed(&import(&service, &from), EXIT_REFUSED);
    for (id, name) in [(GOOD, "disk.qcow2"), (RAW, "raw.img"), (ZIP, "pack.zip"), (SLIM_FAILED, "disk.img")] {
        assert_line(&table, "imported", id, name);
    }
    assert_line(&table, "imported", SLIM, "  big.img");
    assert_line(&table, "imported", SLIM, &format!("  compressed{SLIM}big.img"));
    assert_line(&table, "imported", CORRUPT, "quarantine");
    assert_line(&table, "refused", MISSING, "FILE_NOT_FOUND");
    assert_line(&table, "refused", LINK, "FILE_NOT_FOUND");
    assert_line(&table, "refused", BACKING, "BACKING");
    assert_line(&table, "refused", CHANGED, "DIGEST_MISMATCH");
    assert_line(&table, "refused", "../../etc/passwd", "image_id");
    assert!(table.ends_with("7 imported, 0 skipped, 5 refused\n"), "{table}");
    assert_eq!((service.blobs().len(), service.staged()), (7, vec![]));

    // The same again brings nothing.
    let again = printed(&import(&service, &from), EXIT_REFUSED);
    assert_line(&again, "present", ZIP, "pack.zip");
    assert!(again.ends_with("0 imported, 7 skipped, 5 refused\n"), "{again}");
    assert_eq!((service.blobs().len(), service.staged()), (7, vec![]));
    assert_eq!(old.were_read(), [""; 0], "the owner leaves no trace");
    assert_eq!(database.run("SELECT * FROM image_d_b ORDER BY image_id"), rows);

    service.restart();
    let listed = http::get(service.http(), "/image-management/v1/images").json();
    assert_eq!(listed.as_array().unwrap().len(), 6);
    assert_eq!(listed[0]["imageId"], ZIP, "the oldest comes first");
    assert_served(&service, &old).await;
    // ctime changed when the times of access were set back; all else is as it was.
    let without_ctime = |state: BTreeMap<String, (u64, i64, i64, i64, i64, String)>| {
        let kept = state.into_iter().map(|(name, (length, s, ns, _, _, md5))| (name, length, s, ns, md5));
        kept.collect::<Vec<_>>()
    };
    assert_eq!(without_ctime(old.state()), without_ctime(files));

    // What is deleted here does not come back.
    let deleted = http::request(service.http(), "DELETE", &fs_path(GOOD), &[], &[]);
    assert_eq!((deleted.status, deleted.text()), (200, "delete success"));
    service.kill();
    let after = printed(&import(&service, &from), EXIT_REFUSED);
    assert_line(&after, "deleted since", GOOD, "disk.qcow2");
    assert!(after.ends_with("0 imported, 7 skipped, 5 refused\n"), "{after}");
}

/// The file-system surface says of each image what the old service did.
async fn assert_served(service: &Service, old: &Installation) {
    let good = checked(service, GOOD).await;
    let md5 = old.md5(&format!("{GOOD}disk.qcow2"));
    for (member, want) in
        [("fileName", "disk.qcow2"), ("userId", "o'brien"), ("uploadTime", "2021-10-19 16:33:03")]
    {
        assert_eq!(good[member], want);
    }
    assert_eq!(good["slimStatus"], 0);
    let check = &good["checkStatusResponse"];
    assert_eq!((&check["status"], &check["checkInfo"]["checksum"]), (&0.into(), &md5.into()));
    assert!(download(service, GOOD).body == fs::read(old.path(&format!("{GOOD}disk.qcow2"))).unwrap());

    let raw = checked(service, RAW).await;
    assert_eq!(raw["checkStatusResponse"]["status"], 5);
    assert!(download(service, RAW).body == disk(2));

    let zip = checked(service, ZIP).await;
    assert_eq!((&zip["fileName"], &zip["userId"]), (&"inner.img".into(), &"".into()));
    assert_eq!(zip["uploadTime"], "2020-01-02 03:04:05");
    assert!(download(service, ZIP).body == disk(3));

    let slim = checked(service, SLIM).await;
    let stored = format!("compressed{SLIM}big.img");
    let info = &slim["checkStatusResponse"]["checkInfo"];
    assert_eq!((&slim["slimStatus"], &slim["checkStatusResponse"]["status"]), (&2.into(), &0.into()));
    assert_eq!(
        (&info["checksum"], &info["imageInfo"]["filename"]),
        (&old.md5(&stored).into(), &stored.clone().into())
    );
    assert!(download(service, SLIM).body == fs::read(old.path(&stored)).unwrap());

    let failed = checked(service, SLIM_FAILED).await;
    assert_eq!((&failed["slimStatus"], &failed["checkStatusResponse"]["status"]), (&3.into(), &0.into()));

    assert_eq!(checked(service, CORRUPT).await["checkStatusResponse"]["status"], 1);
    assert_eq!(download(service, CORRUPT).status, 404);
    for id in [MISSING, BACKING, CHANGED, LINK] {
        assert_eq!(http::get(service.http(), &fs_path(id)).status, 404);
    }
}

/// The table of an early build, by way of a file; and a slimmed file that was missing at first.
#[tokio::test]
async fn a_table_of_an_early_build_moves_in_from_a_file() {
    let Some(database) = Database::make() else { return };
    let mut service = Service::start();
    let old = Installation::below(&service);
    database.run(EARLY_TABLE);
    old.qcow2(&format!("{GOOD}a,\"b\".img"), 1, &[]);
    let (name, time) = (format!("{GOOD}a,\"b\".img"), "2021-10-19 16:33:03");
    let row = [("image_id", GOOD), ("file_name", &name), ("save_file_name", &name), ("upload_time", time)];
    database.insert(&[&row[..], &[("slim_status", "2"), ("user_id", "u1")]].concat());
    let csv = service.scratch().join("table.csv");
    database.run(&format!("\\copy image_d_b to '{}' csv header", csv.display()));
    service.kill();

    let (directory, csv) = (old.0.to_str().unwrap().to_owned(), csv.to_str().unwrap().to_owned());
    let from = ["--directory", &directory, "--table", &csv];
    let slim = format!("compressed{name}");
    let table = printed(&import(&service, &from), EXIT_REFUSED);
    assert!(table.ends_with("1 imported, 0 skipped, 1 refused\n"), "{table}");
    old.qcow2(&slim, 1, &["-c"]);
    let table = printed(&import(&service, &from), 0);
    assert!(table.ends_with("1 imported, 1 skipped, 0 refused\n"), "{table}");
    let table = printed(&import(&service, &from), 0);
    assert!(table.ends_with("0 imported, 2 skipped, 0 refused\n"), "{table}");

    service.restart();
    let answer = checked(&service, GOOD).await;
    assert_eq!((&answer["fileName"], &answer["slimStatus"]), (&"a,\"b\".img".into(), &2.into()));
    assert_eq!((&answer["uploadTime"], &answer["userId"]), (&time.into(), &"u1".into()));
    assert_eq!(answer["checkStatusResponse"]["checkInfo"]["checksum"], old.md5(&slim), "{answer}");

    // An id that stands for other bytes is not replaced.
    service.kill();
    fs::write(old.path(&name), disk(9)).unwrap();
    let table = printed(&import(&service, &from), EXIT_REFUSED);
    assert_line(&table, "refused", GOOD, "IMAGE_EXISTS");
}

/// The variables of the old service lead to its database.
#[test]
fn the_variables_of_the_old_service_name_the_database() {
    let Some(database) = Database::make() else { return };
    let mut service = Service::start();
    let old = Installation::below(&service);
    service.kill();
    let host = database.0.split("host=").nth(1).unwrap().split('&').next().unwrap();
    let mut command = service.setup().command();
    command.args(["import-edgegallery", "--directory"]).arg(&old.0);
    command.envs([
        ("POSTGRES_HOST", host),
        ("POSTGRES_USERNAME", "imageops"),
        ("POSTGRES_DB_NAME", "postgres"),
    ]);
    command.envs([("POSTGRES_PASSWORD", "unused"), ("POSTGRES_PORT", "")]);
    let output = command.output().unwrap();
    // The schema of the test is none that these lead to.
    assert_eq!(output.status.code(), Some(EXIT_CATALOGUE));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("has no table image_d_b"), "{said}");
}

/// Cut off in the middle, an import leaves no image, and the next one leaves nothing of it.
#[tokio::test]
async fn an_import_that_was_cut_off_is_made_again() {
    let mut service = Service::start();
    let old = Installation::below(&service);
    service.kill();
    let (directory, csv) = (old.0.to_str().unwrap().to_owned(), service.scratch().join("table.csv"));
    fs::write(&csv, format!("image_id,file_name\n{RAW},raw.img\n")).unwrap();
    let from = ["--directory", &directory, "--table", csv.to_str().unwrap()];
    // A hole takes no room, and as long to hash as anything else.
    let path = old.path(&format!("{RAW}raw.img"));
    fs::File::create(&path).unwrap().set_len(2 << 30).unwrap();
    let mut child = service.setup().command().arg("import-edgegallery").args(from).spawn().unwrap();
    eventually("the staged file", async || (service.staged().len() == 1).then_some(())).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!((service.blobs(), service.staged().len()), (vec![], 1));

    fs::write(&path, disk(2)).unwrap();
    let table = printed(&import(&service, &from), 0);
    assert!(table.ends_with("1 imported, 0 skipped, 0 refused\n"), "{table}");
    assert_eq!((service.blobs().len(), service.staged()), (1, vec![]));
}

#[test]
fn what_cannot_work_is_one_clear_line() {
    let mut service = Service::start();
    let old = Installation::below(&service);
    service.kill();
    let (directory, missing) = (old.0.to_str().unwrap(), old.path("missing"));
    let missing = missing.to_str().unwrap();
    let empty = service.scratch().join("empty.csv");
    fs::write(&empty, "image_id,file_name\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (arguments, exit, named) in [
        (vec!["--directory", directory], EXIT_USAGE, "POSTGRES_HOST"),
        (vec!["--directory", directory, "--table", missing], EXIT_CONFIGURATION, "missing"),
        (vec!["--directory", missing, "--table", empty], EXIT_STORAGE, "missing"),
        (
            vec!["--directory", directory, "--database-url", "postgres://someone:hidden@127.0.0.1:1/none"],
            EXIT_CATALOGUE,
            "database",
        ),
    ] {
        let output = import(&service, &arguments);
        assert_eq!(printed(&output, exit), "", "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(named) && !said.contains("hidden"), "{said}");
    }
    let table = printed(&import(&service, &["--directory", directory, "--table", empty]), 0);
    assert_eq!(table, "0 imported, 0 skipped, 0 refused\n");
}
