//! Files that appear under their name when they are complete, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::reason;

/// Random names that are tried before giving up.
const ATTEMPTS: usize = 16;

/// A file being written, without a name of its own until it is published. Dropping it leaves nothing behind.
///
/// Where the file system allows, the file has no name at all (`O_TMPFILE`), so that not even a killed process leaves
/// one; elsewhere it is hidden under `.imageops-….partial`.
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
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        // Without /proc the nameless file could never get a name.
        if Path::new("/proc/self/fd").exists()
            && let Ok(file) = rustix::fs::openat(&directory, ".", flags | OFlags::TMPFILE, mode)
        {
            return Ok(Self { file: file.into(), directory, hidden: None });
        }
        let create =
            |name: &OsStr| rustix::fs::openat(&directory, name, flags | OFlags::CREATE | OFlags::EXCL, mode);
        let (file, name) = with_hidden_name(create)?;
        Ok(Self { file: file.into(), directory, hidden: Some(name) })
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
        return Error::new(ErrorKind::Io, reason::OUTPUT_EXISTS, message);
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
