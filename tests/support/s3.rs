//! An S3 server of the test's own, `s3s-fs`, with one bucket; where its program is not named the test says so and is
//! counted as skipped.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use super::images::skip;
use super::names_in;
use super::process::Setup;

/// Names the program of the server.
const PROGRAM: &str = "IMAGEOPS_TEST_S3";
const BUCKET: &str = "images";
const PREFIX: &str = "some/prefix";
const ACCESS_KEY: &str = "the-access-key";
const SECRET_KEY: &str = "a-secret-that-is-nowhere-shown";

/// A running server, killed when dropped, and its files.
pub struct Bucket {
    /// Where it listens.
    pub address: SocketAddr,
    server: Child,
    files: TempDir,
}

impl Bucket {
    /// Starts a server; without a program the skip has been noted.
    pub fn start() -> Option<Self> {
        let program = std::env::var(PROGRAM).ok().filter(|program| !program.is_empty());
        let Some(program) = program else {
            skip(&format!("{PROGRAM} is not set; cargo xtask builds the S3 server and sets it"));
            return None;
        };
        if program.contains("://") {
            skip(&format!("{PROGRAM} names a server whose files cannot be seen"));
            return None;
        }
        let files = tempfile::Builder::new().prefix("imageops-s3-").tempdir().expect("a directory");
        fs::create_dir(files.path().join(BUCKET)).expect("a bucket");
        let mut server = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(files.path())
            .env("RUST_LOG", "s3s_fs=info")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the S3 server starts");
        let mut lines = BufReader::new(server.stdout.take().expect("its output")).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.expect("lines of text");
            line.split_once("running at http://").map(|(_, address)| address.trim().to_owned())
        });
        // Read on, so that the server is never held up by what it prints.
        thread::spawn(move || lines.for_each(drop));
        let address = address.and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let _ = server.kill();
            panic!("the S3 server does not say where it listens: {:?}", server.wait());
        };
        Some(Self { address, server, files })
    }

    /// Has a server start with a store in the bucket, which it reaches at `endpoint`.
    pub fn add_store(setup: &mut Setup, name: &str, endpoint: SocketAddr, weight: i32) {
        let place =
            format!("s3://{BUCKET}/{PREFIX}?endpoint=http://{endpoint}&allow_http=true&weight={weight}");
        setup.arguments.extend(["--store".to_owned(), format!("{name}={place}")]);
        let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        setup.environment.extend(keys.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    /// Names of the stored objects.
    pub fn blobs(&self) -> Vec<String> {
        self.names("blobs")
    }

    /// A stored object, as the file that it is for the server.
    pub fn blob(&self, name: &str) -> PathBuf {
        self.directory("blobs").join(name)
    }

    /// What is left of uploads in parts that were neither completed nor aborted: notes of the store, parts at the server.
    pub fn incomplete(&self) -> Vec<String> {
        let mut names = self.names("incomplete");
        names.extend(names_in(self.files.path()).into_iter().filter(|name| name.starts_with(".upload")));
        names
    }

    /// Changes a byte of the part of an object to be that the server has stored last.
    pub fn spoil_newest_part(&self) {
        let parts = names_in(self.files.path()).into_iter().filter(|name| name.contains(".part-"));
        let modified = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
        let newest = parts.map(|name| self.files.path().join(name)).max_by_key(modified);
        let file = fs::File::options().read(true).write(true).open(newest.expect("a part"));
        let file = file.expect("a part that is there until all are");
        let at = file.metadata().expect("a file").len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte of it");
        file.write_all_at(&[!byte[0]], at).expect("a byte that can be written");
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.files.path().join(BUCKET).join(PREFIX).join(name)
    }

    /// A directory comes with its first object.
    fn names(&self, directory: &str) -> Vec<String> {
        let directory = self.directory(directory);
        if directory.is_dir() { names_in(&directory) } else { Vec::new() }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // It fails only for a server that is gone already.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
