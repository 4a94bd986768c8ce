//! What is measured: guests of the full image set, and images made from them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::contenders::Group;
use crate::process::{self, Run as _};

/// One image, and the work that is measured on it.
pub(crate) struct Guest {
    /// How `--guest` names it.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) title: &'static str,
    pub(crate) groups: &'static [Group],
    origin: Origin,
}

/// Where the image comes from.
enum Origin {
    /// A file of the full set.
    Set(&'static str),
    /// A file of the full set, compressed by the peer as cloud images are.
    Compressed(&'static str),
    /// An empty disk of this size of which every cluster is allocated.
    Mapped(&'static str),
}

const fn compress(name: &'static str, title: &'static str, file: &'static str) -> Guest {
    Guest { name, title, groups: &[Group::Compress], origin: Origin::Set(file) }
}

/// Every image, in the order of the document.
pub(crate) const GUESTS: [Guest; 7] = [
    Guest {
        name: "ext4",
        title: "Debian on ext4",
        groups: &[Group::Compress, Group::Check, Group::Tables],
        origin: Origin::Set("debian-ext4.qcow2"),
    },
    compress("xfs", "Debian on XFS", "debian-xfs.qcow2"),
    compress("btrfs", "Debian on Btrfs", "debian-btrfs.qcow2"),
    compress("lvm", "Debian on ext4 in LVM", "debian-lvm.qcow2"),
    compress("ntfs", "Files on NTFS", "data-ntfs.qcow2"),
    Guest {
        name: "cloud",
        title: "Debian on ext4, compressed already, as cloud images are",
        groups: &[Group::Repack],
        origin: Origin::Compressed("debian-ext4.qcow2"),
    },
    Guest {
        name: "mapped",
        title: "1 TiB, every cluster allocated",
        groups: &[Group::Tables],
        origin: Origin::Mapped("1T"),
    },
];

impl Guest {
    /// Where the image lies; `set` is the full set, `made` the directory for what is made from it.
    pub(crate) fn image(&self, set: &Path, made: &Path) -> Result<PathBuf> {
        let target = made.join(format!("{}.qcow2", self.name));
        let unfinished = made.join(format!("{}.new", self.name));
        match self.origin {
            Origin::Set(file) => {
                let path = set.join(file);
                ensure!(path.is_file(), "the full image set has no {file}");
                return Ok(path);
            }
            _ if target.is_file() => return Ok(target),
            Origin::Compressed(file) => process::command("qemu-img")
                .args(["convert", "-c", "-m", "16", "-W", "-O", "qcow2"])
                .args([&set.join(file), &unfinished])
                .check()?,
            Origin::Mapped(size) => process::command("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata"])
                .arg(&unfinished)
                .arg(size)
                .check()?,
        }
        fs::rename(&unfinished, &target).with_context(|| format!("cannot make {}", target.display()))?;
        Ok(target)
    }
}
