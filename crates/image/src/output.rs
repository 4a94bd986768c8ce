//! Files that appear under their name when they are complete, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::reason;

/// Random names that are tried before giving up.
const ATTEMPTS: usize = 16;

const FLAGS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file being written, without a name of its own until it is published. Dropping it leaves nothing behind.
///
/// Where the file system allows, the file has no name at all (`O_TMPFILE`), so that not even a killed process leaves
/// one; elsewhere it is hidden under `.imageops-….partial`. It is locked (`flock`) as long as it is open: whoever
/// sweeps up after killed processes can tell by the lock that somebody is still writing.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    directory: OwnedFd,
    /// The hidden name; `None` while there is none.
    hidden: Option<OsString>,
}

/// What to do when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Replace it, in one step.
    Replace,
    /// Leave it and fail with [`reason::OUTPUT_EXISTS`].
    Keep,
}

impl OutputFile {
    /// A new file in the directory at `path`, for its owner alone.
    pub fn create(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Self::create_in(rustix::fs::open(path, flags, Mode::empty()).map_err(io)?)
    }

    /// A new file in an open directory, for its owner alone.
    pub fn create_in(directory: OwnedFd) -> Result<Self> {
        // Without /proc a nameless file could never get a name.
        if Path::new("/proc/self/fd").exists()
            && let Ok(file) = rustix::fs::openat(&directory, ".", FLAGS | OFlags::TMPFILE, MODE)
        {
            let file = File::from(file);
            lock(&file).map_err(io)?;
            return Ok(Self { file, directory, hidden: None });
        }
        Self::create_hidden(directory)
    }

    /// The way of file systems that have no nameless files.
    fn create_hidden(directory: OwnedFd) -> Result<Self> {
        let create = |name: &OsStr| {
            let flags = FLAGS | OFlags::CREATE | OFlags::EXCL;
            let file = File::from(rustix::fs::openat(&directory, name, flags, MODE)?);
            lock(&file)?;
            // Swept before it was locked: the lock is on a file that nobody can find any more.
            if rustix::fs::fstat(&file)?.st_nlink == 0 { Err(Errno::EXIST) } else { Ok(file) }
        };
        let (file, name) = with_hidden_name(create)?;
        Ok(Self { file, directory, hidden: Some(name) })
    }

    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Flushes the file and gives it its `name` and the permission bits `mode`.
    ///
    /// The name appears in one step: whoever looks sees what was there before or the whole new file, also after a
    /// crash. An existing file is untouched when this fails.
    pub fn publish(mut self, name: &OsStr, mode: u32, existing: Existing) -> Result<()> {
        check_name(name)?;
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode & 0o7777)).map_err(io)?;
        self.file.sync_all()?;
        match (&self.hidden, existing) {
            (None, Existing::Keep) => {
                link(&self.file, &self.directory, name).map_err(|error| taken(error, name))?
            }
            (None, Existing::Replace) => {
                // A link never replaces: the file gets a hidden name first, and the rename replaces.
                let ((), hidden) = with_hidden_name(|hidden| link(&self.file, &self.directory, hidden))?;
                self.hidden = Some(hidden);
                self.rename(name, RenameFlags::empty())?;
            }
            (Some(_), Existing::Replace) => self.rename(name, RenameFlags::empty())?,
            (Some(_), Existing::Keep) => self.rename_to_free(name)?,
        }
        rustix::fs::fsync(&self.directory).map_err(io)
    }

    /// Moves the hidden name to `name`.
    fn rename(&mut self, name: &OsStr, flags: RenameFlags) -> Result<()> {
        let Some(hidden) = &self.hidden else { return Ok(()) };
        rustix::fs::renameat_with(&self.directory, hidden, &self.directory, name, flags)
            .map_err(|error| taken(error, name))?;
        self.hidden = None;
        Ok(())
    }

    /// Moves the hidden name to `name`, which must not exist.
    fn rename_to_free(&mut self, name: &OsStr) -> Result<()> {
        match self.rename(name, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag; a link refuses to replace on all that have links.
            Err(error) if error.source.as_ref().is_some_and(is_unsupported) => {
                let Some(hidden) = &self.hidden else { return Ok(()) };
                rustix::fs::linkat(&self.directory, hidden, &self.directory, name, AtFlags::empty())
                    .map_err(|error| taken(error, name))
                // Dropping removes the hidden name.
            }
            other => other,
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(hidden) = &self.hidden {
            // Nothing is left to be done about a failure here; sweepers know the pattern of the name.
            let _ = rustix::fs::unlinkat(&self.directory, hidden, AtFlags::empty());
        }
    }
}

/// Locks a file that was just made. A sweeper may have come in between: then the name counts as taken.
fn lock(file: &File) -> Result<(), Errno> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Errno::EXIST),
        // Where there are no locks, no sweeper can take one either, and it leaves alone what it cannot lock.
        Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        other => other,
    }
}

fn io(error: Errno) -> Error {
    std::io::Error::from(error).into()
}

fn is_unsupported(error: &std::io::Error) -> bool {
    [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn taken(error: Errno, name: &OsStr) -> Error {
    if error == Errno::EXIST {
        let message = format!("{} exists already", name.display());
        return Error::new(ErrorKind::Exists, reason::OUTPUT_EXISTS, message);
    }
    io(error)
}

/// One component that names a file: what the caller got from a user can lead nowhere else.
fn check_name(name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(Error::new(
            ErrorKind::Invalid,
            reason::OUTPUT_NAME,
            "the output's name is not a plain file name",
        ));
    }
    Ok(())
}

/// Gives a nameless file a name that must not exist.
fn link(file: &File, directory: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let place = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, place, directory, name, AtFlags::SYMLINK_FOLLOW)
}

/// Tries `take` with random hidden names until one was free.
fn with_hidden_name<T>(mut take: impl FnMut(&OsStr) -> Result<T, Errno>) -> Result<(T, OsString)> {
    let mut last = Errno::EXIST;
    for _ in 0..ATTEMPTS {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name = OsString::from(format!(".imageops-{}.partial", hex::encode(random)));
        match take(&name) {
            Ok(taken) => return Ok((taken, name)),
            Err(error) if error == Errno::EXIST => last = error,
            Err(error) => return Err(io(error)),
        }
    }
    Err(io(last))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{self, TryLockError};
    use std::io::Write as _;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Both ways to make the file must behave the same; whether the first is nameless is up to the file system.
    fn both(test: impl Fn(&Path, fn(OwnedFd) -> Result<OutputFile>)) {
        for create in [OutputFile::create_in, OutputFile::create_hidden] {
            let directory = tempfile::tempdir().unwrap();
            test(directory.path(), create);
        }
    }

    #[test]
    fn appears_when_published() {
        both(|path, create| {
            let output = create(open(path)).unwrap();
            output.file().write_all(b"new").unwrap();
            assert!(!path.join("a").exists());
            output.publish("a".as_ref(), 0o640, Existing::Keep).unwrap();
            assert_eq!((names(path), fs::read(path.join("a")).unwrap()), (vec!["a".into()], b"new".to_vec()));
        });
    }

    #[test]
    fn replaces_only_when_told() {
        both(|path, create| {
            fs::write(path.join("a"), "old").unwrap();
            let output = create(open(path)).unwrap();
            let error = output.publish("a".as_ref(), 0o600, Existing::Keep).unwrap_err();
            assert_eq!((error.kind, error.reason), (ErrorKind::Exists, reason::OUTPUT_EXISTS));
            assert_eq!((names(path), fs::read(path.join("a")).unwrap()), (vec!["a".into()], b"old".to_vec()));
            let output = create(open(path)).unwrap();
            output.publish("a".as_ref(), 0o600, Existing::Replace).unwrap();
            assert_eq!((names(path), fs::read(path.join("a")).unwrap()), (vec!["a".into()], Vec::new()));
        });
    }

    #[test]
    fn leaves_nothing_when_dropped_or_misnamed() {
        both(|path, create| {
            drop(create(open(path)).unwrap());
            for name in ["", ".", "..", "a/b", "a\0b"] {
                let error = create(open(path)).unwrap().publish(name.as_ref(), 0o600, Existing::Replace);
                assert_eq!(error.unwrap_err().reason, reason::OUTPUT_NAME);
            }
            assert_eq!(names(path), [""; 0]);
        });
    }

    #[test]
    fn a_hidden_file_is_locked_until_it_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let output = OutputFile::create_hidden(open(path)).unwrap();
        let [hidden] = &names(path)[..] else { panic!("one hidden file") };
        assert!(hidden.starts_with(".imageops-") && hidden.ends_with(".partial"));
        let sweeper = File::open(path.join(hidden)).unwrap();
        assert!(matches!(sweeper.try_lock(), Err(TryLockError::WouldBlock)));
        output.publish("a".as_ref(), 0o600, Existing::Keep).unwrap();
        sweeper.try_lock().unwrap();
    }
}
