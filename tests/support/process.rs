//! The real server as a child process. Needs the standard library alone: the workspace's tasks use it too.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// How long the server may take to bind its ports. A loaded machine with two cores stays far below it.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of the server's output is kept for the message of a failed test, in bytes.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// What a server is started with.
pub struct Setup {
    /// The program.
    pub binary: PathBuf,
    /// Its `--data-dir`.
    pub data_dir: PathBuf,
    /// Its `--image-path`, made before the start.
    pub image_path: PathBuf,
    /// Its `--grpc-listen`; port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    /// Its `--http-listen`; port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl Setup {
    /// Directories `data` and `images` below `directory`, free ports, defaults for everything else.
    pub fn below(binary: PathBuf, directory: &Path) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            binary,
            data_dir: directory.join("data"),
            image_path: directory.join("images"),
            grpc_listen: any_port,
            http_listen: any_port,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The command line. Settings from our own environment are left out, so that a test means the same everywhere.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("IMAGEOPS_") || name == "IMAGE_PATH" || name == "TMP_PATH" {
                command.env_remove(&*name);
            }
        }
        command
            .stdin(Stdio::null())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .arg("--data-dir")
            .arg(&self.data_dir)
            .arg("--image-path")
            .arg(&self.image_path)
            .args(["--grpc-listen", &self.grpc_listen.to_string()])
            .args(["--http-listen", &self.http_listen.to_string()])
            .args(&self.arguments);
        command
    }
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    /// Where gRPC is served.
    pub grpc: SocketAddr,
    /// Where REST is served.
    pub http: SocketAddr,
    output: Arc<Mutex<String>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts it and waits until it has said where it listens.
    pub fn start(setup: &Setup) -> Result<Self, String> {
        fs::create_dir_all(&setup.image_path)
            .map_err(|error| format!("cannot make {}: {error}", setup.image_path.display()))?;
        let mut child = setup
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", setup.binary.display()))?;
        let output = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::channel();
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| collect(pipe, output.clone(), Some(sender))));
        readers.extend(child.stderr.take().map(|pipe| collect(pipe, output.clone(), None)));
        // From here on a failed start kills the child through `drop`.
        let unbound = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, grpc: unbound, http: unbound, output, readers };
        let deadline = Instant::now() + START_TIMEOUT;
        let (mut grpc, mut http) = (None, None);
        while grpc.is_none() || http.is_none() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(remaining) else {
                // Its last words come through the other pipe; they are there once the child is gone.
                let status = server.wait(Duration::from_secs(1));
                server.kill();
                return Err(format!(
                    "the server did not come up ({status:?}); it printed:\n{}",
                    server.output()
                ));
            };
            let address =
                |prefix| line.strip_prefix(prefix).and_then(|rest| rest.trim().parse::<SocketAddr>().ok());
            grpc = grpc.or_else(|| address("gRPC listening on "));
            http = http
                .or_else(|| address("REST listening on http://"))
                .or_else(|| address("REST listening on https://"));
        }
        server.grpc = grpc.unwrap_or(unbound);
        server.http = http.unwrap_or(unbound);
        Ok(server)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, both streams as they came; the end of it, when it was much.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it (SIGKILL): no drain, no flush. Afterwards its output is complete.
    pub fn kill(&mut self) {
        // It fails only for a child that is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                // The standard library has no wait with a time limit.
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(format!("the server was still running after {limit:?}")),
                Err(error) => return Err(format!("cannot wait for the server: {error}")),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that has ended by itself is news to whoever reads why a test failed.
        let ended = self.ended();
        self.kill();
        if thread::panicking() {
            let ended =
                ended.map(|status| format!(", before it ended by itself ({status})")).unwrap_or_default();
            eprintln!("--- the server printed{ended}:\n{}---", self.output());
        }
    }
}

/// Reads a pipe to its end, always: a full one would stop the server.
fn collect(
    pipe: impl Read + Send + 'static,
    output: Arc<Mutex<String>>,
    lines: Option<mpsc::Sender<String>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
            let line = String::from_utf8_lossy(&bytes).into_owned();
            if let Some(sender) = &lines {
                // Nobody listens any more once the ports are known.
                let _ = sender.send(line.trim_end().to_owned());
            }
            let mut kept = output.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            kept.push_str(&line);
            if kept.len() > OUTPUT_BYTES_MAX {
                let surplus = kept.len() - OUTPUT_BYTES_MAX / 2;
                let start = kept.char_indices().map(|(at, _)| at).find(|at| *at >= surplus).unwrap_or(0);
                kept.drain(..start);
            }
            bytes.clear();
        }
    })
}
