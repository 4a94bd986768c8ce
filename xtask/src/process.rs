//! Child processes: all without standard input, all with the directories of system tools on the path.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result, bail};

/// A command that never waits for a keyboard.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).env("PATH", search_path());
    command
}

/// `PATH` with the places of mke2fs and its like, which a plain user's path lacks on Debian.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let missing =
        ["/usr/local/sbin", "/usr/sbin", "/sbin"].into_iter().filter(|d| !path.split(':').any(|p| p == *d));
    std::iter::once(path.as_str()).filter(|p| !p.is_empty()).chain(missing).collect::<Vec<_>>().join(":")
}

/// The program's path, when it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_path().split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file())
}

/// Where a line came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Errors,
}

/// Ways to run a command to its end.
pub(crate) trait Run {
    /// Runs it with our own output; whether it ended with status 0.
    fn succeeds(&mut self) -> Result<bool>;

    /// Runs it with our own output; a status other than 0 is an error.
    fn check(&mut self) -> Result<()>;

    /// Its standard output; a status other than 0 is an error that holds what it printed as errors.
    fn capture(&mut self) -> Result<String>;

    /// Runs it and hands over each line as it comes.
    fn lines(&mut self, each: impl FnMut(Stream, &str)) -> Result<ExitStatus>;
}

impl Run for Command {
    fn succeeds(&mut self) -> Result<bool> {
        eprintln!("$ {}", shown(self));
        Ok(self.status().with_context(|| format!("cannot start {}", shown(self)))?.success())
    }

    fn check(&mut self) -> Result<()> {
        if !self.succeeds()? {
            bail!("{} failed", shown(self));
        }
        Ok(())
    }

    fn capture(&mut self) -> Result<String> {
        let output = self.output().with_context(|| format!("cannot start {}", shown(self)))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{} ended with {}: {}", shown(self), output.status, errors.trim());
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("{} printed something other than text", shown(self)))
    }

    fn lines(&mut self, mut each: impl FnMut(Stream, &str)) -> Result<ExitStatus> {
        eprintln!("$ {}", shown(self));
        let mut child = self
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", shown(self)))?;
        // Bounded, so that a flood of lines waits for us instead of filling memory.
        let (sender, receiver) = mpsc::sync_channel(1024);
        let readers = [
            child.stdout.take().map(|pipe| read_lines(pipe, Stream::Output, sender.clone())),
            child.stderr.take().map(|pipe| read_lines(pipe, Stream::Errors, sender)),
        ];
        for (stream, line) in receiver {
            each(stream, &line);
        }
        for reader in readers.into_iter().flatten() {
            // A reader that panicked has printed why; the child's status is what counts.
            let _ = reader.join();
        }
        child.wait().with_context(|| format!("cannot wait for {}", shown(self)))
    }
}

/// Reads a pipe to its end. Bytes that are no text are replaced: a test may print anything.
fn read_lines(
    pipe: impl Read + Send + 'static,
    stream: Stream,
    sender: mpsc::SyncSender<(Stream, String)>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            if sender.send((stream, text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                return;
            }
            line.clear();
        }
    })
}

/// The command as one would type it, without its environment.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
