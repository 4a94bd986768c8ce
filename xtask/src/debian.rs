//! Debian packages that the tests need: found by a program of each, installed when that is allowed.

use anyhow::{Result, bail};

use crate::process::{self, Run as _};

/// A program and the package that brings it.
pub(crate) type Need = (&'static str, &'static str);

/// Programs that make the test images or judge our output.
pub(crate) const FOR_TESTS: &[Need] = &[
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("mke2fs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("dumpe2fs", "e2fsprogs"),
    ("pvck", "lvm2"),
    ("mkfs.xfs", "xfsprogs"),
    ("grub-fstest", "grub-common"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkntfs", "ntfs-3g"),
    ("lowntfs-3g", "ntfs-3g"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.exfat", "exfatprogs"),
    ("mount.exfat-fuse", "exfat-fuse"),
    ("mcopy", "mtools"),
    ("blkls", "sleuthkit"),
    ("sfdisk", "fdisk"),
    ("mkswap", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("strace", "strace"),
    ("faketime", "faketime"),
    ("xorriso", "xorriso"),
    ("pg_createcluster", "postgresql"),
    ("setpriv", "util-linux"),
    ("promtool", "prometheus"),
    ("prometheus", "prometheus"),
    ("python3", "python3"),
    ("curl", "curl"),
    ("git", "git"),
];

/// The compiler that builds libFuzzer.
pub(crate) const FOR_FUZZ: &[Need] = &[("c++", "g++")];

/// What the benchmark needs on top.
pub(crate) const FOR_BENCH: &[Need] = &[("debootstrap", "debootstrap"), ("time", "time")];

/// What the benchmark of the service needs on top: a peer, and what counts samples for the flame graphs.
pub(crate) const FOR_SERVICE_BENCH: &[Need] = &[("nginx", "nginx-light"), ("perf", "linux-perf")];

/// Installs what is missing of `needs`; an error that names the packages when that is not allowed.
pub(crate) fn install_missing(needs: &[Need]) -> Result<()> {
    let mut packages: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| process::find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    install(&packages)
}

/// Installs packages by name.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let Some(apt) = apt_command()? else {
        bail!("missing packages; install them and try again: {}", packages.join(" "));
    };
    let run = |arguments: &[&str]| {
        let mut command = process::command(apt[0]);
        command.args(&apt[1..]).args(arguments).check()
    };
    // A list that is a little old is better than none: a failing mirror must not stop an install that would work.
    if let Err(error) = run(&["update", "-q"]) {
        eprintln!("warning: {error:#}");
    }
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    run(&arguments)
}

/// How to call apt-get without being asked anything; `None` when we may not.
fn apt_command() -> Result<Option<&'static [&'static str]>> {
    const ROOT: &[&str] = &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    const SUDO: &[&str] = &["sudo", "-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    if process::find("apt-get").is_none() {
        return Ok(None);
    }
    if process::command("id").arg("-u").capture()?.trim() == "0" {
        return Ok(Some(ROOT));
    }
    let may_sudo =
        process::find("sudo").is_some() && process::command("sudo").args(["-n", "true"]).capture().is_ok();
    Ok(may_sudo.then_some(SUDO))
}
