//! Images of each sort, made by the peer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::{run_ok, text};

/// Whether the peer is there, or a line that says that it is missing.
pub(crate) fn has_tools(test: &str) -> bool {
    let missing = ["qemu-img", "qemu-io"].into_iter().find(|tool| {
        !Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    if let Some(tool) = missing {
        eprintln!("SKIPPED: {test}: {tool} is not installed");
    }
    missing.is_none()
}

/// Length of the disks: no whole number of clusters of any size.
pub(crate) const DISK_BYTES: usize = (5 << 20) + 3 * 512;

/// Text that compresses, noise that does not, and zeros.
pub(crate) fn content() -> Vec<u8> {
    let mut bytes = vec![0; DISK_BYTES];
    let mut state = 1_u64;
    for (index, byte) in bytes.iter_mut().enumerate() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = match index >> 16 {
            0..20 => b"guest data "[index % 11] ^ (index >> 12) as u8,
            30..45 => (state >> 56) as u8,
            60 => u8::from(index % 4096 == 17),
            70.. => 0x5a,
            _ => 0,
        };
    }
    bytes
}

/// One image of each sort, in `directory`.
pub(crate) fn all(directory: &Path) -> Vec<PathBuf> {
    let raw = directory.join("content.raw");
    std::fs::write(&raw, content()).unwrap();
    let mut made = vec![raw.clone()];
    for (name, options) in [
        ("zlib", &["-c"][..]),
        ("zlib-512", &["-c", "-o", "cluster_size=512"]),
        ("zlib-2m", &["-c", "-o", "cluster_size=2M"]),
        ("zstd", &["-c", "-o", "compression_type=zstd"]),
        ("version-2", &["-o", "compat=0.10"]),
        ("plain-4k", &["-o", "cluster_size=4k"]),
        ("subclusters", &["-o", "extended_l2=on"]),
        ("subclusters-zlib", &["-c", "-o", "extended_l2=on,cluster_size=128k"]),
        ("preallocated", &["-o", "preallocation=metadata"]),
    ] {
        let target = directory.join(format!("{name}.qcow2"));
        let line = [&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&raw), text(&target)]].concat();
        run_ok("qemu-img", &line);
        made.push(target);
    }
    for (name, options) in [
        ("written", "cluster_size=64k"),
        ("written-512", "cluster_size=512"),
        ("written-subclusters", "extended_l2=on"),
        ("written-2m", "cluster_size=2M,extended_l2=on"),
    ] {
        let target = directory.join(format!("{name}.qcow2"));
        run_ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(&target), "9437696"]);
        let commands = [
            "write -q -P 17 0 200k",
            "write -q -P 34 1M 2k",
            "write -q -P 35 1030k 70k",
            "write -q -z 2M 300k",
            "write -q -z 32k 64k",
            "write -q -z -u 128k 8k",
            "discard -q 160k 4k",
            "write -q -P 51 9437184 512",
        ];
        let mut line = vec!["-f", "qcow2", text(&target)];
        line.extend(commands.iter().flat_map(|command| ["-c", command]));
        run_ok("qemu-io", &line);
        made.push(target);
    }
    let snapshots = directory.join("snapshots.qcow2");
    std::fs::copy(directory.join("zlib.qcow2"), &snapshots).unwrap();
    run_ok("qemu-img", &["snapshot", "-c", "one", text(&snapshots)]);
    run_ok("qemu-io", &["-f", "qcow2", "-c", "write -q -P 68 100k 1M", text(&snapshots)]);
    made.push(snapshots);
    let (empty, nothing) = (directory.join("empty.qcow2"), directory.join("nothing.qcow2"));
    run_ok("qemu-img", &["create", "-q", "-f", "qcow2", text(&empty), "64M"]);
    run_ok("qemu-img", &["create", "-q", "-f", "qcow2", text(&nothing), "0"]);
    made.extend([empty, nothing]);
    made
}
