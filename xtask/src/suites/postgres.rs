//! A PostgreSQL server for the tests: a cluster of its own, reached through a socket file, gone with us.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Run as _};

/// Where Debian keeps the programs, one directory for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The user of Debian's package: the server refuses to run as root.
const USER: &str = "postgres";
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server, stopped when dropped.
pub(crate) struct Postgres {
    child: Child,
    directory: PathBuf,
}

impl Postgres {
    /// Makes a cluster and starts it.
    pub(crate) fn start() -> Result<Self> {
        let programs = programs()?;
        let directory = env::temp_dir().join(format!("imageops-postgres-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let as_root = process::command("id").arg("-u").capture()?.trim() == "0";
        if as_root {
            process::command("chown").arg(USER).arg(&directory).check()?;
        }
        let command = |program: &str| {
            let program = programs.join(program);
            if !as_root {
                return process::command(program);
            }
            let mut command = process::command("setpriv");
            command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
            command
        };
        command("initdb")
            .args(["--username", "imageops", "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"])
            .arg("--no-sync")
            .arg("--pgdata")
            .arg(directory.join("data"))
            .current_dir(&directory)
            .capture()?;
        let mut server = command("postgres");
        server
            .arg("-D")
            .arg(directory.join("data"))
            .args(["-c", "listen_addresses=", "-c", "max_connections=300", "-c", "fsync=off"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", directory.display()))
            .current_dir(&directory)
            .stdout(fs::File::create(directory.join("log"))?)
            .stderr(fs::File::options().append(true).open(directory.join("log"))?);
        let child = server.spawn().context("cannot start PostgreSQL")?;
        // From here on a failed start stops it through `drop`.
        let server = Self { child, directory };
        server.wait_ready(&programs)?;
        Ok(server)
    }

    /// Where tests connect to.
    pub(crate) fn url(&self) -> String {
        format!("postgres://imageops@localhost/postgres?host={}", self.directory.display())
    }

    fn wait_ready(&self, programs: &Path) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_TIMEOUT {
            let mut ready = Command::new(programs.join("pg_isready"));
            if ready.arg("-q").arg("-h").arg(&self.directory).status().is_ok_and(|status| status.success()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        bail!("PostgreSQL did not come up; it printed:\n{log}")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An interrupt ends it at once and in order; nobody is there to tell of a failure.
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The directory with the programs of the newest version.
fn programs() -> Result<PathBuf> {
    let versions =
        fs::read_dir(VERSIONS).with_context(|| format!("{VERSIONS}: install the package postgresql"))?;
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(|path| version(path))
        .map(|path| path.join("bin"))
        .with_context(|| format!("no server below {VERSIONS}: install the package postgresql"))
}
