//! System calls of a running server that fail on demand, or are recorded.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::images::skip;
use crate::support::process::Setup;
use crate::support::status::eventually;

/// Everything that changes a file or a directory, or what a descriptor stands for. What is not here changes neither: the
/// test compares in the end.
const RECORDED: &str = "open,openat,close,dup,dup2,dup3,fcntl,lseek,write,writev,pwrite64,pwritev,pwritev2,ftruncate,\
                        fallocate,copy_file_range,fsync,fdatasync,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,\
                        unlinkat,rmdir";
/// Longest write that is recorded whole, in bytes.
const STRING_BYTES_MAX: u64 = 16 << 20;

/// Whether a process can be traced here; if not, the skip has been noted.
pub fn can_trace() -> bool {
    let tried = Command::new("strace").args(["--output", "/dev/null", "true"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        skip("strace is not installed, or may not trace a process here");
    }
    can
}

/// How many calls went wrong by a log.
pub fn injected(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().matches("(INJECTED)").count()
}

/// Has calls of this server go wrong from its next start on.
pub fn inject(setup: &mut Setup, server: &Path, fault: &Fault, log: &Path) {
    let quoted = |argument: &OsString| format!("'{}'", argument.to_string_lossy());
    let arguments: Vec<_> = fault.arguments().iter().map(quoted).collect();
    run_under(setup, server, &arguments.join(" "), log);
}

/// Has the next start of this server be recorded, from its first call on. The process that is started is the server itself;
/// the one that traces it ends with it.
pub fn record(setup: &mut Setup, server: &Path, log: &Path) {
    let arguments = format!(
        "--follow-forks --seccomp-bpf --decode-fds=all --strings-in-hex=all --absolute-timestamps=unix,us \
         --string-limit={STRING_BYTES_MAX} --signal=none --trace={RECORDED}"
    );
    run_under(setup, server, &arguments, log);
}

fn run_under(setup: &mut Setup, server: &Path, arguments: &str, log: &Path) {
    let script = format!(
        "#!/bin/sh\nexec strace --daemonize=grandchild {arguments} --output='{}' '{}' \"$@\"\n",
        log.display(),
        server.display()
    );
    setup.binary = log.with_extension("sh");
    fs::write(&setup.binary, script).expect("room for a script");
    fs::set_permissions(&setup.binary, fs::Permissions::from_mode(0o700)).expect("a script of our own");
}

/// Waits until the record of a process that has ended is whole.
pub async fn recorded(log: &Path, process: u32) {
    let end = format!("{process} ");
    eventually("the end of the record", || async {
        let text = fs::read(log).ok()?;
        let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(256)..]).into_owned();
        let last = tail.trim_end().lines().next_back()?;
        (tail.ends_with('\n') && last.starts_with(&end) && last.contains("+++")).then_some(())
    })
    .await;
}

/// What goes wrong with which calls.
pub struct Fault<'a> {
    /// Names of system calls, with commas between them.
    pub calls: &'a str,
    /// What comes of them in strace's words: `error=EIO`, `retval=0`.
    pub outcome: &'a str,
    /// Which calls of each thread, in strace's words: `3`, or `1+` for all.
    pub when: &'a str,
    /// The files and directories that it strikes; none: all.
    pub paths: &'a [PathBuf],
}

impl Fault<'_> {
    /// The arguments of strace.
    fn arguments(&self) -> Vec<OsString> {
        let Self { calls, outcome, when, paths } = self;
        let mut arguments = vec![
            "--follow-forks".into(),
            format!("--trace={calls}").into(),
            format!("--inject={calls}:{outcome}:when={when}").into(),
        ];
        for path in *paths {
            arguments.extend(["--trace-path".into(), path.into()]);
        }
        arguments
    }
}

/// While it lives, calls of a server go wrong.
pub struct Injection {
    strace: Child,
    log: PathBuf,
}

impl Injection {
    /// The first flush of one file or directory in each thread of the server fails with EIO.
    pub fn into_flushes(process: u32, path: &Path, log: &Path) -> Option<Self> {
        let paths = [path.to_owned()];
        Self::of(
            process,
            &Fault { calls: "fsync,fdatasync", outcome: "error=EIO", when: "1", paths: &paths },
            log,
        )
    }

    /// Takes hold of a process; where that is not allowed the skip has been noted.
    pub fn of(process: u32, fault: &Fault, log: &Path) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(fault.arguments()).arg("--attach").arg(process.to_string()).arg("--output").arg(log);
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
        injected(&self.log)
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

impl Drop for Injection {
    fn drop(&mut self) {
        self.let_go();
    }
}
