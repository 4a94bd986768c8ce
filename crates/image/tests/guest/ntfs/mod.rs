//! NTFS, against the tools of ntfs-3g.

mod crafted;
mod damage;
mod edit;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use imageops_image::compress::CompressOptions;
use imageops_image::reason;

use crate::peers::{compress_file, images, open, run, run_ok, text};
use crate::proofs::{Numbers, extract, flipped, free_ranges, outside, reasons, scan, total};
use edit::{Bytes, Volume};

const TOOLS: [&str; 7] = ["mkntfs", "ntfsinfo", "ntfscat", "ntfscluster", "ntfscmp", "ntfsresize", "ntfsfix"];

/// The clusters that the file system's own tools find unmarked in its bitmap.
fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
    let figures = run_ok("ntfsinfo", &["-f", "-m", text(file_system)]);
    let figure = |name: &str| {
        let line = figures.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        line.trim().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let (cluster_bytes, clusters) = (figure("Cluster Size:"), figure("Volume Size in Clusters:"));
    let bitmap = run("ntfscat", &["-f", "-i", "6", text(file_system)]).stdout;
    assert!(bitmap.len() as u64 * 8 >= clusters);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for cluster in (0..clusters).filter(|bit| bitmap[(bit / 8) as usize] >> (bit % 8) & 1 == 0) {
        let range = cluster * cluster_bytes..(cluster + 1) * cluster_bytes;
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    assert_eq!(total(&ranges) / cluster_bytes, figure("Free Clusters:"));
    ranges
}

/// Fails when a file that the tools know of uses one of `ours`.
fn assert_no_owner(file_system: &Path, cluster_bytes: u64, ours: &[Range<u64>]) {
    for range in ours {
        let clusters = format!("{}-{}", range.start / cluster_bytes, range.end / cluster_bytes - 1);
        let output = run("ntfscluster", &["-f", "-c", &clusters, text(file_system)]);
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!found.contains("Inode"), "{clusters}: {found}");
    }
}

/// Fails when the tools find damage.
fn assert_clean(file_system: &Path) {
    run_ok("ntfsfix", &["-n", text(file_system)]);
    // Compares the bitmap with the runs of all files, as chkdsk does.
    run_ok("ntfsresize", &["-i", "-f", "-P", text(file_system)]);
}

/// Fails when two volumes differ in any attribute of any file.
fn assert_same_files(left: &Path, right: &Path) {
    let output = run("ntfscmp", &["-P", text(left), text(right)]);
    let found =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let other: Vec<&str> = found.lines().filter(|line| !line.starts_with("ntfscmp v")).collect();
    assert!(output.status.success() && other.is_empty(), "{other:?}");
}

/// The sound volumes of the set, as files of their own.
fn sound(directory: &Path, scratch: &Path) -> Vec<PathBuf> {
    let image = open(&directory.join("data-ntfs.qcow2"));
    let layout = scan(&*image.disk);
    let part = layout.parts()[0].summary();
    let target = scratch.join("data.part");
    extract(&*image.disk, part.start_bytes..part.start_bytes + part.length_bytes, &target);
    vec![directory.join("fs/ntfs.raw"), target]
}

/// A fresh volume.
fn make(target: &Path, size_bytes: u64, options: &[&str]) {
    let _ = fs::remove_file(target);
    fs::File::create(target).unwrap().set_len(size_bytes).unwrap();
    let mut arguments = vec!["-q", "-Q", "-F"];
    arguments.extend(options);
    arguments.push(text(target));
    run_ok("mkntfs", &arguments);
}

/// Puts a file into the root directory.
fn put_file(volume: &Path, scratch: &Path, name: &str, content: &[u8]) {
    let source = scratch.join("content");
    fs::write(&source, content).unwrap();
    run_ok("ntfscp", &["-f", "-q", text(volume), text(&source), name]);
}

#[test]
fn ntfs_drops_what_the_bitmap_calls_free_and_loses_no_file() {
    let test = "ntfs_drops_what_the_bitmap_calls_free_and_loses_no_file";
    let Some(directory) = images(test, &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for source in sound(&directory, scratch.path()) {
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{}", source.display());
        let summary = layout.parts()[0].summary();
        assert_eq!((summary.content.as_str(), summary.label.as_deref()), ("ntfs", Some("data")));
        let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(&source));
        assert_eq!(total(&ours), summary.free_bytes, "{}", source.display());
        assert_eq!(outside(&ours, &theirs), 0, "{}: a used cluster would be dropped", source.display());
        assert_eq!(outside(&theirs, &ours), 0, "{}", source.display());
        let volume = Volume::open(&source);
        assert_no_owner(&source, volume.cluster_bytes, &ours);
        // The copy of the boot sector lies behind the last cluster.
        assert!(ours.last().unwrap().end <= volume.clusters * volume.cluster_bytes);

        let (packed, raw) = (scratch.path().join("out.qcow2"), scratch.path().join("out.raw"));
        compress_file(&source, &packed, &CompressOptions::default()).unwrap();
        run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
        assert_clean(&raw);
        assert_same_files(&source, &raw);
        assert_eq!(peer_free(&raw), theirs);
        let length = image.disk.virtual_size_bytes();
        let end = volume.read(length - 512, 512);
        assert_eq!(Volume::open(&raw).read(length - 512, 512), end);
        assert_eq!(&end[3..7], b"NTFS");
    }
}

#[test]
fn a_flipped_bit_never_drops_a_used_cluster() {
    let test = "a_flipped_bit_never_drops_a_used_cluster";
    let Some(directory) = images(test, &TOOLS) else { return };
    let source = directory.join("fs/ntfs.raw");
    let volume = Volume::open(&source);
    let theirs = peer_free(&source);
    let before = total(&free_ranges(&*volume.disk, &scan(&*volume.disk)));
    let (bitmap, _) = volume.first_run(6, 0x80);
    let (journal, _) = volume.first_run(2, 0x80);
    let (index, _) = volume.first_run(5, 0xa0);
    let (used, _) = volume.first_run(0, 0xb0);
    let length = |record| edit::number(&volume.record(record)[24..28]);
    let mut places = vec![
        0..90,
        510..512,
        bitmap..bitmap + volume.clusters / 8,
        bitmap..bitmap + 64,
        journal..journal + 512,
        index..index + 512,
        used..used + 40,
        volume.record_place(64)..volume.record_place(200),
    ];
    for record in [0, 1, 2, 3, 5, 6] {
        places.push(volume.record_place(record)..volume.record_place(record) + length(record));
    }
    places.extend((0..4).map(|record| volume.mirror + record * 1024..volume.mirror + record * 1024 + 400));
    let mut numbers = Numbers(4);
    let (mut flips, mut noticed) = (0, 0);
    for turn in 0..2000 {
        let range = &places[turn % places.len()];
        let place = range.start + numbers.below(range.end - range.start);
        let damaged = flipped(&volume.disk, place, numbers.below(8) as u8);
        let ours = free_ranges(&damaged, &scan(&damaged));
        assert_eq!(outside(&ours, &theirs), 0, "bit of byte {place}");
        flips += 1;
        noticed += u64::from(total(&ours) < before);
    }
    eprintln!("{noticed} of {flips} flips were noticed");
    // The rest hits times, names, security descriptors and free records.
    assert!(noticed > flips / 2, "{noticed} of {flips} flips were noticed");
}

#[test]
fn every_used_bit_of_the_bitmap_is_vouched_for() {
    let test = "every_used_bit_of_the_bitmap_is_vouched_for";
    let Some(directory) = images(test, &TOOLS) else { return };
    let source = directory.join("fs/ntfs.raw");
    let volume = Volume::open(&source);
    let (bitmap, _) = volume.first_run(6, 0x80);
    let bytes = volume.read(bitmap, volume.clusters.div_ceil(8));
    // Every used cluster is some file's, so losing any one bit must be seen; every third suffices.
    let used = (0..volume.clusters).filter(|bit| bytes[(bit / 8) as usize] >> (bit % 8) & 1 == 1);
    for cluster in used.step_by(3) {
        let damaged = flipped(&volume.disk, bitmap + cluster / 8, (cluster % 8) as u8);
        assert_eq!(reasons(&scan(&damaged)), [reason::KEPT_FREE_COUNT], "cluster {cluster}");
    }
}

/// Volumes that the set does not have: all sizes of sectors, clusters, records and index blocks.
#[test]
fn unusual_geometries_agree_with_ntfscat() {
    let Some(_) = images("unusual_geometries_agree_with_ntfscat", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, content) = (scratch.path().join("fs.raw"), vec![7; 300_000]);
    let kinds: [(u64, &[&str]); 12] = [
        (40 << 20, &["-c", "512"]),
        (40 << 20, &["-c", "1024", "-L", "größer"]),
        (50_000_384, &["-c", "2048"]),
        (50_000_384, &["-c", "4096", "-C"]),
        (300 << 20, &["-c", "65536"]),
        (300 << 20, &["-c", "131072"]),
        (2 << 30, &["-c", "1048576"]),
        (3 << 30, &["-c", "2097152"]),
        (60 << 20, &["-s", "1024", "-c", "4096"]),
        (60 << 20, &["-s", "2048", "-c", "2048"]),
        (60 << 20, &["-s", "4096", "-c", "4096"]),
        (20 << 30, &["-c", "4096"]),
    ];
    for (size_bytes, options) in kinds {
        make(&source, size_bytes, options);
        put_file(&source, scratch.path(), "file.bin", &content);
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{options:?}");
        let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(&source));
        assert_eq!(outside(&ours, &theirs), 0, "{options:?}");
        assert_eq!(outside(&theirs, &ours), 0, "{options:?}");
        let label = options.iter().position(|option| *option == "-L").map(|at| options[at + 1]);
        assert_eq!(layout.parts()[0].summary().label.as_deref(), label);
    }
}

/// The image of a hibernated system, in force or not; ntfs-3g refuses to write to a volume in just those cases.
#[test]
fn a_hibernated_windows_keeps_all() {
    let Some(_) = images("a_hibernated_windows_keeps_all", &["mkntfs", "ntfscp", "ntfs-3g.probe"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    let with = |start: &[u8], length: usize| {
        let mut content = start.to_vec();
        content.resize(length, 0);
        content
    };
    let cases: [(&str, Vec<u8>, bool); 9] = [
        ("hiberfil.sys", with(b"hibr", 8192), true),
        ("HIBERFIL.SYS", with(b"HIBR", 70_000), true),
        ("hiberfil.sys", with(b"wake", 8192), true),
        ("hiberfil.sys", with(b"RSTR", 8192), true),
        ("hiberfil.sys", with(b"", 8192), false),
        ("hiberfil.sys", with(b"", 4000), true),
        ("hiberfil.sys", with(b"", 10), true),
        ("hiberfil.syz", with(b"hibr", 8192), false),
        ("pagefile.sys", with(b"hibr", 8192), false),
    ];
    for (name, content, hibernated) in cases {
        make(&source, 20 << 20, &[]);
        put_file(&source, scratch.path(), name, &content);
        let image = open(&source);
        let layout = scan(&*image.disk);
        let expected: &[&str] = if hibernated { &[reason::KEPT_HIBERNATED] } else { &[] };
        let case = format!("{name} {:?} {}", &content[..4], content.len());
        assert_eq!(reasons(&layout), expected, "{case}");
        assert_eq!(free_ranges(&*image.disk, &layout).is_empty(), hibernated, "{case}");
        let refused = !run("ntfs-3g.probe", &["--readwrite", text(&source)]).status.success();
        // What is or was being resumed from ntfs-3g takes as over.
        assert!(hibernated || !refused, "{case}");
    }
}

/// Names in several levels of the root directory's tree.
#[test]
fn a_hibernated_windows_is_found_among_many_names() {
    let test = "a_hibernated_windows_is_found_among_many_names";
    let Some(_) = images(test, &["mkntfs", "ntfscp", "ntfsinfo"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 20 << 20, &["-c", "512"]);
    for index in 0..120 {
        put_file(&source, scratch.path(), &format!("{index:03}{}", "a long name ".repeat(15)), b"");
    }
    assert_eq!(reasons(&scan(&*open(&source).disk)), Vec::<String>::new());
    put_file(&source, scratch.path(), "hiberfil.sys", &[b"hibr".as_slice(), &[0; 8192]].concat());
    let volume = Volume::open(&source);
    assert_eq!(reasons(&scan(&*volume.disk)), [reason::KEPT_HIBERNATED]);
    // Directory and file each tell of it by themselves: with the name changed in either, the other still does.
    let name: Vec<u8> = "hiberfil.sys".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let disk = volume.read(0, 20 << 20);
    let places =
        (0..disk.len() - name.len()).filter(|at| disk[*at..].starts_with(&name)).map(|at| (at as u64, b'x'));
    let mft = volume.mft..volume.mft + volume.first_run(0, 0x80).1;
    let (file, directory): (Bytes, Bytes) = places.partition(|(place, _)| mft.contains(place));
    assert!(file.len() == 1 && !directory.is_empty());
    for renamed in [&file, &directory] {
        assert_eq!(reasons(&scan(&volume.patched(renamed))), [reason::KEPT_HIBERNATED]);
    }
    let both = volume.patched(&[file, directory].concat());
    assert_eq!(reasons(&scan(&both)), Vec::<String>::new());
}
