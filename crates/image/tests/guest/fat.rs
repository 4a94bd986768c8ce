//! FAT12, FAT16 and FAT32, against fsck.fat and mtools, which walks over the directories.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imageops_image::compress::CompressOptions;
use imageops_image::disk::Disk;
use imageops_image::guest::Layout;
use imageops_image::reason;

use crate::peers::{compress_file, images, open, run_ok, text};
use crate::proofs::{Numbers, Patched, extract, flipped, free_ranges, junk, outside, reasons, scan, total};

const TOOLS: [&str; 7] = ["mkfs.vfat", "fsck.fat", "mcopy", "mdir", "minfo", "mshowfat", "qemu-img"];

/// mtools; it refuses sizes that it would not choose itself unless told not to look.
fn mtools(tool: &str, file_system: &Path, arguments: &[&str]) -> String {
    run_ok("env", &[&["MTOOLS_SKIP_CHECK=1", tool, "-i", text(file_system)], arguments].concat())
}

/// Sizes by minfo, in bytes but for the clusters.
struct Sizes {
    data_start: u64,
    cluster_bytes: u64,
    clusters: u64,
}

fn sizes(file_system: &Path) -> Sizes {
    let info = mtools("minfo", file_system, &["::"]);
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |rest| rest.split_whitespace().next().unwrap().parse::<u64>().unwrap())
    };
    let sector = number("sector size:");
    let root = number("max available root directory slots:") * 32 / sector;
    let table = number("sectors per fat:") + number("Big fatlen=");
    let data = number("reserved (boot) sectors:") + number("fats:") * table + root;
    let sectors = number("small size:") + number("big size:");
    let cluster = number("cluster size:");
    Sizes { data_start: data * sector, cluster_bytes: cluster * sector, clusters: (sectors - data) / cluster }
}

/// What no file and no directory uses, by mtools; `fsck.fat` must count as many.
fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
    let Sizes { data_start, cluster_bytes, clusters } = sizes(file_system);
    let list = mtools("mdir", file_system, &["-/", "-b", "-a", "::"]);
    let paths: Vec<&str> = list.lines().map(|line| line.trim_end_matches('/')).collect();
    let chains = mtools("mshowfat", file_system, &[&["::/"], &paths[..]].concat());
    let mut used = BTreeSet::new();
    for piece in chains.split('<').skip(1).map(|piece| piece.split('>').next().unwrap()) {
        let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
        used.extend(first.parse::<u64>().unwrap()..=last.parse().unwrap());
    }
    let report = run_ok("fsck.fat", &["-n", text(file_system)]);
    assert!(report.contains(&format!(", {}/{clusters} clusters", used.len())), "{report}");
    let mut free: Vec<Range<u64>> = Vec::new();
    for cluster in (2..clusters + 2).filter(|cluster| !used.contains(cluster)) {
        let start = data_start + (cluster - 2) * cluster_bytes;
        match free.last_mut() {
            Some(last) if last.end == start => last.end += cluster_bytes,
            _ => free.push(start..start + cluster_bytes),
        }
    }
    free
}

/// A file system on a device that was full before, with files of all sizes in pieces and gaps between them.
fn make(target: &Path, size: u64, arguments: &[&str]) {
    junk(target, size);
    run_ok("mkfs.vfat", &[arguments, &["-i", "1234ABCD", text(target)]].concat());
    fill(target);
}

fn fill(file_system: &Path) {
    let unit = sizes(file_system).cluster_bytes.min(32 << 10) as usize;
    let scratch = tempfile::tempdir().unwrap();
    let copy = |length: usize, path: &str| {
        let file = scratch.path().join("file");
        let mut numbers = Numbers(length as u64);
        std::fs::write(&file, (0..length).map(|_| numbers.below(256) as u8).collect::<Vec<_>>()).unwrap();
        mtools("mcopy", file_system, &[text(&file), path]);
    };
    mtools("mmd", file_system, &["::dir", "::dir/inner", "::empty"]);
    for number in 0..12 {
        copy(unit * 3 / 2, &format!("::dir/small{number}"));
    }
    for number in 0..6 {
        mtools("mdel", file_system, &[&format!("::dir/small{}", number * 2)]);
    }
    copy(unit * 10 + 1, "::dir/inner/In the gaps that were left.bin");
    copy(unit * 4, "::whole clusters");
    copy(0, "::nothing");
    copy(unit * 5, "::gone");
    copy(1, "::behind");
    mtools("mdel", file_system, &["::gone"]);
}

/// File systems of the image set, as files of their own.
fn from_set(directory: &Path, scratch: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> =
        ["fat12", "fat16", "fat32"].map(|name| directory.join(format!("fs/{name}.raw"))).into();
    for (name, content) in [("debian-ext4.raw", "fat32"), ("fs/mbr-logical.raw", "fat16")] {
        let image = open(&directory.join(name));
        let layout = scan(&*image.disk);
        let part = layout.parts().iter().find(|part| part.summary().content == content).unwrap().summary();
        let target = scratch.join(format!("{}.part", name.replace('/', "-")));
        extract(&*image.disk, part.start_bytes..part.start_bytes + part.length_bytes, &target);
        all.push(target);
    }
    all
}

/// Every file and directory, copied out by mtools.
fn copied(file_system: &Path, target: &Path) -> u64 {
    let _ = std::fs::remove_dir_all(target);
    std::fs::create_dir(target).unwrap();
    mtools("mcopy", file_system, &["-s", "-n", "::", text(target)]);
    run_ok("find", &[text(target)]).lines().count() as u64
}

/// Compresses, and shows that every file is the same and that the checker finds nothing.
fn prove_files(source: &Path, scratch: &Path) {
    let (packed, raw) = (scratch.join("out.qcow2"), scratch.join("out.raw"));
    compress_file(source, &packed, &CompressOptions::default()).unwrap();
    run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
    run_ok("fsck.fat", &["-n", text(&raw)]);
    let (before, after) = (scratch.join("before"), scratch.join("after"));
    assert!(copied(source, &before) > 1);
    copied(&raw, &after);
    run_ok("diff", &["-r", text(&before), text(&after)]);
}

/// Compares what is dropped with what mtools finds unused, and returns both in bytes.
fn prove_free(source: &Path, what: &str) -> (u64, u64) {
    let image = open(source);
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), Vec::<String>::new(), "{what}");
    let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(source));
    assert_eq!(total(&ours), layout.parts()[0].summary().free_bytes, "{what}");
    assert_eq!(outside(&ours, &theirs), 0, "{what}: a used cluster would be dropped");
    assert!(total(&ours) * 100 >= total(&theirs) * 98, "{what}");
    (total(&ours), total(&theirs))
}

#[test]
fn fat_drops_what_no_file_uses_and_loses_no_file() {
    let Some(directory) = images("fat_drops_what_no_file_uses_and_loses_no_file", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for source in from_set(&directory, scratch.path()) {
        let (ours, theirs) = prove_free(&source, text(&source));
        assert_eq!(ours, theirs, "{}", source.display());
        prove_files(&source, scratch.path());
    }
}

/// Sizes that the set does not have: every place where the three kinds and their sectors and clusters differ.
#[test]
fn unusual_geometries_agree_with_mtools() {
    let Some(_) = images("unusual_geometries_agree_with_mtools", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let kinds: [(&[&str], u64, &str); 14] = [
        (&["-F", "12"], 1440, "fat12"),
        (&["-F", "12"], 2880, "fat12"),
        (&["-F", "12", "-r", "112"], 1000, "fat12"),
        (&["-F", "12", "-S", "4096"], 4000, "fat12"),
        (&["-F", "12", "-s", "1", "-f", "2"], 2047, "fat12"),
        (&["-F", "16", "-s", "1"], 8192, "fat16"),
        (&["-F", "16", "-s", "64"], 150_000, "fat16"),
        (&["-F", "16", "-S", "2048", "-s", "4"], 40_000, "fat16"),
        (&["-F", "16", "-R", "32"], 10_007, "fat16"),
        // A part of a track at the end, which is left alone.
        (&["-F", "16", "-a", "-g", "4/63"], 10_007, "fat16"),
        (&["-F", "32", "-f", "1"], 40_000, "fat32"),
        (&["-F", "32", "-R", "64", "-b", "12"], 40_001, "fat32"),
        (&["-F", "32", "-s", "2", "-h", "2048"], 70_000, "fat32"),
        (&["-F", "32", "-s", "1", "-S", "1024"], 70_000, "fat32"),
    ];
    for (arguments, kibibytes, content) in kinds {
        make(&source, kibibytes << 10, arguments);
        let what = format!("{arguments:?}");
        let (ours, theirs) = prove_free(&source, &what);
        assert!(ours == theirs || arguments.contains(&"-a"), "{what}");
        assert_eq!(scan(&*open(&source).disk).parts()[0].summary().content, content, "{what}");
        prove_files(&source, scratch.path());
    }
}

/// mtools takes a FAT32 of few clusters for a FAT16 without a root directory; Linux, Windows and fsck.fat do not.
#[test]
fn a_small_fat32_is_one() {
    let Some(_) = images("a_small_fat32_is_one", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    junk(&source, 8 << 20);
    run_ok("mkfs.vfat", &["-F", "32", "-s", "1", text(&source)]);
    let report = run_ok("fsck.fat", &["-n", text(&source)]);
    let figures = report.split("files, ").nth(1).unwrap().split(' ').next().unwrap();
    let (used, clusters) = figures.split_once('/').unwrap();
    let free = clusters.parse::<u64>().unwrap() - used.parse::<u64>().unwrap();
    let layout = scan(&*open(&source).disk);
    assert_eq!(layout.parts()[0].summary().content, "fat32");
    assert_eq!(layout.parts()[0].summary().free_bytes, free * 512);
}

#[test]
fn what_nothing_vouches_for_is_kept() {
    let Some(_) = images("what_nothing_vouches_for_is_kept", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let kinds: [(&[&str], &str); 4] = [
        (&["-F", "12", "-f", "1", "-s", "8"], reason::KEPT_FREE_COUNT),
        (&["-F", "16", "-f", "1", "-s", "2"], reason::KEPT_FREE_COUNT),
        (&["-F", "16", "-r", "480", "-s", "2"], reason::KEPT_GEOMETRY),
        (&["-F", "32", "-f", "1", "-s", "1"], reason::KEPT_FREE_COUNT),
    ];
    for (arguments, expected) in kinds {
        make_empty(&source, 8 << 20, arguments);
        let mut disk: Arc<dyn Disk> = open(&source).disk;
        if arguments.contains(&"32") {
            // The count of free clusters in the second sector is one off.
            disk = Arc::new(flipped(&disk, 512 + 488, 0));
        }
        let layout = scan(&*disk);
        assert_eq!(reasons(&layout), [expected], "{arguments:?}");
        assert!(free_ranges(&*disk, &layout).is_empty());
    }
    // Smaller than its device.
    make_empty(&source, 8 << 20, &["-F", "16", "-s", "2"]);
    let larger = Patched { base: open(&source).disk, bytes: Vec::new(), size: Some(9 << 20) };
    assert_eq!(reasons(&scan(&larger)), [reason::KEPT_GEOMETRY]);
}

fn make_empty(target: &Path, size: u64, arguments: &[&str]) {
    junk(target, size);
    run_ok("mkfs.vfat", &[arguments, &[text(target)]].concat());
}

#[test]
fn the_label_of_the_root_directory_counts() {
    let Some(directory) = images("the_label_of_the_root_directory_counts", &TOOLS) else { return };
    let label = |name: &str| {
        let layout = scan(&*open(&directory.join(name)).disk);
        layout.parts()[0].summary().label.clone()
    };
    assert_eq!(label("fs/fat16.raw"), None);
    assert_eq!(label("fs/fat32.raw").as_deref(), Some("EFI"));
    let base = open(&directory.join("fs/fat32.raw")).disk;
    let root = sizes(&directory.join("fs/fat32.raw")).data_start;
    let renamed = Patched { base, bytes: (root..).zip(*b"OTHER NAME ").collect(), size: None };
    assert_eq!(scan(&renamed).parts()[0].summary().label.as_deref(), Some("OTHER NAME"));
}

/// Where the structures of a file system lie: its boot sectors, and each copy of the table.
struct Places {
    boot: Vec<Range<u64>>,
    tables: Vec<Range<u64>>,
}

fn places(file_system: &Path) -> Places {
    let mut head = [0; 512];
    open(file_system).disk.read_at(&mut head, 0).unwrap();
    let number = |place: usize| u64::from(u16::from_le_bytes([head[place], head[place + 1]]));
    let (sector, reserved) = (number(11), number(14));
    let wide = number(22) == 0;
    let table = if wide { number(36) } else { number(22) } * sector;
    let tables = (0..u64::from(head[16])).map(|copy| reserved * sector + copy * table);
    let mut boot = vec![0..90, 510..512];
    if wide {
        boot.extend([number(50) * sector..number(50) * sector + 90, 512..516, 996..1004]);
    }
    Places { boot, tables: tables.map(|start| start..start + table).collect() }
}

#[test]
fn a_flipped_bit_never_drops_a_used_cluster() {
    let Some(directory) = images("a_flipped_bit_never_drops_a_used_cluster", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut sources: Vec<_> =
        ["fat12", "fat16", "fat32"].map(|name| directory.join(format!("fs/{name}.raw"))).into();
    for (name, arguments) in [("two", &["-F", "16", "-s", "4"][..]), ("one", &["-F", "32", "-f", "1"])] {
        let source = scratch.path().join(format!("{name}.raw"));
        make(&source, 36 << 20, arguments);
        sources.push(source);
    }
    let (mut flips, mut noticed) = (0_u64, 0_u64);
    for source in sources {
        let disk = open(&source).disk;
        let theirs = peer_free(&source);
        let before = total(&free_ranges(&*disk, &scan(&*disk)));
        let Places { boot, tables } = places(&source);
        let mut numbers = Numbers(flips);
        for turn in 0..420 {
            let boot_place = &boot[numbers.below(boot.len() as u64) as usize];
            let table = &tables[numbers.below(tables.len() as u64) as usize];
            // In turn: the boot sectors, entries of used clusters, entries anywhere.
            let place = match turn % 3 {
                0 => boot_place.start + numbers.below(boot_place.end - boot_place.start),
                1 => table.start + numbers.below(240),
                _ => table.start + numbers.below(table.end - table.start),
            };
            let damaged = flipped(&disk, place, numbers.below(8) as u8);
            let ours = free_ranges(&damaged, &scan(&damaged));
            assert_eq!(outside(&ours, &theirs), 0, "{}: bit of byte {place}", source.display());
            flips += 1;
            noticed += u64::from(total(&ours) < before);
        }
    }
    assert!(flips >= 2000);
    assert!(noticed > flips / 2, "{noticed} of {flips} flips were noticed");
}

/// Every single bit of the first entries of a table of which there is one copy.
#[test]
fn one_copy_of_the_table_is_held_against_the_count() {
    let Some(_) = images("one_copy_of_the_table_is_held_against_the_count", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 36 << 20, &["-F", "32", "-f", "1"]);
    let disk = open(&source).disk;
    let theirs = peer_free(&source);
    let table = places(&source).tables[0].start;
    for bit in 0..24 * 32 {
        let damaged = flipped(&disk, table + bit / 8, (bit % 8) as u8);
        let ours = free_ranges(&damaged, &scan(&damaged));
        assert_eq!(outside(&ours, &theirs), 0, "bit {bit}");
    }
}

fn patched(base: &Arc<dyn Disk>, bytes: &[(u64, u8)]) -> (Patched, Layout) {
    let disk = Patched { base: Arc::clone(base), bytes: bytes.to_vec(), size: None };
    let layout = scan(&disk);
    (disk, layout)
}

/// A file system, bytes that are changed in it, and the reason that this must give.
type Damage<'a> = (&'a Arc<dyn Disk>, Vec<(u64, u8)>, &'a str);

#[test]
fn every_skip_condition_keeps_all() {
    let Some(directory) = images("every_skip_condition_keeps_all", &TOOLS) else { return };
    let paths = ["fat12", "fat16", "fat32"].map(|name| directory.join(format!("fs/{name}.raw")));
    let [fat12, fat16, fat32] = [0, 1, 2].map(|index| open(&paths[index]).disk);
    let [tables12, tables16, tables32] = [0, 1, 2].map(|index| places(&paths[index]).tables);
    let (not_clean, error, geometry) =
        (reason::KEPT_NOT_CLEAN, reason::KEPT_ERROR_STATE, reason::KEPT_GEOMETRY);
    let second = |tables: &[Range<u64>]| tables[1].start;
    let damages: Vec<Damage<'_>> = vec![
        (&fat12, vec![(37, 1)], not_clean),
        (&fat12, vec![(37, 2)], error),
        (&fat16, vec![(37, 1)], not_clean),
        (&fat32, vec![(65, 1)], not_clean),
        (&fat32, vec![(65, 2)], error),
        (&fat16, vec![(tables16[0].start + 3, 0x7f)], not_clean),
        (&fat16, vec![(second(&tables16) + 3, 0xbf)], error),
        (&fat32, vec![(tables32[0].start + 7, 0x07)], not_clean),
        (&fat32, vec![(second(&tables32) + 7, 0x0b)], error),
        // The copies are not kept equal, by both boot sectors.
        (&fat32, vec![(40, 0x80), (6 * 512 + 40, 0x80)], reason::KEPT_UNKNOWN_FEATURE),
        (&fat32, vec![(40, 0x80)], geometry),
        (&fat32, vec![(42, 1), (6 * 512 + 42, 1)], geometry),
        (&fat32, vec![(50, 0)], geometry),
        (&fat32, vec![(86, b'X')], geometry),
        (&fat16, vec![(58, b'2')], geometry),
        (&fat12, vec![(21, 0xf0)], geometry),
        // The first chain leads to a free cluster, to none, and the table of FAT12 starts one sector further on.
        (&fat16, vec![(tables16[0].start + 4, 0x00), (tables16[0].start + 5, 0x20)], reason::KEPT_FREE_COUNT),
        (&fat16, vec![(tables16[0].start + 4, 0x01), (tables16[0].start + 5, 0x00)], geometry),
        (&fat16, vec![(14, 5)], geometry),
        (&fat12, vec![(14, 2)], geometry),
        (&fat12, vec![(tables12[1].start, 0)], geometry),
        // The root directory is free.
        (
            &fat32,
            vec![
                (tables32[0].start + 8, 0),
                (tables32[0].start + 9, 0),
                (tables32[0].start + 10, 0),
                (tables32[0].start + 11, 0),
            ],
            reason::KEPT_FREE_COUNT,
        ),
    ];
    for (base, bytes, expected) in damages {
        let (disk, layout) = patched(base, &bytes);
        assert_eq!(reasons(&layout), [expected], "{bytes:?}");
        assert!(free_ranges(&disk, &layout).is_empty(), "{bytes:?}");
    }
    for base in [fat12, fat16, fat32] {
        let size = Some(base.virtual_size_bytes() - 1);
        assert_eq!(reasons(&scan(&Patched { base, bytes: Vec::new(), size })), [geometry]);
    }
}

#[test]
fn a_cluster_that_one_copy_calls_used_is_kept_and_counted() {
    let test = "a_cluster_that_one_copy_calls_used_is_kept_and_counted";
    let Some(directory) = images(test, &TOOLS) else { return };
    let path = directory.join("fs/fat16.raw");
    let base = open(&path).disk;
    let Sizes { data_start, cluster_bytes, .. } = sizes(&path);
    let before = scan(&*base).parts()[0].summary().free_bytes;
    for table in places(&path).tables {
        // Clusters 1000 and 1001 are a chain in this copy alone.
        let entries = (table.start + 2000..).zip([0xe9, 0x03, 0xff, 0xff]).collect::<Vec<_>>();
        let (disk, layout) = patched(&base, &entries);
        let summary = layout.parts()[0].summary();
        assert_eq!(reasons(&layout), [reason::KEPT_FREE_COUNT]);
        assert_eq!((summary.kept[0].groups, before - summary.free_bytes), (2, 2 * cluster_bytes));
        let kept = data_start + 998 * cluster_bytes..data_start + 1000 * cluster_bytes;
        let free = free_ranges(&disk, &layout);
        assert_eq!(outside(std::slice::from_ref(&kept), &free), 2 * cluster_bytes);
        assert_eq!(total(&free), summary.free_bytes);
    }
}
