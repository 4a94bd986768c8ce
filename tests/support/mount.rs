//! A file system so small that it fills up.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::images::skip;

/// A memory file system, unmounted when dropped.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one; where that is not allowed the skip has been noted.
    pub fn mount(size_mib: u32) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("imageops-disk-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).expect("a mount point");
        let options = format!("size={size_mib}m,mode=755");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .output()
            .is_ok_and(|output| output.status.success());
        if mounted {
            return Some(Self { path });
        }
        let _ = std::fs::remove_dir(&path);
        skip("small file systems cannot be mounted here; run the tests as root");
        None
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another size.
    pub fn resize(&self, size_mib: u32) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size_mib}m")])
            .arg(&self.path)
            .status()
            .expect("mount runs");
        assert!(status.success(), "the file system cannot be made larger");
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        let room = rustix::fs::statvfs(&self.path).expect("a mounted file system");
        room.f_bavail * room.f_frsize
    }

    /// Makes a file that leaves so many bytes free, if so many are.
    pub fn fill_but(&self, name: &str, left_bytes: u64) -> PathBuf {
        let path = self.path.join(name);
        let file = std::fs::File::create(&path).expect("a name for the filler");
        let flags = rustix::fs::FallocateFlags::empty();
        // What the server takes meanwhile may be missing then.
        while let length_bytes @ 1.. = self.free_bytes().saturating_sub(left_bytes) {
            match rustix::fs::fallocate(&file, flags, 0, length_bytes) {
                Err(rustix::io::Errno::NOSPC) => {}
                result => {
                    result.expect("a filler");
                    break;
                }
            }
        }
        path
    }

    /// Writes a file until nothing more fits.
    pub fn fill(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        let mut file = std::fs::File::create(&path).expect("a name for the filler");
        let mut block = vec![1; 1 << 20];
        while !block.is_empty() {
            match file.write(&block) {
                Ok(written) if written == block.len() => {}
                _ => block.truncate(block.len() / 2),
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached: what still has a file open there keeps it, and nothing else.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
        let _ = std::fs::remove_dir(&self.path);
    }
}
