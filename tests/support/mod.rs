//! What the end-to-end tests share: a real server of their own, a client of it, images and peers.
//!
//! A test starts a [`Service`] on free ports and directories of its own, so that tests run side by side.

#![allow(dead_code, reason = "no test uses all of it")]

pub mod fault_proxy;
pub mod file_system;
pub mod fixtures;
pub mod gateway;
pub mod http;
pub mod images;
pub mod jobs;
pub mod many;
pub mod mount;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod s3;
pub mod source;
pub mod sparse;
pub mod status;
pub mod stores;
pub mod upload;
pub mod usage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use imageops::v1::{Job, JobState};
use imageops_client::{Client, ConnectOptions, Connection, Token, is_final};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use self::process::{Server, Setup};

/// The longest that anything in these tests may take before it counts as stuck.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A server with directories of its own, which outlive a restart.
pub struct Service {
    setup: Setup,
    server: Option<Server>,
    /// Dropped last, so that the server is gone when its files go.
    directory: TempDir,
}

impl Service {
    /// Starts a server with default settings.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_changed(|setup| {
            setup.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect()
        })
    }

    /// Starts a server after `change` had its way with the directories, ports and arguments.
    pub fn start_changed(change: impl FnOnce(&mut Setup)) -> Self {
        let directory =
            tempfile::Builder::new().prefix("imageops-test-").tempdir().expect("a directory for the test");
        let mut setup = Setup::below(binary("imageops-server"), directory.path());
        change(&mut setup);
        let server = Server::start(&setup).unwrap_or_else(|error| panic!("{error}"));
        Self { setup, server: Some(server), directory }
    }

    /// Where gRPC is served.
    pub fn grpc(&self) -> SocketAddr {
        self.server().grpc
    }

    /// Where REST is served.
    pub fn http(&self) -> SocketAddr {
        self.server().http
    }

    /// The root of `file` sources.
    pub fn image_path(&self) -> &Path {
        &self.setup.image_path
    }

    /// Catalogue, store and staging.
    pub fn data_dir(&self) -> &Path {
        &self.setup.data_dir
    }

    /// A directory of the test that the server does not know.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Copies a file below the image root, in directories that are made for it.
    pub fn place(&self, from: &Path, name: &str) -> PathBuf {
        let to = self.image_path().join(name);
        std::fs::create_dir_all(to.parent().expect("a name below the root"))
            .expect("directories for the image");
        std::fs::copy(from, &to).expect("a copy of the image");
        to
    }

    /// A client over a real connection.
    pub fn client(&self) -> Client {
        let uri = format!("http://{}", self.grpc());
        Client::new(
            Connection::connect_lazy(&uri, ConnectOptions::default()).expect("the address of the server"),
        )
    }

    /// A client that sends a key with every call.
    pub fn client_with_key(&self, key: &str) -> Client {
        let options = ConnectOptions {
            token: Some(Token::new(key).expect("a key without line ends")),
            ..ConnectOptions::default()
        };
        let uri = format!("http://{}", self.grpc());
        Client::new(Connection::connect_lazy(&uri, options).expect("the address of the server"))
    }

    /// A new key with these scopes; without a tenant of the built-in one.
    pub fn make_key(&self, scopes: &str, tenant: Option<&str>) -> String {
        let tenant = tenant.into_iter().flat_map(|tenant| ["--tenant", tenant]);
        self.create_key(&["--scopes", scopes].into_iter().chain(tenant).collect::<Vec<_>>())
    }

    /// What `key create` prints.
    pub fn create_key(&self, arguments: &[&str]) -> String {
        let made = std::process::Command::new(binary("imageops-server"))
            .args(["key", "create", "--data-dir"])
            .arg(self.data_dir())
            .args(arguments)
            .output()
            .expect("a program that runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("a key that is text").trim().to_owned()
    }

    /// Names of the files that uploads and jobs are writing in the store.
    pub fn staged(&self) -> Vec<String> {
        names_in(&self.data_dir().join("store/staging"))
    }

    /// Names of the complete files of the store.
    pub fn blobs(&self) -> Vec<String> {
        names_in(&self.data_dir().join("store/blobs"))
    }

    /// Names of everything directly below the image root, unfinished outputs too.
    pub fn image_names(&self) -> Vec<String> {
        names_in(self.image_path())
    }

    /// The server's process id.
    pub fn id(&self) -> u32 {
        self.server().id()
    }

    /// What the server is started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// What the next start is made with.
    pub fn setup_mut(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// What the server has printed since its last start.
    pub fn output(&self) -> String {
        self.server().output()
    }

    /// Kills the server with SIGKILL. Its files stay; what it had printed is returned.
    pub fn kill(&mut self) -> String {
        self.keep_ports();
        let mut server = self.server.take().expect("a running server");
        if let Some(status) = server.ended() {
            panic!("expected a server that runs until it is killed; it ended by itself: {status}");
        }
        server.kill();
        server.output()
    }

    /// Whether it was started and not killed since.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    /// Asks the server to stop (SIGTERM), without waiting for it.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends the server a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.server().id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("a server that takes the signal");
    }

    /// Has the server stand still (SIGSTOP), as a machine does that is suspended.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let deadline = Instant::now() + DEADLINE;
        while !usage::is_stopped(self.server().id()) {
            assert!(Instant::now() < deadline, "expected a server that stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until the server has stopped by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.keep_ports();
        let mut server = self.server.take().expect("a running server");
        server.wait(DEADLINE).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts the server again on the same directories and ports; kills it first when it still runs.
    pub fn restart(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
        self.server = Some(Server::start(&self.setup).unwrap_or_else(|error| panic!("{error}")));
    }

    /// The next start takes the same ports, so that clients find the server again.
    fn keep_ports(&mut self) {
        (self.setup.grpc_listen, self.setup.http_listen) = (self.grpc(), self.http());
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a running server")
    }
}

/// Names in a directory, sorted.
pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A program of the workspace, beside the test's own. `cargo build --workspace` makes it.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // target/PROFILE/deps/TEST
    let path = test.ancestors().nth(2).expect("a directory of the profile").join(name);
    assert!(path.is_file(), "{} is not built: run cargo build --workspace", path.display());
    path
}

/// Follows a job until it is in `state`; it is an error for it to end in another one, or to take longer than
/// [`DEADLINE`].
pub async fn wait_for(client: &Client, job: &str, state: JobState) -> Job {
    let follow = async {
        let mut changes = std::pin::pin!(client.watch(job, 0));
        while let Some(change) = changes.next().await {
            let seen = change.unwrap_or_else(|error| panic!("the watch of {job} failed: {error}"));
            if seen.state() == state {
                return seen;
            }
            assert!(!is_final(seen.state()), "{job} should become {state:?}, but ended: {seen:?}");
        }
        panic!("the watch of {job} ended before it was {state:?}");
    };
    tokio::time::timeout(DEADLINE, follow).await.unwrap_or_else(|_| panic!("{job} is not {state:?} in time"))
}
