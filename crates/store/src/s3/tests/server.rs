//! A real server: for each test `s3s-fs` on a free port of the loopback with an empty bucket, or one that runs already and
//! lends a prefix of its bucket to each test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::super::S3Store;
use crate::suite::Place;
use crate::{Result, S3Settings};
use imageops_model::StoreId;

/// Names the program of the server, or one that runs: `http://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET`.
const SERVER: &str = "IMAGEOPS_TEST_S3";
pub(super) const SECRET: &str = "a-secret-that-is-nowhere-shown";

fn server() -> Option<String> {
    std::env::var(SERVER).ok().filter(|server| !server.is_empty())
}

/// A server, a place in its bucket, and a staging directory.
pub(super) struct Bucket {
    pub(super) address: String,
    pub(super) runtime: Runtime,
    settings: S3Settings,
    own: Option<Own>,
    staging: TempDir,
}

/// A server that was started here, and where it keeps its files.
struct Own {
    server: Child,
    files: TempDir,
}

impl Bucket {
    pub(super) fn settings(&self) -> S3Settings {
        self.settings.clone()
    }

    pub(super) fn open_with(&self, settings: &S3Settings) -> Result<S3Store> {
        S3Store::open_or_create(settings, self.staging.path(), self.runtime.handle().clone())
    }

    /// Where the server keeps objects, and beside the bucket the parts of what is not complete.
    pub(super) fn files(&self) -> &Path {
        self.own.as_ref().unwrap().files.path()
    }

    /// Why there is no server whose files can be seen.
    pub(super) fn missing_own() -> Option<&'static str> {
        let is_lent = server().is_some_and(|server| server.contains("://"));
        Self::missing().or(is_lent.then_some("IMAGEOPS_TEST_S3 names a server whose files cannot be seen"))
    }

    /// Files of uploads in parts that are neither completed nor aborted.
    pub(super) fn part_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.files()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".upload")).collect()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Place for Bucket {
    type Store = S3Store;

    fn missing() -> Option<&'static str> {
        server()
            .is_none()
            .then_some("IMAGEOPS_TEST_S3 is not set; cargo xtask test builds the server and sets it")
    }

    fn new() -> Self {
        let server = server().unwrap();
        let (settings, own) = match server.strip_prefix("http://") {
            Some(lent) => (lent_settings(lent), None),
            None => {
                let (own, address) = Own::start(&server);
                (settings(&address, "images", "the-access-key", SECRET), Some(own))
            }
        };
        let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Self {
            address: settings.endpoint.trim_start_matches("http://").to_owned(),
            runtime: workers.unwrap(),
            settings,
            own,
            staging: TempDir::new().unwrap(),
        }
    }

    fn open(&self) -> S3Store {
        self.open_with(&self.settings()).unwrap()
    }

    fn open_existing(&self, id: StoreId) -> Result<S3Store> {
        S3Store::open_existing(&self.settings(), self.staging.path(), self.runtime.handle().clone(), id)
    }
}

impl Own {
    /// The server and its address.
    fn start(program: &str) -> (Self, String) {
        let files = TempDir::new().unwrap();
        std::fs::create_dir(files.path().join("images")).unwrap();
        let mut server = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(["--access-key", "the-access-key", "--secret-key", SECRET])
            .arg(files.path())
            .env("RUST_LOG", "s3s_fs=info")
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let own = Self { server, files };
        let address = loop {
            let line = lines.next().expect("the server says where it is").unwrap();
            if let Some((_, address)) = line.split_once("running at http://") {
                break address.trim().to_owned();
            }
        };
        // Read on, so that the server is never held up by what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        (own, address)
    }
}

fn settings(address: &str, bucket: &str, access_key: &str, secret_key: &str) -> S3Settings {
    S3Settings {
        endpoint: format!("http://{address}"),
        region: "us-east-1".to_owned(),
        bucket: bucket.to_owned(),
        prefix: "some/prefix".to_owned(),
        access_key: access_key.to_owned(),
        secret_key: secret_key.to_owned(),
        allow_http: true,
        path_style: true,
    }
}

/// `ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET`, with a prefix that nobody else has.
fn lent_settings(server: &str) -> S3Settings {
    let parts = server.split_once('@').and_then(|(keys, place)| {
        let ((access, secret), (address, bucket)) = (keys.split_once(':')?, place.split_once('/')?);
        Some(settings(address, bucket, access, secret))
    });
    let settings = parts.expect("IMAGEOPS_TEST_S3 as http://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET");
    S3Settings { prefix: format!("test/{}", Uuid::new_v4()), ..settings }
}
