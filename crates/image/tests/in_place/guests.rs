//! Afterwards the guest has all its files, and the image nothing that it freed.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::compress::estimate;
use imageops_image::disk::Disk;
use imageops_image::format::{self, Format};
use imageops_image::in_place::punch_file;
use imageops_image::storage::FileStorage;

use crate::disk::{TOOLS, copy, junk_disk, kept_ranges, punch_all, variants};
use crate::medium::Operation;
use crate::peers::{format_of, images, open, run_ok, text};
use crate::proofs::{extract, free_ranges, outside, scan};

/// What the guests' file systems are checked and read with.
const CHECKERS: [&str; 7] = ["qemu-img", "e2fsck", "debugfs", "diff", "fsck.fat", "fsck.exfat", "btrfs"];

/// Guests of the set in all the manners that matter, and some of which nothing can be given back.
const GUESTS: [&str; 25] = [
    "debian-ext4.qcow2",
    "debian-btrfs.qcow2",
    "debian-lvm.qcow2",
    "debian-xfs.qcow2",
    "data-ntfs.qcow2",
    "fs/ext2-1k.raw",
    "fs/ext4-1k.raw",
    "fs/ext4-bigalloc.raw",
    "fs/ext4-needs-recovery.raw",
    "fs/exfat.raw",
    "fs/fat16.raw",
    "fs/mbr-logical.raw",
    "fs/swap.raw",
    "fs/unknown.raw",
    "variants/v2.qcow2",
    "variants/v3-512.qcow2",
    "variants/v3-4k.qcow2",
    "variants/extl2.qcow2",
    "variants/zlib-4k.qcow2",
    "variants/zlib-ooo.qcow2",
    "variants/zlib-extl2.qcow2",
    "variants/zstd.qcow2",
    "variants/zeros.qcow2",
    "variants/empty.qcow2",
    "variants/huge-virtual.qcow2",
];

#[test]
fn every_guest_keeps_all_that_it_uses() {
    let test = "every_guest_keeps_all_that_it_uses";
    let Some(directory) = images(test, &CHECKERS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (target, left, right) =
        (scratch.path().join("image"), scratch.path().join("left"), scratch.path().join("right"));
    let mut changed = 0;
    for source in GUESTS.map(|name| directory.join(name)) {
        let format = format_of(&source);
        let before = open(&source);
        let told = estimate(&before, true, &Control::default()).unwrap();
        let file = copy(&source, &target);
        let report = punch_file(file, Some(format), &Control::default())
            .unwrap_or_else(|error| panic!("{}: {error}", source.display()));
        let sum: u64 = report.parts.iter().map(|part| part.dropped_bytes).sum();
        assert_eq!(report.dropped_bytes, sum, "{}", source.display());
        assert!(report.dropped_bytes + report.left_bytes <= told.dropped_bytes, "{}", source.display());
        assert!(report.after_bytes <= report.before_bytes, "{}", source.display());

        let after = peers_open(&target, format);
        let size = before.disk.virtual_size_bytes();
        assert_eq!(after.virtual_size_bytes(), size);
        let free = free_ranges(&*before.disk, &scan(&*before.disk));
        assert_eq!(free, free_ranges(&*after, &scan(&*after)), "{}", source.display());
        if size < 1 << 32 {
            compare(&*before.disk, &*after, &kept_ranges(&free, size), &source);
        }
        if format == Format::Qcow2 {
            run_ok("qemu-img", &["check", "-q", "-f", "qcow2", text(&target)]);
        }
        if report.dropped_bytes == 0 {
            continue;
        }
        changed += 1;
        let again = File::options().read(true).write(true).open(&target).unwrap();
        let again = punch_file(again, Some(format), &Control::default()).unwrap();
        if format == Format::Qcow2 {
            // Holes inside clusters that stay are punched again, since the tables do not know them.
            assert!(again.dropped_bytes < report.dropped_bytes || report.before_bytes == report.after_bytes);
        } else {
            assert_eq!(again.dropped_bytes, 0, "{}", source.display());
        }
        for part in report.parts.iter().map(|part| &part.part) {
            let range = part.start_bytes..part.start_bytes + part.length_bytes;
            extract(&*before.disk, range.clone(), &left);
            extract(&*after, range, &right);
            match part.content.as_str() {
                "ext2" | "ext3" | "ext4" => {
                    run_ok("e2fsck", &["-fn", text(&right)]);
                    assert_same_files(&left, &right, scratch.path());
                }
                content if content.starts_with("fat") => drop(run_ok("fsck.fat", &["-n", text(&right)])),
                "exfat" => drop(run_ok("fsck.exfat", &["-n", text(&right)])),
                "btrfs" => drop(run_ok("btrfs", &["check", text(&right)])),
                _ => {}
            }
        }
    }
    assert!(changed > 12, "{changed} images are too few");
}

fn peers_open(path: &Path, format: Format) -> Arc<dyn Disk> {
    let storage = FileStorage::new(File::open(path).unwrap()).unwrap();
    format::open(Arc::new(storage), Some(format)).unwrap().disk
}

fn compare(before: &dyn Disk, after: &dyn Disk, kept: &[Range<u64>], source: &Path) {
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for range in kept {
        for start in range.clone().step_by(left.len()) {
            let length = ((range.end - start) as usize).min(left.len());
            before.read_at(&mut left[..length], start).unwrap();
            after.read_at(&mut right[..length], start).unwrap();
            assert!(left[..length] == right[..length], "{}: differs from {start}", source.display());
        }
    }
}

/// Both ext file systems hold the same files, to their own debugger.
fn assert_same_files(left: &Path, right: &Path, scratch: &Path) {
    let trees = [scratch.join("a"), scratch.join("b")];
    for (file_system, tree) in [left, right].iter().zip(&trees) {
        std::fs::create_dir(tree).unwrap();
        run_ok("debugfs", &["-R", &format!("rdump / {}", text(tree)), text(file_system)]);
    }
    run_ok("diff", &["-r", "--no-dereference", text(&trees[0]), text(&trees[1])]);
    for tree in trees {
        std::fs::remove_dir_all(tree).unwrap();
    }
}

/// Nearly all that compress would drop is given back, and no more than that.
#[test]
fn it_gives_back_what_compress_would_drop() {
    let test = "it_gives_back_what_compress_would_drop";
    if images(test, &TOOLS).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = junk_disk(scratch.path(), 4096);
    for (name, original, format) in variants(&disk, scratch.path()) {
        let image = format::open(Arc::new(original.clone()), Some(format)).unwrap();
        let told = estimate(&image, true, &Control::default()).unwrap();
        let (report, log) = punch_all(&original, format);
        assert_eq!(report.dropped_bytes + report.left_bytes, told.dropped_bytes, "{name}");
        // Compressed clusters go as a whole or not at all.
        let least = if name.starts_with('z') { 90 } else { 98 };
        assert!(report.dropped_bytes * 100 >= told.dropped_bytes * least, "{name}: {report:?}");
        let holes: Vec<_> = log.iter().filter_map(Operation::hole).collect();
        if format == Format::Raw {
            let free = free_ranges(&*image.disk, &scan(&*image.disk));
            assert_eq!(outside(&holes, &free), 0);
        }
        assert!(holes.iter().all(|hole| hole.start < hole.end), "{name}");
    }
}
