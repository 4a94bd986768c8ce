//! File systems of a test: one so small that it fills up, and such as lack what others have.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::images::{have, skip};

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

    /// Has it take no more writes.
    pub fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.path).status();
        assert!(status.expect("mount runs").success(), "the file system cannot be made read-only");
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

/// A kind of file system that lies in a file.
pub struct FileSystem {
    /// Its name.
    pub name: &'static str,
    /// Least size that it can have, and some room.
    pub size_mib: u64,
    /// Makes one; the device comes behind it.
    pub make: &'static [&'static str],
    /// Mounts one; the device and the place come behind it.
    pub mount: &'static [&'static str],
}

/// A file system in a file, unmounted when dropped.
pub struct LoopDisk {
    file: PathBuf,
    device: String,
    path: PathBuf,
}

impl LoopDisk {
    /// Makes and mounts one; where that cannot be done the skip has been noted.
    pub fn mount(kind: &FileSystem) -> Option<Self> {
        if !have(kind.make[0]) || !have(kind.mount[0]) || !have("losetup") {
            return None;
        }
        let path = std::env::temp_dir().join(format!("imageops-{}-{}", kind.name, uuid::Uuid::new_v4()));
        let file = path.with_extension("disk");
        std::fs::create_dir(&path).expect("a mount point");
        let made = std::fs::File::create(&file).and_then(|file| file.set_len(kind.size_mib << 20));
        made.expect("room for a file system");
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        let device = attached.ok().filter(|output| output.status.success());
        let device = device.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let disk = Self { file, device: device.unwrap_or_default(), path };
        // Dropped from here on when anything fails.
        let done = !disk.device.is_empty()
            && run(kind.make, &[disk.device.as_ref()])
            && run(kind.mount, &[disk.device.as_ref(), disk.path.as_ref()]);
        if !done {
            skip(&format!("{} cannot be mounted here: as root, and where the kernel has it", kind.name));
            return None;
        }
        Some(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it from its place, repairs it with `check`, and mounts it again with `mount`.
    pub fn mount_again(&self, check: &[&str], mount: &[&str]) {
        assert!(run(&["umount"], &[self.path.as_ref()]), "expected that nobody uses {}", self.path.display());
        if !check.is_empty() {
            // What it says of its success depends on what there was to repair.
            run(check, &[self.device.as_ref()]);
        }
        assert!(run(mount, &[self.device.as_ref(), self.path.as_ref()]), "expected a file system");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        run(&["umount", "--lazy"], &[self.path.as_ref()]);
        run(&["losetup", "--detach"], &[self.device.as_ref()]);
        let _ = std::fs::remove_dir(&self.path);
        let _ = std::fs::remove_file(&self.file);
    }
}

fn run(command: &[&str], more: &[&std::ffi::OsStr]) -> bool {
    let output = Command::new(command[0]).args(&command[1..]).args(more).output();
    output.is_ok_and(|output| output.status.success())
}
