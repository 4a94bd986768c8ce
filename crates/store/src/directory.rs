//! A store in a directory.
//!
//! ```text
//! store      the stamp: what this directory is, and the store's id
//! catalogue  the id of the catalogue that knows what is in it
//! lock       held by the one process that uses it
//! staging/   files that are being written, named by their key
//! blobs/     complete, durable files, named by their key
//! probe      while the store is asked whether it takes writes
//! ```
//!
//! The directories are opened once. A key is a single path component, and every access is relative to a directory handle
//! and follows no link (SEC-26), so nothing outside can be named. The path is looked at again only to find out whether it
//! still leads to the directory that is held open: where it does not, a file system was unmounted or the directory was
//! exchanged, and what would be written now nobody would find again.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use imageops_model::StoreId;
use rustix::fs::{self as sys, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::blob::FileBlob;
use crate::calls::{Calls, SystemCalls};
use crate::fail_point;
use crate::file_id::FileId;
use crate::{Blob, Entry, Error, Kind, Result, Space, Store, check_key};

mod files;
mod place;
mod probe;
mod room;
pub(crate) mod stamp;

#[cfg(test)]
mod tests;

pub(crate) use files::failure;
use files::{check_file, list_files, open_directory};
use place::Place;
pub use place::make_directories;
pub(crate) use room::free_bytes;

const STAGING: &str = "staging";
const BLOBS: &str = "blobs";
/// More bytes than a directory can hold.
const NO_LIMIT: u64 = u64::MAX;

/// A store in a directory of a local or network file system.
#[derive(Debug)]
pub struct DirectoryStore {
    id: StoreId,
    place: Place,
    staging: OwnedFd,
    blobs: OwnedFd,
    /// See [`Store::set_limit`]; [`NO_LIMIT`] where there is none.
    limit_bytes: AtomicU64,
    calls: Box<dyn Calls>,
    /// Holds the lock until the store is dropped, or the process ends by whatever cause.
    _lock: File,
}

impl DirectoryStore {
    /// Opens the store in `path`, making the directory (mode 0700) and the store where there is none.
    ///
    /// The directory is locked as long as the value lives: [`Error::Unusable`] when another process, or another value of
    /// this one, has it. Who holds the lock is alone on the directory.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        Self::open_or_create_with(path, Box::new(SystemCalls))
    }

    /// Opens the store `id` in `path`, which must be there: where its file system is not mounted nothing is made and
    /// nothing is written, [`Error::Gone`]. [`Error::Unusable`] when it is another store.
    pub fn open_existing(path: &Path, id: StoreId) -> Result<Self> {
        let place = Place::open(path)?;
        match stamp::read(place.directory())? {
            Some(found) if found == id => {}
            Some(_) => return Err(Error::Unusable("the directory holds another store".to_owned())),
            None => {
                let sentence =
                    "the directory holds no store; mount the file system that has it, or name its place";
                return Err(Error::Gone(sentence.to_owned()));
            }
        }
        let lock = stamp::lock(place.directory())?;
        Self::open_in(place, id, lock, Box::new(SystemCalls))
    }

    fn open_or_create_with(path: &Path, calls: Box<dyn Calls>) -> Result<Self> {
        make_directories(path, 0o700)?;
        let place = Place::open(path)?;
        let lock = stamp::lock(place.directory())?;
        let id = match stamp::read(place.directory())? {
            Some(id) => id,
            None => stamp::write(place.directory())?,
        };
        Self::open_in(place, id, lock, calls)
    }

    fn open_in(place: Place, id: StoreId, lock: File, calls: Box<dyn Calls>) -> Result<Self> {
        let staging = open_directory(place.directory(), STAGING)?;
        let blobs = open_directory(place.directory(), BLOBS)?;
        sys::fsync(place.directory()).map_err(failure)?;
        Ok(Self { id, place, staging, blobs, limit_bytes: AtomicU64::new(NO_LIMIT), calls, _lock: lock })
    }

    fn limit_bytes(&self) -> Option<u64> {
        Some(self.limit_bytes.load(Relaxed)).filter(|limit_bytes| *limit_bytes != NO_LIMIT)
    }

    /// Opens a regular file. `O_NONBLOCK`, which means nothing to such a file, keeps a pipe in its place from blocking.
    fn open_file(&self, directory: &OwnedFd, key: &str, access: OFlags) -> Result<File> {
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        check_file(self.calls.open(directory, key, flags).map_err(failure)?)
    }

    /// Gives the staged file its name as a blob. A blob of that name is taken for ours when it is the same file: then an
    /// earlier call was cut off behind this step.
    fn link(&self, file: &File, staged: &str, blob: &str) -> Result<()> {
        let is_new = match self.calls.link(&self.staging, staged, &self.blobs, blob) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failure(error)),
        };
        // The name could have been exchanged since the file was opened: only bytes that were flushed are published.
        if FileId::of_entry(&self.blobs, blob).map_err(failure)? == Some(FileId::of(file).map_err(failure)?) {
            return Ok(());
        }
        if is_new {
            self.calls.unlink(&self.blobs, blob).map_err(failure)?;
        }
        Err(Error::Exists)
    }

    /// Drops bytes whose flush failed: the kernel may hold them as clean although they never reached the disk, and a later
    /// flush would succeed without them. What cannot be removed now is left to the sweep; no row names it.
    fn give_up(&self, staged: &str, blob: Option<&str>) {
        if let Some(blob) = blob {
            let _ = self.calls.unlink(&self.blobs, blob);
            let _ = self.calls.flush_directory(&self.blobs);
        }
        let _ = self.calls.unlink(&self.staging, staged);
        let _ = self.calls.flush_directory(&self.staging);
    }
}

impl Store for DirectoryStore {
    fn id(&self) -> StoreId {
        self.id
    }

    fn kind(&self) -> Kind {
        Kind::Directory
    }

    fn owner(&self) -> Result<Option<Uuid>> {
        stamp::read_owner(self.place.directory())
    }

    fn set_owner(&self, catalogue: Uuid) -> Result<()> {
        stamp::write_owner(self.place.directory(), catalogue)
    }

    fn probe(&self) -> Result<()> {
        let found = stamp::read(&self.place.reopen()?)?;
        if found != Some(self.id) {
            return Err(Error::Gone("the stamp of the store is no longer there; restore it".to_owned()));
        }
        probe::write_and_read(self.place.directory(), &*self.calls)
    }

    fn stage(&self, key: &str) -> Result<File> {
        check_key(key)?;
        self.place.check()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (file, is_new) = match self.calls.open(&self.staging, key, flags) {
            Ok(file) => (file.into(), true),
            Err(Errno::EXIST) => (self.open_staged(key)?, false),
            Err(error) => return Err(failure(error)),
        };
        // Bytes that are reported as durable need a name that is. One that was there may not be: whoever made it could
        // have ended before this.
        if let Err(error) = self.calls.flush_directory(&self.staging) {
            if is_new {
                self.give_up(key, None);
            }
            return Err(failure(error));
        }
        Ok(file)
    }

    fn open_staged(&self, key: &str) -> Result<File> {
        check_key(key)?;
        self.open_file(&self.staging, key, OFlags::RDWR)
    }

    fn discard_staged(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.calls.unlink(&self.staging, key).map_err(failure)
    }

    fn publish(&self, staged: &str, blob: &str) -> Result<()> {
        check_key(staged)?;
        check_key(blob)?;
        self.place.check()?;
        let file = self.open_file(&self.staging, staged, OFlags::RDWR)?;
        room::check_limit(&self.blobs, &self.staging, self.limit_bytes())?;
        if let Err(error) = self.calls.flush_file(&file) {
            self.give_up(staged, None);
            return Err(failure(error));
        }
        fail_point::reach("before-link");
        self.link(&file, staged, blob)?;
        fail_point::reach("after-link");
        if let Err(error) = self.calls.flush_directory(&self.blobs) {
            self.give_up(staged, Some(blob));
            return Err(failure(error));
        }
        fail_point::reach("after-directory-flush");
        // Once more: what is told to be stored must be found at the place by who opens it after us.
        self.place.check()
    }

    fn open(&self, blob: &str) -> Result<Box<dyn Blob>> {
        check_key(blob)?;
        Ok(Box::new(FileBlob::new(self.open_file(&self.blobs, blob, OFlags::RDONLY)?)?))
    }

    fn remove(&self, blob: &str) -> Result<()> {
        check_key(blob)?;
        self.calls.unlink(&self.blobs, blob).map_err(failure)?;
        self.calls.flush_directory(&self.blobs).map_err(failure)
    }

    fn list_staged(&self) -> Result<Vec<Entry>> {
        list_files(&self.staging)
    }

    fn list(&self) -> Result<Vec<Entry>> {
        list_files(&self.blobs)
    }

    fn space(&self) -> Result<Space> {
        room::space(&self.blobs, &self.staging, self.limit_bytes())
    }

    fn set_limit(&self, limit_bytes: Option<u64>) {
        self.limit_bytes.store(limit_bytes.unwrap_or(NO_LIMIT), Relaxed);
    }
}
