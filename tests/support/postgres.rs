//! A PostgreSQL server for the tests: a cluster of its own, reached through a socket file, gone with us. Needs the
//! standard library alone: the workspace's tasks use it too.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Where Debian keeps the programs, one directory for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The user of Debian's package: the server refuses to run as root.
const USER: &str = "postgres";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server, stopped when dropped.
pub struct Postgres {
    programs: PathBuf,
    is_root: bool,
    directory: PathBuf,
    /// More arguments of the server.
    arguments: Vec<&'static str>,
    /// `None` between [`Self::kill`] and [`Self::start_again`].
    child: Option<Child>,
}

impl Postgres {
    /// Makes a cluster and starts it, as durable as it is by default.
    pub fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// The same for tests that lose nothing with the machine: it flushes nothing.
    pub fn start_without_flushes() -> Result<Self, String> {
        Self::start_with(&["-c", "fsync=off"])
    }

    fn start_with(arguments: &[&'static str]) -> Result<Self, String> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let programs = programs()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("imageops-postgres-{}-{number}", std::process::id()));
        fs::create_dir(&directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        let is_root = captured(Command::new("id").arg("-u"))?.trim() == "0";
        // From here on a failed start stops it through `drop`.
        let mut server = Self { programs, is_root, directory, arguments: arguments.to_vec(), child: None };
        if is_root {
            captured(Command::new("chown").arg(USER).arg(&server.directory))?;
        }
        captured(
            server
                .command("initdb")
                .args(["--username", "imageops", "--auth", "trust", "--encoding", "UTF8"])
                .args(["--locale", "C.UTF-8", "--no-sync", "--pgdata"])
                .arg(server.directory.join("data")),
        )?;
        server.start_again()?;
        Ok(server)
    }

    /// Where tests connect to.
    pub fn url(&self) -> String {
        format!("postgres://imageops@localhost/postgres?host={}", self.directory.display())
    }

    /// Kills it with SIGKILL, and all that it has started.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a running server");
        let id = child.id();
        let others = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        // Some may have ended by themselves.
        let _ = Command::new("kill")
            .args(["-KILL", &id.to_string()])
            .args(others.split_whitespace())
            .stderr(Stdio::null())
            .status();
        let _ = child.wait();
    }

    /// Starts it on its cluster and waits until it takes connections.
    pub fn start_again(&mut self) -> Result<(), String> {
        let start = Instant::now();
        let mut server = self.command("postgres");
        server
            .arg("-D")
            .arg(self.directory.join("data"))
            .args(["-c", "listen_addresses=", "-c", "max_connections=300"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.directory.display()))
            .args(&self.arguments);
        while start.elapsed() < START_TIMEOUT {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended {
                // The first time; or what a kill left had not let go of the cluster yet.
                let log = fs::File::options().create(true).append(true).open(self.directory.join("log"));
                let log = log.map_err(|error| format!("cannot write the log of PostgreSQL: {error}"))?;
                let errors = log.try_clone().map_err(|error| error.to_string())?;
                let child = server.stdout(log).stderr(errors).spawn();
                self.child = Some(child.map_err(|error| format!("cannot start PostgreSQL: {error}"))?);
            }
            let mut ready = Command::new(self.programs.join("pg_isready"));
            if ready.arg("-q").arg("-h").arg(&self.directory).status().is_ok_and(|status| status.success()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        Err(format!("PostgreSQL did not come up; it printed:\n{log}"))
    }

    /// Has it run a statement: what came of it, a line for each row. It waits for no lock that others hold.
    pub fn execute(&self, statement: &str) -> Result<String, String> {
        captured(
            self.command("psql")
                .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statement])
                .arg(self.url())
                .env("PGOPTIONS", "-c lock_timeout=200ms"),
        )
    }

    /// All that the database holds, as it is at one moment; others go on.
    pub fn dump(&self) -> Result<String, String> {
        captured(self.command("pg_dump").arg(self.url()))
    }

    /// Puts a dump in the place of all that the database holds. Nobody may use it meanwhile.
    pub fn restore(&self, dump: &str) -> Result<(), String> {
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")?;
        let file = self.directory.join("dump.sql");
        fs::write(&file, dump).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        let mut restore = self.command("psql");
        restore.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f"]).arg(file);
        captured(restore.arg(self.url())).map(drop)
    }

    /// One of its programs, run in its directory by its user.
    pub fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if self.is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An interrupt ends it at once and in order; nobody is there to tell of a failure.
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs a command to its end: its standard output, or what it printed as errors.
fn captured(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_owned();
    let output = command.output().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} failed ({}): {errors}", program.display(), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The directory with the programs of the newest version.
fn programs() -> Result<PathBuf, String> {
    let missing = || format!("no server below {VERSIONS}: install the package postgresql");
    let versions = fs::read_dir(VERSIONS).map_err(|_| missing())?;
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(|path| version(path))
        .map(|path| path.join("bin"))
        .ok_or_else(missing)
}
