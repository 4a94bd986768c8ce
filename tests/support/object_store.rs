//! An object store for a server: `s3s-fs` on a free port of the loopback, with an empty bucket.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::images::skip;
use super::process::Setup;

/// Names the program.
const PROGRAM: &str = "IMAGEOPS_TEST_S3";
const ACCESS_KEY: &str = "the-access-key";
const SECRET_KEY: &str = "a-secret-that-is-nowhere-shown";
const BUCKET: &str = "images";
const PREFIX: &str = "site-a";

/// A running object store, killed when dropped.
pub struct ObjectStore {
    /// Where it listens.
    pub address: SocketAddr,
    process: Child,
    files: TempDir,
}

impl ObjectStore {
    /// Starts one. `None` where the program is not known; the skip has been noted.
    pub fn start() -> Option<Self> {
        let Some(program) = std::env::var_os(PROGRAM).filter(|program| Path::new(program).is_file()) else {
            skip(&format!("{PROGRAM} names no program; cargo xtask test builds s3s-fs and sets it"));
            return None;
        };
        let files = TempDir::new().expect("a directory for objects");
        std::fs::create_dir(files.path().join(BUCKET)).expect("a bucket");
        let mut process = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(files.path())
            .env("RUST_LOG", "s3s_fs=info")
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("an object store that starts");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.split_once("running at http://").and_then(|(_, address)| address.trim().parse().ok())
        });
        // Read on, so that it is never held up by what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { address: address.expect("the object store says where it is"), process, files })
    }

    /// Has a server keep its images here, as the store `name`, which it reaches at `address`.
    pub fn serve(setup: &mut Setup, name: &str, address: SocketAddr) {
        let place = format!("s3://{BUCKET}/{PREFIX}?endpoint=http://{address}&allow_http=true&weight=10");
        setup.arguments.extend(["--store".to_owned(), format!("{name}={place}")]);
        let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        setup.environment.extend(keys.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    /// Names of the blobs that it holds.
    pub fn blobs(&self) -> Vec<String> {
        let directory = self.files.path().join(BUCKET).join(PREFIX).join("blobs");
        if directory.is_dir() { super::names_in(&directory) } else { Vec::new() }
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
