//! exFAT, against fsck.exfat, dump.exfat and the Sleuth Kit.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imageops_image::compress::CompressOptions;
use imageops_image::disk::Disk;
use imageops_image::guest::Layout;
use imageops_image::reason;

use crate::exfat_maker::{Maker, sign};
use crate::peers::{compress_file, images, open, run_ok, text};
use crate::proofs::{Numbers, Patched, flipped, free_ranges, junk, outside, reasons, scan, total};

const TOOLS: [&str; 6] = ["mkfs.exfat", "fsck.exfat", "dump.exfat", "blkls", "tsk_recover", "qemu-img"];

/// What an independent reader finds free, sector by sector; the file system's own tool must count as much.
fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
    const SECTOR: u64 = 512;
    let dump = run_ok("dump.exfat", &[text(file_system)]);
    let number = |name: &str| {
        let line = dump.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let cluster = number("Cluster size:");
    // Behind the last cluster there may be sectors that are none's, which the list has too.
    let end = number("Cluster Heap Offset (sector offset):") * SECTOR + number("Cluster Count:") * cluster;
    let list = run_ok("blkls", &["-f", "exfat", "-l", text(file_system)]);
    let mut free: Vec<Range<u64>> = Vec::new();
    for sector in list.lines().filter_map(|line| line.strip_suffix("|f")) {
        let start = sector.parse::<u64>().unwrap() * SECTOR;
        match free.last_mut() {
            _ if start >= end => {}
            Some(last) if last.end == start => last.end += SECTOR,
            _ => free.push(start..start + SECTOR),
        }
    }
    assert_eq!(total(&free), number("Free Clusters:") * cluster);
    free
}

fn content(length: usize) -> Vec<u8> {
    let mut numbers = Numbers(length as u64);
    (0..length).map(|_| 1 + numbers.below(255) as u8).collect()
}

/// Files in one piece and as chains, in directories, and some that were deleted, on a device that was full before.
fn make(target: &Path, size: u64, arguments: &[&str]) -> Maker {
    junk(target, size);
    run_ok("mkfs.exfat", &[arguments, &[text(target)]].concat());
    let mut maker = Maker::new(target);
    let unit = maker.cluster;
    let mut root = maker.root();
    let mut inner = maker.directory(&mut root, "dir");
    let mut deepest = maker.directory(&mut inner, "A directory with a long name");
    maker.file(&mut inner, "whole", &content(unit * 4), 1);
    maker.file(&mut inner, "chain", &content(unit * 9 + 5), 3);
    maker.file(&mut deepest, "chain in the gaps.bin", &content(unit * 11), 2);
    maker.file(&mut deepest, "nothing", &[], 1);
    let gone = maker.file(&mut deepest, "gone", &content(unit * 7), 1);
    maker.free(&gone);
    maker.delete_last(deepest, 3);
    maker.file(&mut root, "one", &[1], 1);
    maker.write(target);
    run_ok("fsck.exfat", &["-n", text(target)]);
    maker
}

fn recovered(file_system: &Path, target: &Path) -> usize {
    let _ = std::fs::remove_dir_all(target);
    run_ok("tsk_recover", &["-f", "exfat", "-a", text(file_system), text(target)]);
    run_ok("find", &[text(target)]).lines().count()
}

/// All three: nothing used is dropped, the checker finds nothing, every file is the same.
fn prove(source: &Path, scratch: &Path, what: &str) -> u64 {
    let image = open(source);
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), Vec::<String>::new(), "{what}");
    assert_eq!(layout.parts()[0].summary().content, "exfat");
    let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(source));
    assert_eq!(total(&ours), layout.parts()[0].summary().free_bytes, "{what}");
    assert_eq!((outside(&ours, &theirs), outside(&theirs, &ours)), (0, 0), "{what}");

    let (packed, raw) = (scratch.join("out.qcow2"), scratch.join("out.raw"));
    compress_file(source, &packed, &CompressOptions::default()).unwrap();
    run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
    run_ok("fsck.exfat", &["-n", text(&raw)]);
    let (before, after) = (scratch.join("before"), scratch.join("after"));
    let count = recovered(source, &before);
    recovered(&raw, &after);
    run_ok("diff", &["-r", text(&before), text(&after)]);
    count as u64
}

#[test]
fn exfat_drops_what_no_file_uses_and_loses_no_file() {
    let Some(directory) = images("exfat_drops_what_no_file_uses_and_loses_no_file", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    prove(&directory.join("fs/exfat.raw"), scratch.path(), "the empty one of the set");
    let source = scratch.path().join("fs.raw");
    let kinds: [(&[&str], u64); 6] = [
        (&[], 8),
        (&["-c", "512"], 3),
        (&["-c", "1K", "-L", "some label"], 5),
        (&["-c", "64K"], 40),
        (&["-c", "2M", "-b", "4M"], 200),
        (&["-c", "8K", "--pack-bitmap"], 20),
    ];
    for (arguments, mebibytes) in kinds {
        // Not all clusters fill a whole byte of the bitmap.
        make(&source, (mebibytes << 20) + 13 * 512, arguments);
        let count = prove(&source, scratch.path(), &format!("{arguments:?}"));
        assert!(count >= 8, "{arguments:?}: {count} files and directories");
        let label = arguments.contains(&"-L").then(|| "some label".to_owned());
        assert_eq!(scan(&*open(&source).disk).parts()[0].summary().label, label);
    }
}

#[test]
fn a_flipped_bit_never_drops_a_used_cluster() {
    let Some(_) = images("a_flipped_bit_never_drops_a_used_cluster", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let (mut flips, mut noticed) = (0_u64, 0_u64);
    for arguments in [&["-c", "512"][..], &["-c", "4K"]] {
        let maker = make(&source, 4 << 20, arguments);
        let disk = open(&source).disk;
        let theirs = peer_free(&source);
        let before = total(&free_ranges(&*disk, &scan(&*disk)));
        let root = maker.root_place() as u64;
        let data = maker.data as u64;
        let places = [
            0..12 * 512,
            maker.table as u64..maker.table as u64 + 300,
            maker.bitmap as u64..maker.bitmap as u64 + 24,
            root..root + 448,
            // Directories, and the files between them.
            data..data + 64 * maker.cluster as u64,
        ];
        let mut numbers = Numbers(flips);
        for turn in 0..1000 {
            let range = &places[turn % places.len()];
            let place = range.start + numbers.below(range.end - range.start);
            let damaged = flipped(&disk, place, numbers.below(8) as u8);
            let ours = free_ranges(&damaged, &scan(&damaged));
            assert_eq!(outside(&ours, &theirs), 0, "{arguments:?}: bit of byte {place}");
            flips += 1;
            noticed += u64::from(total(&ours) < before);
        }
        // Each bit of the bitmap by itself: no other structure is as easy to get wrong.
        for bit in 0..8 * 60 {
            let damaged = flipped(&disk, maker.bitmap as u64 + bit / 8, (bit % 8) as u8);
            let ours = free_ranges(&damaged, &scan(&damaged));
            assert_eq!(outside(&ours, &theirs), 0, "{arguments:?}: bit {bit} of the bitmap");
            assert!(total(&ours) < before);
        }
    }
    assert_eq!(flips, 2000);
    assert!(noticed > flips / 2, "{noticed} of {flips} flips were noticed");
}

fn patched(base: &Arc<dyn Disk>, bytes: Vec<(u64, u8)>) -> (Patched, Layout) {
    let disk = Patched { base: Arc::clone(base), bytes, size: None };
    let layout = scan(&disk);
    (disk, layout)
}

fn word(place: usize, value: u32) -> Vec<(u64, u8)> {
    (place as u64..).zip(value.to_le_bytes()).collect()
}

#[test]
fn every_skip_condition_keeps_all() {
    let Some(_) = images("every_skip_condition_keeps_all", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let maker = make(&source, 8 << 20, &[]);
    let disk = open(&source).disk;
    let root = maker.root_place();
    let entry = |kind: u8| {
        let mut head = vec![0; 2048];
        disk.read_at(&mut head, root as u64).unwrap();
        root + 32 * head.chunks(32).position(|entry| entry[0] == kind).unwrap()
    };
    let (bitmap, upper_case, directory) = (entry(0x81), entry(0x82), entry(0x85));
    let (geometry, unknown) = (reason::KEPT_GEOMETRY, reason::KEPT_UNKNOWN_FEATURE);
    // The set of entries of the first directory, changed and signed again.
    let set = |place: usize, bytes: &[u8]| {
        let mut set = vec![0; 96];
        disk.read_at(&mut set, directory as u64).unwrap();
        set[place..place + bytes.len()].copy_from_slice(bytes);
        sign(&mut set);
        (directory as u64..).zip(set).collect::<Vec<_>>()
    };
    let at = |place: usize, byte: u8| vec![(place as u64, byte)];
    let root_cluster = ((root - maker.data) / maker.cluster + 2) as u32;
    let damages: Vec<(Vec<(u64, u8)>, &str)> = vec![
        (at(106, 2), reason::KEPT_NOT_CLEAN),
        (at(106, 4), reason::KEPT_ERROR_STATE),
        (at(106, 1), unknown),
        (at(92, 1), reason::KEPT_CHECKSUM),
        (at(11 * 512 + 9, 1), reason::KEPT_CHECKSUM),
        (at(108, 13), geometry),
        // Tables of the root directory that are missing, named twice, not known or of another size.
        (at(bitmap, 0x01), geometry),
        (at(upper_case, 0x02), geometry),
        (at(upper_case, 0x81), geometry),
        (at(upper_case, 0xa1), unknown),
        (at(upper_case, 0x86), unknown),
        (at(bitmap + 1, 1), unknown),
        (at(bitmap + 24, 0xff), geometry),
        (word(bitmap + 20, 1), geometry),
        (word(bitmap + 20, root_cluster), geometry),
        // The chain of the root directory ends nowhere, in a loop, or among the bad clusters.
        (word(maker.table + root_cluster as usize * 4, 0), geometry),
        (word(maker.table + root_cluster as usize * 4, root_cluster), geometry),
        (word(maker.table + root_cluster as usize * 4, 0xffff_fff7), geometry),
        // A directory whose set is damaged, lies elsewhere, on itself, or has tables that only the root may have.
        (at(directory + 40, 1), reason::KEPT_CHECKSUM),
        (at(directory + 1, 1), geometry),
        (at(directory + 1, 19), geometry),
        (set(32, &[0xc1]), geometry),
        (set(64, &[0xc2]), unknown),
        (set(64, &[0x41]), geometry),
        (set(52, &[0; 4]), geometry),
        (set(52, &root_cluster.to_le_bytes()), geometry),
        (set(52, &u32::MAX.to_le_bytes()), geometry),
        (set(56, &u64::MAX.to_le_bytes()), geometry),
        (set(56, &(1_u64 << 40).to_le_bytes()), geometry),
        (set(33, &[1]), geometry),
        (at(maker.bitmap, 0), reason::KEPT_FREE_COUNT),
    ];
    for (bytes, expected) in damages {
        let (disk, layout) = patched(&disk, bytes.clone());
        assert_eq!(reasons(&layout), [expected], "{bytes:?}");
        assert!(free_ranges(&disk, &layout).is_empty(), "{bytes:?}");
    }
    let size = Some(disk.virtual_size_bytes() - 512);
    assert_eq!(reasons(&scan(&Patched { base: disk, bytes: Vec::new(), size })), [geometry]);
}

/// The table says nothing of a file in one piece; a cluster that only the bitmap calls used is kept.
#[test]
fn a_cluster_that_only_the_bitmap_calls_used_is_kept() {
    let Some(_) = images("a_cluster_that_only_the_bitmap_calls_used_is_kept", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let mut maker = make(&source, 8 << 20, &[]);
    let mut root = maker.root();
    let lost = maker.file(&mut root, "lost", &content(3 * maker.cluster), 1);
    maker.delete_last(root, 3);
    maker.write(&source);
    let disk = open(&source).disk;
    let layout = scan(&*disk);
    assert_eq!(reasons(&layout), Vec::<String>::new());
    let place = maker.place(lost[0]) as u64;
    let kept = place..place + 3 * maker.cluster as u64;
    let free = free_ranges(&*disk, &layout);
    assert_eq!(outside(std::slice::from_ref(&kept), &free), kept.end - kept.start);
}
