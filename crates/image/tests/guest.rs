//! What is dropped from a guest: never a used byte, nearly every free one, and a reason for whatever is left alone.

#![allow(clippy::unwrap_used, missing_docs)]

mod peers;

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::Ext4;
use imageops_image::Control;
use imageops_image::compress::CompressOptions;
use imageops_image::disk::Disk;
use imageops_image::format::{self, Format};
use imageops_image::guest::{self, Layout, TableKind};
use imageops_image::reason;
use imageops_image::storage::Storage;
use peers::{compress_file, files, images, open, run, run_ok, text};

fn scan(disk: &dyn Disk) -> Layout {
    guest::scan(disk, &Control::default()).unwrap()
}

/// All free ranges, asked for in pieces of odd sizes, as threads do.
fn free_ranges(disk: &dyn Disk, layout: &Layout) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    let step = 777_216;
    for start in (0..disk.virtual_size_bytes()).step_by(step) {
        let range = start..(start + step as u64).min(disk.virtual_size_bytes());
        let mut free = Vec::new();
        layout.free_within(disk, range.clone(), &mut free).unwrap();
        for piece in free {
            assert!(piece.start < piece.end && range.start <= piece.start && piece.end <= range.end);
            match all.last_mut() {
                Some(last) if last.end == piece.start => last.end = piece.end,
                last => {
                    assert!(last.is_none_or(|last| last.end < piece.start));
                    all.push(piece);
                }
            }
        }
    }
    all
}

/// What the file system's own tool says is free.
fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
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

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Bytes of `ours` that are not in `theirs`, both ascending.
fn outside(ours: &[Range<u64>], theirs: &[Range<u64>]) -> u64 {
    let inside = |range: &Range<u64>| -> u64 {
        theirs.iter().map(|other| other.end.min(range.end).saturating_sub(other.start.max(range.start))).sum()
    };
    total(ours) - ours.iter().map(inside).sum::<u64>()
}

fn reasons(layout: &Layout) -> Vec<String> {
    let parts = layout.parts().iter().flat_map(|part| &part.summary().kept);
    layout.kept().iter().chain(parts).map(|kept| kept.reason.clone()).collect()
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

fn extract(disk: &dyn Disk, range: Range<u64>, target: &Path) {
    let file = File::create(target).unwrap();
    file.set_len(range.end - range.start).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for place in range.clone().step_by(buffer.len()) {
        let length = buffer.len().min((range.end - place) as usize);
        disk.read_at(&mut buffer[..length], place).unwrap();
        if buffer[..length].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buffer[..length], place - range.start).unwrap();
        }
    }
}

/// Every file with its content, by an independent reader.
fn tree(file_system: &Path) -> Option<Vec<(PathBuf, Vec<u8>)>> {
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
fn what_has_no_reader_is_named_and_kept() {
    let Some(directory) = images("what_has_no_reader_is_named_and_kept", &[]) else { return };
    let expected = [
        ("fs/btrfs-mixed.raw", "btrfs", reason::KEPT_NO_READER),
        ("fs/exfat.raw", "exfat", reason::KEPT_NO_READER),
        ("fs/fat12.raw", "fat", reason::KEPT_NO_READER),
        ("fs/fat16.raw", "fat", reason::KEPT_NO_READER),
        ("fs/fat32.raw", "fat", reason::KEPT_NO_READER),
        ("fs/ntfs.raw", "ntfs", reason::KEPT_NO_READER),
        ("fs/swap.raw", "swap", reason::KEPT_NO_READER),
        ("fs/swap-hibernated.raw", "swap", reason::KEPT_HIBERNATED),
        ("fs/unknown.raw", "unknown", reason::KEPT_UNKNOWN_CONTENT),
        ("fs/empty.raw", "unknown", reason::KEPT_UNKNOWN_CONTENT),
    ];
    for (name, content, why) in expected {
        let image = open(&directory.join(name));
        let layout = scan(&*image.disk);
        assert_eq!((layout.table(), layout.parts().len()), (None, 1), "{name}");
        assert_eq!(layout.parts()[0].summary().content, content, "{name}");
        assert_eq!(reasons(&layout), [why], "{name}");
    }
}

#[test]
fn partition_tables_are_read() {
    let Some(directory) = images("partition_tables_are_read", &[]) else { return };
    let contents = |name: &str| {
        let image = open(&directory.join(name));
        let layout = scan(&*image.disk);
        let parts = layout.parts().iter().map(|part| (part.summary().index, part.summary().content.clone()));
        (layout.table(), parts.collect::<Vec<_>>())
    };
    let list =
        |parts: &[(u32, &str)]| parts.iter().map(|(index, name)| (*index, (*name).to_owned())).collect();
    let logical = list(&[(1, "fat"), (5, "ext4"), (6, "swap")]);
    assert_eq!(contents("fs/mbr-logical.raw"), (Some(TableKind::Mbr), logical));
    for (name, root) in [("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("lvm", "lvm2")] {
        let parts = list(&[(1, "fat"), (2, root)]);
        assert_eq!(contents(&format!("debian-{name}.qcow2")), (Some(TableKind::Gpt), parts));
    }
    assert_eq!(contents("data-ntfs.qcow2"), (Some(TableKind::Mbr), list(&[(1, "ntfs")])));
}

/// A disk in memory, a base with some bytes changed.
struct Patched {
    base: Arc<dyn Disk>,
    bytes: Vec<(u64, u8)>,
    size: Option<u64>,
}

impl Disk for Patched {
    fn virtual_size_bytes(&self) -> u64 {
        self.size.unwrap_or(self.base.virtual_size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> imageops_image::Result<()> {
        self.base.read_at(buffer, offset)?;
        for (place, byte) in &self.bytes {
            if (offset..offset + buffer.len() as u64).contains(place) {
                buffer[(place - offset) as usize] = *byte;
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> imageops_image::Result<Option<imageops_image::disk::Extent>> {
        self.base.extent_at(offset)
    }
}

fn flipped(base: &Arc<dyn Disk>, place: u64, bit: u8) -> Patched {
    let mut byte = [0];
    base.read_at(&mut byte, place).unwrap();
    Patched { base: Arc::clone(base), bytes: vec![(place, byte[0] ^ 1 << bit)], size: None }
}

/// The same numbers at each run, so that a failure can be looked at again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
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
fn damaged_partition_tables_keep_all() {
    let Some(directory) = images("damaged_partition_tables_keep_all", &[]) else { return };
    let disk = open(&directory.join("debian-ext4.raw")).disk;
    let size = disk.virtual_size_bytes();
    let mut numbers = Numbers(1);
    for copy in [512..604, 1024..1280, size - 512..size - 420, size - 33 * 512..size - 33 * 512 + 256] {
        for _ in 0..40 {
            let place = copy.start + numbers.below(copy.end - copy.start);
            let damaged = flipped(&disk, place, numbers.below(8) as u8);
            let layout = scan(&damaged);
            assert!(free_ranges(&damaged, &layout).is_empty(), "byte {place}");
            assert!(!layout.kept().is_empty(), "byte {place}");
        }
    }
    // Cut short, so that the backup lies elsewhere.
    let short = Patched { base: Arc::clone(&disk), bytes: Vec::new(), size: Some(size - (1 << 20)) };
    assert!(free_ranges(&short, &scan(&short)).is_empty());
    // A hybrid table: one more entry beside the protective one.
    let entry = 446 + 16;
    let hybrid = [(entry + 4, 0x83), (entry + 9, 8), (entry + 13, 8)];
    let hybrid = Patched { base: Arc::clone(&disk), bytes: hybrid.to_vec(), size: None };
    let layout = scan(&hybrid);
    assert_eq!(reasons(&layout), [reason::KEPT_TABLE_CONFLICT]);
    assert!(free_ranges(&hybrid, &layout).is_empty());
}

#[test]
fn logical_partitions_that_loop_or_overlap_keep_all() {
    let Some(directory) = images("logical_partitions_that_loop_or_overlap_keep_all", &[]) else { return };
    let disk = open(&directory.join("fs/mbr-logical.raw")).disk;
    assert!(!free_ranges(&*disk, &scan(&*disk)).is_empty());
    let chain = 67_584 * 512 + 446;
    let word = |place: u64, value: u32| (place..).zip(value.to_le_bytes()).collect::<Vec<_>>();
    let damages = [
        word(chain + 16 + 8, 0),           // the link leads to itself
        word(chain + 16 + 8, 0x7fff_ffff), // … outside
        word(chain + 8, 0),                // a partition at its own table
        word(chain + 12, 0x0fff_ffff),     // a partition beyond the container
        word(446 + 12, 0x0010_0000),       // the first partition runs into the container
        word(446 + 16 + 12, 8),            // the container is too small
        word(chain + 64, 0),               // no signature in the chain
    ];
    for bytes in damages {
        let damaged = Patched { base: Arc::clone(&disk), bytes: bytes.clone(), size: None };
        let layout = scan(&damaged);
        assert!(free_ranges(&damaged, &layout).is_empty(), "{bytes:?}");
        assert_eq!(reasons(&layout), [reason::KEPT_TABLE_INVALID], "{bytes:?}");
    }
}

#[test]
fn a_second_signature_keeps_all() {
    let Some(directory) = images("a_second_signature_keeps_all", &[]) else { return };
    let disk = open(&directory.join("fs/ext4-4k.raw")).disk;
    let size = disk.virtual_size_bytes();
    let signatures: [(u64, &[u8]); 8] = [
        (0, b"XFSB"),
        (0, b"LUKS\xba\xbe"),
        (0x10040, b"_BHRfS_M"),
        (536, b"LVM2 001"),
        (4096, b"\xfc\x4e\x2b\xa9"),
        ((size / 512 - 16) / 8 * 8 * 512, b"\xfc\x4e\x2b\xa9"),
        (4086, b"SWAPSPACE2"),
        (131_072, b"\x0c\xb1\xba\0\0\0\0\0"),
    ];
    for (place, magic) in signatures {
        let bytes = (place..).zip(magic.iter().copied()).collect();
        let signed = Patched { base: Arc::clone(&disk), bytes, size: None };
        let layout = scan(&signed);
        assert_eq!(reasons(&layout), [reason::KEPT_TWO_SIGNATURES], "{magic:?}");
        assert!(free_ranges(&signed, &layout).is_empty());
    }
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

#[test]
fn noise_is_never_a_guest() {
    let mut numbers = Numbers(3);
    let kinds: BTreeSet<String> = (0..200)
        .map(|_| {
            let mut bytes: Vec<u8> = (0..300_000).map(|_| numbers.below(256) as u8).collect();
            // With the two bytes that invite a look at the rest.
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
            let storage: Arc<dyn Storage> = Arc::new(bytes);
            let disk = format::open(storage, Some(Format::Raw)).unwrap().disk;
            let layout = scan(&*disk);
            assert!(free_ranges(&*disk, &layout).is_empty());
            reasons(&layout).join(",")
        })
        .collect();
    assert!(!kinds.contains(""), "{kinds:?}");
}
