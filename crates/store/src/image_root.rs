//! The image root: files that clients name.
//!
//! A name is resolved in two parts. The directory part is opened beneath the root in one step (`openat2` with
//! `RESOLVE_BENEATH` where the kernel has it, else component by component), so that neither `..` nor a link leads out,
//! however the tree is changed meanwhile. The last part is looked up in that very directory without following links; a
//! link there is read and resolved again from the root. The directory is known to lie beneath the root and outside of what
//! is kept out by climbing from it, not by comparing names.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::directory::{failure, free_bytes};
use crate::file_id::FileId;
use crate::{Error, Result};

mod sweep;

#[cfg(test)]
mod tests;

/// Links that one name may lead through, as in the kernel.
const LINKS_MAX: usize = 40;
/// Bytes that a name may have, links followed so far included, as in the kernel.
const NAME_BYTES_MAX: usize = 4096;
/// Directories above one another; deeper trees cannot be named in [`NAME_BYTES_MAX`].
const DEPTH_MAX: usize = 2048;

/// Names that the service keeps for itself: the data directory in the legacy volume, and outputs in the making.
const OWN_PREFIX: &[u8] = b".imageops";

/// The directory beneath which `file` sources and outputs are named.
#[derive(Debug)]
pub struct ImageRoot {
    root: Dir,
    root_id: FileId,
    /// Directories and files that no name may lead to or into.
    keep_out: RwLock<Vec<FileId>>,
}

/// Where an output goes: a directory beneath the root, held open, and a name in it.
#[derive(Debug)]
pub struct OutputPlace {
    /// The directory.
    pub directory: OwnedFd,
    /// The name: one component, of a regular file or of nothing when it was looked up.
    pub file_name: OsString,
}

impl ImageRoot {
    /// Opens the root, which must exist.
    ///
    /// `keep_out` are existing directories and files (the data directory, a store, the catalogue) that can never be named,
    /// by whatever way. One that the root itself lies in is left out of this, since no name leads up to it.
    /// [`Error::Unusable`] when the root or one of them is missing, or the root is one of them.
    pub fn open(root: &Path, keep_out: &[PathBuf]) -> Result<Self> {
        let root = Dir::open_ambient_dir(root, ambient_authority())
            .map_err(|_| unusable("the image root is not a directory that can be opened"))?;
        let root_id = FileId::of(&root).map_err(failure)?;
        let opened = Self { root, root_id, keep_out: RwLock::default() };
        for path in keep_out {
            opened.keep_out(path)?;
        }
        Ok(opened)
    }

    /// Makes that no name leads to or into `path` from now on, as by [`ImageRoot::open`].
    pub fn keep_out(&self, path: &Path) -> Result<()> {
        let entry =
            sys::stat(path).map_err(|_| unusable("what the image root must keep out does not exist"))?;
        let id = FileId::from(&entry);
        if id == self.root_id {
            return Err(unusable(
                "the image root is the data directory or a store itself: name a directory in or beside it",
            ));
        }
        if !ids_above(&self.root)?.contains(&id) {
            let mut kept = self.keep_out.write().unwrap_or_else(PoisonError::into_inner);
            if !kept.contains(&id) {
                kept.push(id);
            }
        }
        Ok(())
    }

    fn is_kept_out(&self, id: FileId) -> bool {
        self.keep_out.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Opens a source for reading. What is checked on the returned handle is what will be used.
    ///
    /// [`Error::NotFound`] for everything that is not a regular file beneath the root, so that answers tell nothing about
    /// the rest of the host: missing, a directory or device, out of the root, too long, kept out, an unfinished output.
    pub fn open_source(&self, name: &str) -> Result<File> {
        let place = self.resolve(name).map_err(source_failure)?;
        if !place.entry.as_ref().is_some_and(|entry| self.is_usable(entry)) || is_partial(&place.file_name) {
            return Err(Error::NotFound);
        }
        // The entry may be another one by now: the same conditions hold for what was opened.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = sys::openat(&place.directory, &place.file_name, flags, Mode::empty())
            .map_err(|error| source_failure(error.into()))?;
        if !self.is_usable(&sys::fstat(&file).map_err(failure)?) {
            return Err(Error::NotFound);
        }
        sys::fcntl_setfl(&file, OFlags::empty()).map_err(failure)?;
        Ok(file.into())
    }

    /// Finds the place of an output. Links are followed as for a source: the output replaces what the name stands for.
    ///
    /// [`Error::InvalidName`] unless the name stands for a regular file or for nothing, in an existing directory beneath
    /// the root and outside of what is kept out.
    pub fn output(&self, name: &str) -> Result<OutputPlace> {
        if name.split('/').any(|component| is_own(component.as_ref())) {
            return Err(Error::InvalidName);
        }
        let place = self.resolve(name).map_err(output_failure)?;
        let is_free = place.entry.as_ref().is_none_or(|entry| self.is_usable(entry));
        if !is_free || is_own(&place.file_name) {
            return Err(Error::InvalidName);
        }
        Ok(OutputPlace { directory: place.directory, file_name: place.file_name })
    }

    /// Whether `place` now stands for the very file that `source` reads, under whatever name.
    pub fn is_same_file(&self, source: &File, place: &OutputPlace) -> Result<bool> {
        let source = FileId::of(source).map_err(failure)?;
        let target = FileId::of_entry(&place.directory, &place.file_name).map_err(failure)?;
        Ok(target == Some(source))
    }

    /// Bytes that can still be written beneath the root.
    pub fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.reopen_root()?)
    }

    /// Removes what runs that ended abruptly left beneath the root: files `.imageops-*.partial` on which nobody holds a
    /// lock (`flock`). How many. Links are not followed, what is kept out is not entered, and the walk ends after a bounded
    /// number of entries.
    pub fn sweep_partials(&self) -> Result<u64> {
        sweep::sweep(self.reopen_root()?, &self.keep_out.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reopen_root(&self) -> Result<OwnedFd> {
        open_here(&self.root).map_err(Into::into)
    }

    fn is_usable(&self, entry: &Stat) -> bool {
        FileType::from_raw_mode(entry.st_mode) == FileType::RegularFile && !self.is_kept_out(entry.into())
    }

    fn resolve(&self, name: &str) -> io::Result<Place> {
        let mut path = name.as_bytes().to_vec();
        for _ in 0..=LINKS_MAX {
            if path.len() > NAME_BYTES_MAX || path.starts_with(b"/") || path.contains(&0) {
                return Err(Errno::NAMETOOLONG.into());
            }
            let slash = path.iter().rposition(|byte| *byte == b'/');
            let (parent, last) = match slash {
                Some(slash) => (&path[..slash], &path[slash + 1..]),
                None => (&b"."[..], &path[..]),
            };
            // A name that ends like this is that of a directory.
            if matches!(last, b"" | b"." | b"..") {
                return Err(Errno::ISDIR.into());
            }
            let file_name = OsStr::from_bytes(last).to_owned();
            let directory = open_here(&self.root.open_dir(OsStr::from_bytes(parent))?)?;
            self.check_inside(&directory)?;
            let entry = match sys::statat(&directory, &file_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(entry) => entry,
                Err(Errno::NOENT) => return Ok(Place { directory, file_name, entry: None }),
                Err(error) => return Err(error.into()),
            };
            if FileType::from_raw_mode(entry.st_mode) != FileType::Symlink {
                return Ok(Place { directory, file_name, entry: Some(entry) });
            }
            let target = sys::readlinkat(&directory, &file_name, Vec::new())?.into_bytes();
            path = if target.starts_with(b"/") { target } else { [parent, b"/", &target].concat() };
        }
        Err(Errno::LOOP.into())
    }

    /// Climbs from `directory` to the root and fails when it meets what is kept out, or the root of the host.
    fn check_inside(&self, directory: &OwnedFd) -> io::Result<()> {
        let mut id = FileId::of(directory)?;
        let mut parent: Option<OwnedFd> = None;
        for _ in 0..DEPTH_MAX {
            if self.is_kept_out(id) {
                return Err(Errno::NOENT.into());
            }
            if id == self.root_id {
                return Ok(());
            }
            let above = open_parent(parent.as_ref().unwrap_or(directory))?;
            let above_id = FileId::of(&above)?;
            if above_id == id {
                break;
            }
            (id, parent) = (above_id, Some(above));
        }
        Err(Errno::XDEV.into())
    }
}

/// A resolved name: the directory, the last component, and what was there.
struct Place {
    directory: OwnedFd,
    file_name: OsString,
    entry: Option<Stat>,
}

/// A handle of the same directory that can also be read and flushed, whatever it was opened for.
fn unusable(sentence: &str) -> Error {
    Error::Unusable(sentence.to_owned())
}

fn open_here(directory: &Dir) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(sys::openat(directory, ".", flags, Mode::empty())?)
}

fn open_parent(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(sys::openat(directory, "..", flags, Mode::empty())?)
}

/// The directories that `directory` lies in, up to the root of the host.
fn ids_above(directory: &Dir) -> Result<Vec<FileId>> {
    let mut ids = Vec::new();
    let mut current = open_here(directory)?;
    let mut id = FileId::of(&current).map_err(failure)?;
    for _ in 0..DEPTH_MAX {
        let above = open_parent(&current)?;
        let above_id = FileId::of(&above).map_err(failure)?;
        if above_id == id {
            break;
        }
        ids.push(above_id);
        (id, current) = (above_id, above);
    }
    Ok(ids)
}

fn is_own(component: &OsStr) -> bool {
    component.as_bytes().starts_with(OWN_PREFIX)
}

/// Whether a name is that of an output in the making.
fn is_partial(file_name: &OsStr) -> bool {
    let name = file_name.as_bytes();
    name.starts_with(b".imageops-") && name.ends_with(b".partial")
}

/// Whether an error says something about the name, and not about the machine. The errors that the resolver makes itself,
/// such as for a name that leads out, bear no number of the system.
fn is_about_name(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else { return true };
    matches!(
        Errno::from_raw_os_error(number),
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            | Errno::XDEV
            | Errno::NXIO
            | Errno::NODEV
            | Errno::STALE
    )
}

fn source_failure(error: io::Error) -> Error {
    if is_about_name(&error) { Error::NotFound } else { Error::Io(error) }
}

fn output_failure(error: io::Error) -> Error {
    if is_about_name(&error) { Error::InvalidName } else { Error::Io(error) }
}
