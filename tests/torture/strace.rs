//! System calls of a running server that fail on demand.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::images::skip;

/// While it lives, the first flush of one file or directory in each thread of the server fails with EIO.
pub struct FailingFlushes {
    strace: Child,
    log: PathBuf,
}

impl FailingFlushes {
    /// Takes hold of a process; where that is not allowed the skip has been noted.
    pub fn of(process: u32, path: &Path, log: &Path) -> Option<Self> {
        let mut command = Command::new("strace");
        command
            .args(["--follow-forks", "--trace=fsync,fdatasync", "--inject=fsync,fdatasync:error=EIO:when=1"])
            .arg("--attach")
            .arg(process.to_string())
            .arg("--trace-path")
            .arg(path)
            .arg("--output")
            .arg(log);
        let strace = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let Ok(mut strace) = strace else {
            skip("strace is not installed");
            return None;
        };
        let mut words =
            BufReader::new(strace.stderr.take().expect("its errors")).lines().map_while(Result::ok);
        let mut failing = Self { strace, log: log.to_owned() };
        let mut said = String::new();
        while let Some(line) = words.next() {
            said += &line;
            if line.contains("attached") {
                // It tells of each new thread too, and would end if nobody listened.
                std::thread::spawn(move || words.for_each(drop));
                return Some(failing);
            }
            if line.contains("not permitted") {
                break;
            }
        }
        let _ = failing.strace.kill();
        skip(&format!("strace cannot take hold of a process here: {said}"));
        None
    }

    /// How many calls have failed so far.
    pub fn count(&self) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches("(INJECTED)").count()
    }

    /// Lets go of the process: from here on its calls do what they say. How many had failed.
    pub fn end(mut self) -> usize {
        self.let_go();
        self.count()
    }

    fn let_go(&mut self) {
        // An interrupt makes it let go in order; the process goes on.
        if let Some(id) = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::INT);
        }
        let _ = self.strace.wait();
    }
}

impl Drop for FailingFlushes {
    fn drop(&mut self) {
        self.let_go();
    }
}
