//! A disk full of junk in every form, and what must be true of it at every moment.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::check::{CheckOptions, CheckOutcome, check};
use imageops_image::disk::Disk;
use imageops_image::format::{self, Format};
use imageops_image::in_place::{InPlaceReport, Medium, punch};
use imageops_image::storage::Storage;

use crate::medium::{Operation, Recorder};
use crate::peers::{run, run_ok, text};
use crate::proofs::{free_ranges, scan, total};

pub(crate) const TOOLS: [&str; 3] = ["qemu-img", "mke2fs", "e2fsck"];

/// A disk of 14 MiB full of freed junk but for an ext4 of some files in a partition that starts at no cluster.
pub(crate) fn junk_disk(directory: &Path, block: u64) -> PathBuf {
    let tree = directory.join("tree");
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    for number in 0..40_usize {
        let line = format!("file {number} ");
        std::fs::write(tree.join(format!("a/b/{number}")), line.repeat(number * number * 9)).unwrap();
    }
    let junk: Vec<u8> = (0..13_u32 << 20).map(|at| (at / 700 % 251 + at % 5) as u8).collect();
    let part = directory.join("part");
    std::fs::write(&part, &junk).unwrap();
    let (block, options) = (block.to_string(), ["-t", "ext4", "-O", "^has_journal", "-E", "nodiscard"]);
    let arguments = [&["-q", "-F", "-b", &block], &options[..], &["-d", text(&tree), text(&part)]].concat();
    run_ok("mke2fs", &arguments);
    let disk = directory.join("disk.raw");
    let mut bytes = vec![0; 14 << 20];
    let (start, length) = (63_usize, (13_usize << 20) / 512);
    bytes[446 + 4] = 0x83;
    bytes[446 + 8..446 + 12].copy_from_slice(&(start as u32).to_le_bytes());
    bytes[446 + 12..446 + 16].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[start * 512..start * 512 + junk.len()].copy_from_slice(&std::fs::read(&part).unwrap());
    std::fs::write(&disk, bytes).unwrap();
    std::fs::remove_dir_all(&tree).unwrap();
    disk
}

pub(crate) fn kept_ranges(free: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut cursor = 0;
    let mut kept = Vec::new();
    for range in free.iter().chain(std::iter::once(&(size..size))) {
        if range.start > cursor {
            kept.push(cursor..range.start);
        }
        cursor = range.end;
    }
    kept
}

pub(crate) fn read(disk: &dyn Disk, ranges: &[Range<u64>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in ranges {
        let start = bytes.len();
        bytes.resize(start + (range.end - range.start) as usize, 0);
        disk.read_at(&mut bytes[start..], range.start).unwrap();
    }
    bytes
}

/// What must be true of an image at every moment.
pub(crate) struct Expected {
    format: Format,
    kept: Vec<Range<u64>>,
    content: Vec<u8>,
}

impl Expected {
    pub(crate) fn of(bytes: &[u8], format: Format) -> Self {
        let image = format::open(Arc::new(bytes.to_vec()), Some(format)).unwrap();
        let free = free_ranges(&*image.disk, &scan(&*image.disk));
        assert!(total(&free) > 4 << 20, "the disk has too little free space to tell anything");
        let kept = kept_ranges(&free, image.disk.virtual_size_bytes());
        Self { format, content: read(&*image.disk, &kept), kept }
    }

    /// Tables without a contradiction, leaks at most, and every used byte in its place.
    pub(crate) fn assert_holds(&self, bytes: &[u8], what: &str) {
        let storage: Arc<dyn Storage> = Arc::new(bytes.to_vec());
        if self.format == Format::Qcow2 {
            let options = CheckOptions { md5: false, sha256: false, ..Default::default() };
            let report = check(Arc::clone(&storage), &options, &Control::default()).unwrap();
            let fine = [CheckOutcome::Consistent, CheckOutcome::Leaks].contains(&report.outcome);
            assert!(fine, "{what}: {:?}", report.findings);
        }
        let image = format::open(storage, Some(self.format)).unwrap();
        assert!(read(&*image.disk, &self.kept) == self.content, "{what}: used bytes are lost");
    }

    /// The peer agrees.
    pub(crate) fn assert_peer_agrees(&self, bytes: &[u8], scratch: &Path, what: &str) {
        if self.format != Format::Qcow2 {
            return;
        }
        let path = scratch.join("state.qcow2");
        std::fs::write(&path, bytes).unwrap();
        let status = run("qemu-img", &["check", "-q", text(&path)]).status.code();
        assert!([Some(0), Some(3)].contains(&status), "{what}: qemu-img check ended with {status:?}");
    }
}

/// The disk in every manner that changes how it is released.
pub(crate) fn variants(disk: &Path, scratch: &Path) -> Vec<(String, Vec<u8>, Format)> {
    let manners: [(&str, &[&str]); 12] = [
        ("v3", &[]),
        ("v2", &["-o", "compat=0.10"]),
        ("4k", &["-o", "cluster_size=4k"]),
        ("2m", &["-o", "cluster_size=2M"]),
        ("512, refcounts of 1 bit", &["-o", "cluster_size=512,refcount_bits=1"]),
        ("refcounts of 64 bits", &["-o", "refcount_bits=64"]),
        ("subclusters", &["-o", "extended_l2=on,cluster_size=64k"]),
        ("zlib", &["-c"]),
        ("zlib, 4k", &["-c", "-o", "cluster_size=4k"]),
        ("zlib, subclusters", &["-c", "-o", "extended_l2=on,cluster_size=32k"]),
        ("zstd", &["-c", "-o", "compression_type=zstd"]),
        ("preallocated", &["-o", "preallocation=metadata"]),
    ];
    let target = scratch.join("variant.qcow2");
    let mut all = vec![("raw".to_owned(), std::fs::read(disk).unwrap(), Format::Raw)];
    for (name, options) in manners {
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2"];
        arguments.extend(options);
        arguments.extend([text(disk), text(&target)]);
        run_ok("qemu-img", &arguments);
        all.push((name.to_owned(), std::fs::read(&target).unwrap(), Format::Qcow2));
    }
    all
}

pub(crate) fn punch_all(bytes: &[u8], format: Format) -> (InPlaceReport, Vec<Operation>) {
    let medium = Arc::new(Recorder::new(bytes.to_vec(), usize::MAX));
    let report = punch(Arc::clone(&medium) as Arc<dyn Medium>, Some(format), &Control::default()).unwrap();
    (report, medium.log())
}

pub(crate) fn copy(source: &Path, target: &Path) -> File {
    run_ok("cp", &["--sparse=always", "--no-preserve=mode", text(source), text(target)]);
    File::options().read(true).write(true).open(target).unwrap()
}
