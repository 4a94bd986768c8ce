//! Sources that are compressed already: what is copied, what is packed anew, and that nobody can tell the difference.

#![allow(clippy::unwrap_used, missing_docs)]

#[expect(dead_code, reason = "not all of it is needed here")]
mod peers;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imageops_image::compress::{CompressOptions, CompressReport, Compression, Recompress, compress};
use imageops_image::format::qcow2::Mapping;
use imageops_image::format::{Format, Qcow2};
use imageops_image::storage::{FileStorage, Fingerprint, Storage};
use imageops_image::{Control, ErrorKind, reason};
use peers::{compress_file, images, run_ok, text};

const CLUSTER_BYTES: u64 = 65_536;

fn options(recompress: Recompress) -> CompressOptions {
    CompressOptions { recompress, threads: 2, ..Default::default() }
}

/// `source` as the peer compresses it.
fn packed_by_peer(source: &Path, target: &Path, settings: &str) {
    run_ok("qemu-img", &["convert", "-c", "-O", "qcow2", "-o", settings, text(source), text(target)]);
}

fn open_qcow2(path: &Path) -> Qcow2 {
    Qcow2::open(Arc::new(FileStorage::new(File::open(path).unwrap()).unwrap())).unwrap()
}

fn assert_clean_and_same(source: &Path, target: &Path) {
    run_ok("qemu-img", &["check", text(target)]);
    run_ok("qemu-img", &["compare", text(source), text(target)]);
}

/// Guest offsets of compressed clusters, with the bytes that their descriptors name.
fn streams(path: &Path) -> Vec<(u64, Vec<u8>)> {
    use imageops_image::disk::Disk as _;
    let image = open_qcow2(path);
    let starts = (0..image.virtual_size_bytes()).step_by(CLUSTER_BYTES as usize);
    let stream = |start: u64| match image.mapping_at(start).unwrap().1 {
        Mapping::Compressed { host_offset, length_bytes } => {
            let mut bytes = vec![0; length_bytes as usize];
            image.storage().read_at(&mut bytes, host_offset).unwrap();
            Some((start, bytes))
        }
        _ => None,
    };
    starts.filter_map(stream).collect()
}

#[test]
fn streams_are_copied_and_the_disk_stays_the_same() {
    let test = "streams_are_copied_and_the_disk_stays_the_same";
    let Some(directory) = images(test, &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.qcow2"), scratch.path().join("out.qcow2"));
    for (settings, compression) in
        [("compression_type=zlib", Compression::Zlib), ("compression_type=zstd", Compression::Zstd)]
    {
        packed_by_peer(&directory.join("debian-ext4.qcow2"), &source, settings);
        let whole = CompressOptions { compression, drop_free: false, ..options(Recompress::Auto) };
        let report = compress_file(&source, &target, &whole).unwrap();
        assert_clean_and_same(&source, &target);
        let (theirs, ours) = (streams(&source), streams(&target));
        assert_eq!(report.copied_bytes, theirs.len() as u64 * CLUSTER_BYTES, "{settings}");
        // Each stream starts alike; its last sector is shared with another neighbour.
        for ((place, theirs), (at, ours)) in theirs.iter().zip(ours.iter()) {
            let common = theirs.len().min(ours.len()).saturating_sub(512);
            assert_eq!(place, at);
            assert!(theirs[..common] == ours[..common], "{settings}, cluster at {place}");
        }
    }
}

#[test]
fn copied_and_packed_outputs_hold_the_same() {
    let Some(directory) = images("copied_and_packed_outputs_hold_the_same", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, copied, packed) =
        (scratch.path().join("in.qcow2"), scratch.path().join("a.qcow2"), scratch.path().join("b.qcow2"));
    packed_by_peer(&directory.join("debian-ext4.qcow2"), &source, "compression_type=zlib");
    let auto = compress_file(&source, &copied, &options(Recompress::Auto)).unwrap();
    let always = compress_file(&source, &packed, &options(Recompress::Always)).unwrap();
    assert_clean_and_same(&packed, &copied);
    assert_eq!(always.copied_bytes, 0);
    assert!(auto.copied_bytes * 10 > auto.data_bytes * 9, "{auto:?}");
    // Clusters that are partly free are packed anew.
    assert!(auto.copied_bytes < auto.data_bytes, "{auto:?}");
    let facts = |report: &CompressReport| {
        (report.content_proof.clone(), report.data_bytes, report.zero_bytes, report.dropped_bytes)
    };
    assert_eq!(facts(&auto), facts(&always));
    // Whatever the number of threads, and once more from what came out.
    let bytes = std::fs::read(&copied).unwrap();
    for threads in [1, 3] {
        let again = CompressOptions { threads, ..options(Recompress::Auto) };
        compress_file(&source, &packed, &again).unwrap();
        assert!(std::fs::read(&packed).unwrap() == bytes, "{threads} threads");
    }
    let twice = compress_file(&copied, &packed, &options(Recompress::Auto)).unwrap();
    assert_eq!((twice.output_bytes, &twice.content_proof), (auto.output_bytes, &auto.content_proof));
    assert!(std::fs::read(&packed).unwrap() == bytes);
}

#[test]
fn other_coders_and_clusters_are_packed_anew() {
    let Some(directory) = images("other_coders_and_clusters_are_packed_anew", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.qcow2"), scratch.path().join("out.qcow2"));
    let whole = CompressOptions { drop_free: false, ..options(Recompress::Auto) };
    for settings in ["compression_type=zstd", "cluster_size=4k", "cluster_size=128k"] {
        packed_by_peer(&directory.join("fs/ext4-4k.raw"), &source, settings);
        let report = compress_file(&source, &target, &whole).unwrap();
        assert_eq!(report.copied_bytes, 0, "{settings}");
        assert_clean_and_same(&source, &target);
    }
}

/// All that a file holds, and all that its guest sees.
fn file_and_disk(path: &Path, scratch: &Path) -> [Vec<u8>; 2] {
    let raw = scratch.join("disk.raw");
    run_ok("qemu-img", &["convert", "-O", "raw", text(path), text(&raw)]);
    [path, &raw].map(|path| std::fs::read(path).unwrap())
}

fn holds(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

#[test]
fn nothing_freed_comes_along_with_a_copy() {
    const MARK: &[u8] = b"-not-for-the-eyes-of-the-next-owner-";
    let Some(directory) = images("nothing_freed_comes_along_with_a_copy", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let [disk, source, target] = ["in.raw", "in.qcow2", "out.qcow2"].map(|name| scratch.path().join(name));
    std::fs::copy(directory.join("fs/ext4-4k.raw"), &disk).unwrap();
    let image = peers::open(&disk);
    let layout = imageops_image::guest::scan(&*image.disk, &Control::default()).unwrap();
    let mut free = Vec::new();
    layout.free_within(&*image.disk, 0..image.disk.virtual_size_bytes(), &mut free).unwrap();
    // Some free ranges start or end inside of clusters that are used too.
    assert!(free.iter().any(|range| range.start % CLUSTER_BYTES != 0));
    let file = File::options().write(true).open(&disk).unwrap();
    for range in &free {
        let length = (range.end - range.start).min(1 << 20) as usize;
        file.write_all_at(&MARK.repeat(length / MARK.len()), range.start).unwrap();
    }
    packed_by_peer(&disk, &source, "compression_type=zlib");
    assert!(file_and_disk(&source, scratch.path()).iter().any(|bytes| holds(bytes, MARK)));
    let report = compress_file(&source, &target, &options(Recompress::Auto)).unwrap();
    assert!(report.copied_bytes > 0 && report.copied_bytes < report.data_bytes, "{report:?}");
    for bytes in file_and_disk(&target, scratch.path()) {
        assert!(!holds(&bytes, MARK));
    }
}

#[test]
fn what_lies_behind_a_stream_or_the_disk_stays_behind() {
    const MARK: &[u8] = b"-behind-the-end-";
    let Some(_) = images("what_lies_behind_a_stream_or_the_disk_stays_behind", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let [disk, source, target] = ["in.raw", "in.qcow2", "out.qcow2"].map(|name| scratch.path().join(name));
    let mut bytes = b"what the guest may see ".repeat(10_000);
    bytes.truncate(200_704);
    bytes[199_680..].fill(b'-');
    bytes[200_192..200_192 + MARK.len()].copy_from_slice(MARK);
    std::fs::write(&disk, &bytes).unwrap();
    packed_by_peer(&disk, &source, "compression_type=zlib");
    // The rest of the last sector of the last stream, which nobody owns.
    let file = File::options().read(true).write(true).open(&source).unwrap();
    let (_, last) = streams(&source).pop().unwrap();
    let mut whole = Vec::new();
    (&file).read_to_end(&mut whole).unwrap();
    let place = whole.windows(last.len()).position(|window| window == last).unwrap() + last.len();
    file.write_all_at(MARK, (place - MARK.len()) as u64).unwrap();
    // The disk becomes a sector shorter than what its last cluster holds.
    file.write_all_at(&200_192_u64.to_be_bytes(), 24).unwrap();
    let whole = CompressOptions { drop_free: false, ..options(Recompress::Auto) };
    let report = compress_file(&source, &target, &whole).unwrap();
    assert_eq!(report.copied_bytes, 3 * CLUSTER_BYTES);
    assert_clean_and_same(&source, &target);
    let [file, disk] = file_and_disk(&target, scratch.path());
    assert!(disk == bytes[..200_192] && !holds(&file, MARK));
    let grown = File::options().write(true).open(&target).unwrap();
    grown.write_all_at(&(4 * CLUSTER_BYTES).to_be_bytes(), 24).unwrap();
    assert!(!holds(&file_and_disk(&target, scratch.path())[1], MARK));
}

#[test]
fn damaged_streams_are_found_as_without_copying() {
    let Some(directory) = images("damaged_streams_are_found_as_without_copying", &["qemu-img"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.qcow2"), scratch.path().join("out.qcow2"));
    for (settings, compression) in
        [("compression_type=zlib", Compression::Zlib), ("compression_type=zstd", Compression::Zstd)]
    {
        packed_by_peer(&directory.join("fs/fat16.raw"), &source, settings);
        let file = File::options().read(true).write(true).open(&source).unwrap();
        let places: Vec<u64> = stream_places(&source);
        let mut refused = 0;
        for turn in 0..60_usize {
            let place = places[turn * 7 % places.len()] + (turn * 311 % 2000) as u64;
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << (turn % 8)], place).unwrap();
            let results = [Recompress::Auto, Recompress::Always].map(|recompress| {
                let options = CompressOptions { compression, drop_free: false, ..options(recompress) };
                compress_file(&source, &target, &options)
                    .map(|report| report.content_proof)
                    .map_err(|error| (error.kind, error.reason))
            });
            assert_eq!(results[0], results[1], "{settings}, byte {place}");
            match &results[0] {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(*error, (ErrorKind::Corrupt, reason::CORRUPT_COMPRESSED_CLUSTER));
                    refused += 1;
                }
            }
            file.write_all_at(&byte, place).unwrap();
        }
        // Without a checksum most damage to a zstd frame is nothing but other content.
        assert!(refused > 0, "{settings}: {refused}");
    }
}

/// Offsets at which compressed clusters lie in the file.
fn stream_places(path: &Path) -> Vec<u64> {
    use imageops_image::disk::Disk as _;
    let image = open_qcow2(path);
    let starts = (0..image.virtual_size_bytes()).step_by(CLUSTER_BYTES as usize);
    let place = |start: u64| match image.mapping_at(start).unwrap().1 {
        Mapping::Compressed { host_offset, .. } => Some(host_offset),
        _ => None,
    };
    starts.filter_map(place).collect()
}

/// A file whose time of change moves while it is read.
struct Restless {
    file: FileStorage,
    path: PathBuf,
    reads: AtomicU64,
}

impl Storage for Restless {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 40 {
            let file = File::options().write(true).open(&self.path)?;
            file.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
        }
        self.file.read_at(buffer, offset)
    }

    fn fingerprint(&self) -> std::io::Result<Option<Fingerprint>> {
        self.file.fingerprint()
    }
}

#[test]
fn a_source_that_changes_while_it_is_copied_is_noticed() {
    let Some(directory) = images("a_source_that_changes_while_it_is_copied_is_noticed", &["qemu-img"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("in.qcow2");
    packed_by_peer(&directory.join("debian-ext4.qcow2"), &path, "compression_type=zlib");
    let file = FileStorage::new(File::open(&path).unwrap()).unwrap();
    let storage = Restless { file, path, reads: AtomicU64::new(0) };
    let output = tempfile::tempfile().unwrap();
    let whole = CompressOptions { drop_free: false, ..options(Recompress::Auto) };
    let error = compress(Arc::new(storage), Some(Format::Qcow2), &output, &whole, &Control::default());
    let error = error.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Changed, reason::SOURCE_CHANGED));
}
