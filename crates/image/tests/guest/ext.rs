//! ext2, ext3 and ext4, against the tools of e2fsprogs and an independent reader.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ext4_view::Ext4;
use imageops_image::compress::CompressOptions;
use imageops_image::reason;

use crate::peers::{compress_file, files, images, open, run, run_ok, text};
use crate::proofs::{Numbers, Patched, extract, flipped, free_ranges, outside, reasons, scan, total};

/// What the file system's own tool says is free.
pub(crate) fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
    let text = run_ok("dumpe2fs", &[text(file_system)]);
    let number = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split(':').nth(1).unwrap().trim().parse::<u64>().unwrap()
    };
    let block = number("Block size:");
    // With bigalloc the last number of a range is the first block of its last cluster.
    let cluster = if text.contains("\nCluster size:") { number("Cluster size:") } else { block };
    let end = number("Block count:") * block;
    let mut ranges = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for piece in line.split(", ").filter(|piece| !piece.is_empty()) {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
            ranges.push(first * block..(last * block + cluster).min(end));
        }
    }
    ranges
}

const UNSAFE: [(&str, &str); 3] = [
    ("ext4-needs-recovery", reason::KEPT_NEEDS_RECOVERY),
    ("ext4-error-state", reason::KEPT_ERROR_STATE),
    ("ext4-bad-bitmap-csum", reason::KEPT_CHECKSUM),
];

/// Every sound ext file system of the set, as a file of its own.
fn sound(directory: &Path, scratch: &Path) -> Vec<PathBuf> {
    let mut all = files(&directory.join("fs"), &["raw"]);
    all.retain(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        name.starts_with("ext") && name != "exfat" && UNSAFE.iter().all(|(other, _)| name != *other)
    });
    for name in ["debian-ext4.raw", "fs/mbr-logical.raw"] {
        let image = open(&directory.join(name));
        let layout = scan(&*image.disk);
        let part = layout.parts().iter().find(|part| part.summary().content == "ext4").unwrap().summary();
        let target = scratch.join(format!("{}.part", name.replace('/', "-")));
        extract(&*image.disk, part.start_bytes..part.start_bytes + part.length_bytes, &target);
        all.push(target);
    }
    assert!(all.len() >= 10);
    all
}

/// Every file with its content, by an independent reader.
pub(crate) fn tree(file_system: &Path) -> Option<Vec<(PathBuf, Vec<u8>)>> {
    let ext4 = Ext4::load_from_path(file_system).ok()?;
    let mut files = Vec::new();
    let mut pending = vec![PathBuf::from("/")];
    while let Some(directory) = pending.pop() {
        for entry in ext4.read_dir(directory.to_str().unwrap()).unwrap() {
            let entry = entry.unwrap();
            let path = PathBuf::from(entry.path().to_str().unwrap());
            if [&b"."[..], b".."].contains(&entry.file_name().as_ref()) {
                continue;
            }
            let kind = entry.file_type().unwrap();
            let place = path.to_str().unwrap();
            let content = if kind.is_symlink() {
                ext4.read_link(place).unwrap().as_ref().to_vec()
            } else if kind.is_regular_file() {
                // This reader takes a hole in an ext2 block map for damage, before and after; debugfs reads it below.
                ext4.read(place).unwrap_or_else(|error| error.to_string().into())
            } else {
                if kind.is_dir() {
                    pending.push(path.clone());
                }
                Vec::new()
            };
            files.push((path, content));
        }
    }
    files.sort();
    Some(files)
}

/// The same through the file system's own debugger.
fn dumped(file_system: &Path, target: &Path) {
    std::fs::create_dir(target).unwrap();
    run_ok("debugfs", &["-R", &format!("rdump / {}", text(target)), text(file_system)]);
}

#[test]
fn ext_drops_what_dumpe2fs_calls_free_and_loses_no_file() {
    let test = "ext_drops_what_dumpe2fs_calls_free_and_loses_no_file";
    let Some(directory) = images(test, &["qemu-img", "dumpe2fs", "e2fsck", "debugfs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for source in sound(&directory, scratch.path()) {
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{}", source.display());
        let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(&source));
        assert_eq!(total(&ours), layout.parts()[0].summary().free_bytes, "{}", source.display());
        assert_eq!(outside(&ours, &theirs), 0, "{}: a used block would be dropped", source.display());
        assert!(total(&ours) * 100 >= total(&theirs) * 98, "{}", source.display());

        let name = source.file_stem().unwrap().to_str().unwrap();
        let (packed, raw) = (scratch.path().join("out.qcow2"), scratch.path().join(format!("{name}.out")));
        compress_file(&source, &packed, &CompressOptions::default()).unwrap();
        run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
        run_ok("e2fsck", &["-fn", text(&raw)]);
        let before = tree(&source);
        if before.is_some() {
            assert!(before.as_ref().is_some_and(|files| files.len() > 10));
            assert!(before == tree(&raw), "{}: files differ", source.display());
        } else {
            // Features that this reader does not know; debugfs reads all of them below.
            assert!(!name.starts_with("ext4") || ["ext4-inline", "ext4-sparse2"].contains(&name), "{name}");
        }
        let (left, right) =
            (scratch.path().join(format!("{name}.a")), scratch.path().join(format!("{name}.b")));
        dumped(&source, &left);
        dumped(&raw, &right);
        run_ok("diff", &["-r", "--no-dereference", text(&left), text(&right)]);
    }
}

#[test]
fn unsafe_file_systems_are_kept_with_the_reason() {
    let Some(directory) = images("unsafe_file_systems_are_kept_with_the_reason", &[]) else { return };
    for (name, expected) in UNSAFE {
        let image = open(&directory.join(format!("fs/{name}.raw")));
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), [expected], "{name}");
        assert!(free_ranges(&*image.disk, &layout).is_empty(), "{name}");
    }
}

#[test]
fn a_flipped_bit_never_drops_a_used_block() {
    let test = "a_flipped_bit_never_drops_a_used_block";
    let Some(directory) = images(test, &["dumpe2fs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (mut flips, mut noticed) = (0, 0);
    for source in sound(&directory, scratch.path()) {
        let disk = open(&source).disk;
        let theirs = peer_free(&source);
        let layout = run_ok("dumpe2fs", &[text(&source)]);
        let block = layout.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap().trim();
        let block: u64 = block.parse().unwrap();
        // Superblock, the first descriptors, and each bitmap in turn.
        let mut places = vec![1024..2048, block.max(2048)..block.max(2048) + 512];
        places.extend(layout.lines().filter_map(|line| {
            let number = line.trim().strip_prefix("Block bitmap at ")?;
            let number: u64 = number.split([' ', ',']).next()?.parse().ok()?;
            Some(number * block..(number + 1) * block)
        }));
        let before = total(&free_ranges(&*disk, &scan(&*disk)));
        let mut numbers = Numbers(flips);
        for turn in 0..120 {
            let range = &places[if turn % 3 < 2 { turn % 3 } else { 2 + turn / 3 % (places.len() - 2) }];
            let place = range.start + numbers.below(range.end - range.start);
            let damaged = flipped(&disk, place, numbers.below(8) as u8);
            let layout = scan(&damaged);
            let ours = free_ranges(&damaged, &layout);
            assert_eq!(outside(&ours, &theirs), 0, "{}: bit of byte {place}", source.display());
            flips += 1;
            noticed += u64::from(total(&ours) < before);
        }
    }
    assert!(flips >= 500);
    // Half hits fields that do not matter here (times, names, inode figures); the test is void if nothing is noticed.
    assert!(noticed > flips / 4, "{noticed} of {flips} flips were noticed");
}

#[test]
fn a_multi_mount_block_in_use_keeps_all() {
    let Some(_) = images("a_multi_mount_block_in_use_keeps_all", &["mke2fs", "debugfs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("mmp.raw");
    run_ok("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "mmp", text(&source), "40M"]);
    let image = open(&source);
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), Vec::<String>::new());
    assert_eq!(outside(&free_ranges(&*image.disk, &layout), &peer_free(&source)), 0);
    let dump = run_ok("dumpe2fs", &["-h", text(&source)]);
    let block = dump.lines().find_map(|line| line.strip_prefix("MMP block number:")).unwrap();
    let place = block.trim().parse::<u64>().unwrap() * 1024;
    let place = if dump.contains("Block size:               4096") { place * 4 } else { place };
    let used =
        Patched { base: image.disk, bytes: (place + 4..).zip(1_u32.to_le_bytes()).collect(), size: None };
    assert_eq!(reasons(&scan(&used)), [reason::KEPT_CHECKSUM]);
}

/// File systems that the set does not have: every place where groups differ.
#[test]
fn unusual_geometries_agree_with_dumpe2fs() {
    let Some(_) = images("unusual_geometries_agree_with_dumpe2fs", &["mke2fs", "dumpe2fs", "e2fsck"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let kinds: [&[&str]; 14] = [
        &["-t", "ext2", "-b", "1024", "-O", "^sparse_super,^resize_inode", "100M"],
        &["-t", "ext2", "-r", "0", "100M"],
        &["-t", "ext3", "-b", "2048", "-g", "8184", "300M"],
        &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192", "500M"],
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc,^metadata_csum,uninit_bg", "-C", "65536", "3G"],
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "600M"],
        &["-t", "ext4", "-b", "4096", "-O", "meta_bg,^resize_inode,^flex_bg", "9G"],
        &["-t", "ext4", "-b", "4096", "-O", "^64bit,^flex_bg,^metadata_csum,uninit_bg", "9G"],
        &["-t", "ext4", "-b", "4096", "-O", "sparse_super2", "2G"],
        &["-t", "ext4", "-b", "4096", "-g", "4096", "700M"],
        &["-t", "ext4", "-b", "4096", "-G", "64", "20G"],
        &["-t", "ext4", "-b", "65536", "8G"],
        &["-t", "ext4", "-b", "4096", "-O", "mmp,quota,project,orphan_file", "1G"],
        &["-t", "ext4", "-b", "1024", "-E", "packed_meta_blocks=1", "1000001k"],
    ];
    for kind in kinds {
        let _ = std::fs::remove_file(&source);
        let (size, options) = kind.split_last().unwrap();
        let mut arguments = vec!["-q", "-F", "-E", "lazy_itable_init=1,nodiscard"];
        if options.contains(&"-E") {
            arguments.truncate(2);
        }
        arguments.extend(options);
        arguments.extend([text(&source), size]);
        if !run("mke2fs", &arguments).status.success() {
            // Older tools do not know every feature; the peers of today do.
            eprintln!("mke2fs does not make {kind:?}");
            continue;
        }
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{kind:?}");
        let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(&source));
        assert_eq!(outside(&ours, &theirs), 0, "{kind:?}");
        assert_eq!(outside(&theirs, &ours), 0, "{kind:?}");
    }
}
