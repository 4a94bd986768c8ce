//! Room that is kept for those who make room.
//!
//! On a disk without a free byte not even a removal can be written into the catalogue. The data directory holds a file that
//! is of no other use: a removal that meets a full disk gives it up and is tried again. It is laid in again with a sweep,
//! once there is room.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

/// Name of the file.
const NAME: &str = "ballast";
/// Its size: the catalogue's log of many removals.
const BYTES: usize = 1 << 20;
/// Free bytes below which none is laid in: what is scarce already is for the images.
const ROOM_MIN_BYTES: u64 = 16 << 20;

/// The file of one data directory.
pub struct Ballast {
    path: PathBuf,
}

impl Ballast {
    /// That of the data directory; nothing is written yet.
    pub fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join(NAME) }
    }

    /// Lays it in, unless it is there or room is scarce. Blocks.
    pub fn lay_in(&self) -> io::Result<()> {
        if self.path.exists() {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(&self.path);
        let space = statvfs(directory)?;
        if space.f_bavail.saturating_mul(space.f_frsize) < ROOM_MIN_BYTES {
            return Ok(());
        }
        let laid_in = self.write();
        if laid_in.is_err() {
            self.give_up();
        }
        laid_in
    }

    /// Bytes that are there, and not only promised: not every file system can promise.
    fn write(&self) -> io::Result<()> {
        let mut file = File::create_new(&self.path)?;
        file.write_all(&vec![b'-'; BYTES])?;
        file.sync_all()
    }

    /// Gives the room up; whether there was any. Blocks.
    pub fn give_up(&self) -> bool {
        fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn it_takes_room_once_and_gives_it_up_once() {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::of(directory.path());
        assert!(!ballast.give_up());
        for _ in 0..2 {
            ballast.lay_in().unwrap();
            let laid_in = fs::metadata(directory.path().join(NAME)).unwrap();
            assert!(laid_in.blocks() * 512 >= BYTES as u64, "{laid_in:?}");
        }
        assert!(ballast.give_up());
        assert!(!ballast.give_up());
    }
}
