//! A real server for one test: `s3s-fs` on a free port of the loopback, with an empty bucket.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::super::S3Store;
use crate::suite::Place;
use crate::{Result, S3Settings};
use imageops_model::StoreId;

/// Names the server's program.
const PROGRAM: &str = "IMAGEOPS_TEST_S3";
pub(super) const SECRET: &str = "a-secret-that-is-nowhere-shown";

fn program() -> Option<PathBuf> {
    std::env::var_os(PROGRAM).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A server, its bucket, and a staging directory.
pub(super) struct Bucket {
    pub(super) address: String,
    pub(super) runtime: Runtime,
    server: Child,
    files: TempDir,
    staging: TempDir,
}

impl Bucket {
    pub(super) fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: format!("http://{}", self.address),
            region: "us-east-1".to_owned(),
            bucket: "images".to_owned(),
            prefix: "some/prefix".to_owned(),
            access_key: "the-access-key".to_owned(),
            secret_key: SECRET.to_owned(),
            allow_http: true,
            path_style: true,
        }
    }

    pub(super) fn open_with(&self, settings: &S3Settings) -> Result<S3Store> {
        S3Store::open_or_create(settings, self.staging.path(), self.runtime.handle().clone())
    }

    /// Where the server keeps objects, and beside the bucket the parts of what is not complete.
    pub(super) fn files(&self) -> &Path {
        self.files.path()
    }

    /// Files of uploads in parts that are neither completed nor aborted.
    pub(super) fn part_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.files()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".upload")).collect()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Place for Bucket {
    type Store = S3Store;

    fn missing() -> Option<&'static str> {
        program()
            .is_none()
            .then_some("IMAGEOPS_TEST_S3 is not set; cargo xtask test builds the server and sets it")
    }

    fn new() -> Self {
        let files = TempDir::new().unwrap();
        std::fs::create_dir(files.path().join("images")).unwrap();
        let mut server = Command::new(program().unwrap())
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(["--access-key", "the-access-key", "--secret-key", SECRET])
            .arg(files.path())
            .env("RUST_LOG", "s3s_fs=info")
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("the server says where it is").unwrap();
            if let Some((_, address)) = line.split_once("running at http://") {
                break address.trim().to_owned();
            }
        };
        // Read on, so that the server is never held up by what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            address,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            server,
            files,
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
