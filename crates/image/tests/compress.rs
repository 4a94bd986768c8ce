//! Compression against the peers: whatever goes in comes out, in a file that they find nothing to say against.

#![allow(clippy::unwrap_used, missing_docs)]

mod peers;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use imageops_image::compress::{CompressOptions, Compression, Level, compress};
use imageops_image::format::Format;
use imageops_image::output::{Existing, OutputFile};
use imageops_image::storage::{FileStorage, Fingerprint, Storage};
use imageops_image::{CancelToken, Control, ErrorKind, Phase, reason};
use peers::{compress_file, files, format_of, images, run, run_ok, text};

/// Images of the set that stand alone and can be read.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let refused = ["backing-mid", "backing-top", "data-file", "luks"];
    let mut all = files(directory, &["raw", "qcow2"]);
    for below in ["fs", "variants"] {
        all.extend(files(&directory.join(below), &["raw", "qcow2"]));
    }
    all.push(directory.join("formats/text.img"));
    all.push(directory.join("formats/disc.iso"));
    all.retain(|path| !refused.iter().any(|name| path.file_stem().unwrap() == *name));
    all
}

fn assert_clean(image: &Path) {
    let output = run("qemu-img", &["check", "--output", "json", text(image)]);
    assert!(output.status.success(), "{}: {}", image.display(), String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_image_reads_back_the_same_to_qemu() {
    let Some(directory) = images("every_image_reads_back_the_same_to_qemu", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.qcow2");
    let sources = sources(&directory);
    assert!(sources.len() > 50);
    for source in sources {
        for compression in [Compression::Zlib, Compression::Zstd] {
            let options = CompressOptions { compression, drop_free: false, threads: 2, ..Default::default() };
            let report = compress_file(&source, &target, &options).unwrap_or_else(|error| {
                panic!("{}: {error} ({})", source.display(), error.reason);
            });
            assert!(report.verified);
            assert_eq!(report.dropped_bytes, 0);
            assert_eq!(report.output_bytes, target.metadata().unwrap().len());
            assert_clean(&target);
            let format = format_of(&source).as_str();
            run_ok("qemu-img", &["compare", "-f", format, "-F", "qcow2", text(&source), text(&target)]);
        }
    }
}

#[test]
fn dropping_leaves_a_clean_image_of_every_source() {
    let Some(directory) = images("dropping_leaves_a_clean_image_of_every_source", &["qemu-img"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (target, kept) = (scratch.path().join("out.qcow2"), scratch.path().join("kept.qcow2"));
    for source in sources(&directory) {
        let report = compress_file(&source, &target, &CompressOptions::default()).unwrap();
        assert_clean(&target);
        let whole = CompressOptions { drop_free: false, ..Default::default() };
        let full = compress_file(&source, &kept, &whole).unwrap();
        let parts: u64 = report.parts.iter().map(|part| part.dropped_bytes).sum();
        assert_eq!(report.dropped_bytes, parts, "{}", source.display());
        assert!(report.output_bytes <= full.output_bytes, "{}", source.display());
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<imageops_image::compress::CompressReport>(&text).unwrap(), report);
    }
}

#[test]
fn threads_do_not_change_the_bytes() {
    let Some(directory) = images("threads_do_not_change_the_bytes", &[]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for (name, compression) in
        [("debian-ext4.raw", Compression::Zlib), ("debian-xfs.qcow2", Compression::Zstd)]
    {
        let outputs: Vec<Vec<u8>> = [1, 2, 4, 7]
            .into_iter()
            .map(|threads| {
                let target = scratch.path().join(format!("{threads}.qcow2"));
                let options = CompressOptions { compression, threads, ..Default::default() };
                compress_file(&directory.join(name), &target, &options).unwrap();
                std::fs::read(target).unwrap()
            })
            .collect();
        assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]), "{name}");
    }
}

#[test]
fn all_levels_work() {
    let Some(directory) = images("all_levels_work", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.qcow2");
    let source = directory.join("fs/fat12.raw");
    for compression in [Compression::Zlib, Compression::Zstd] {
        for level in compression.levels() {
            let options = CompressOptions {
                compression,
                level: Level::Number(level),
                drop_free: false,
                ..Default::default()
            };
            compress_file(&source, &target, &options).unwrap();
            assert_clean(&target);
            run_ok("qemu-img", &["compare", "-f", "raw", text(&source), text(&target)]);
        }
        for level in [0, compression.levels().end() + 1] {
            let options = CompressOptions { compression, level: Level::Number(level), ..Default::default() };
            assert_eq!(
                compress_file(&source, &target, &options).unwrap_err().reason,
                reason::COMPRESSION_LEVEL
            );
        }
    }
}

/// Bytes that no coder makes shorter, the same at each run.
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state >> 32).to_le_bytes()[..4].iter());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn mixtures_of_noise_text_and_zeros_survive() {
    let Some(_) = images("mixtures_of_noise_text_and_zeros_survive", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.qcow2"));
    let mut bytes = Vec::new();
    for (index, kind) in noise(700, 5).into_iter().enumerate() {
        match kind % 4 {
            0 => bytes.extend(noise(65_536, index as u64)),
            1 => bytes.extend(vec![0; 65_536]),
            2 => bytes.extend(format!("line {index}\n").repeat(9000).bytes().take(65_536)),
            _ => {
                bytes.extend(noise(30_000, index as u64));
                bytes.extend(vec![7; 35_536]);
            }
        }
    }
    bytes.extend(noise(1000, 1));
    std::fs::write(&source, &bytes).unwrap();
    for compression in [Compression::Zlib, Compression::Zstd] {
        let options = CompressOptions { compression, ..Default::default() };
        let report = compress_file(&source, &target, &options).unwrap();
        assert_clean(&target);
        run_ok("qemu-img", &["compare", "-f", "raw", text(&source), text(&target)]);
        // Room lost to alignment stays below 2 %.
        assert!(report.output_bytes < report.data_bytes * 76 / 100, "{report:?}");
    }
}

#[test]
fn a_huge_sparse_disk_takes_no_time_and_no_room() {
    let Some(_) = images("a_huge_sparse_disk_takes_no_time_and_no_room", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.qcow2"));
    let file = File::create(&source).unwrap();
    if file.set_len(8 << 40).is_err() {
        eprintln!(
            "SKIPPED: a_huge_sparse_disk_takes_no_time_and_no_room: the file system takes no file of 8 TiB"
        );
        return;
    }
    // One cluster in each of two hundred L2 tables: more than wait in memory.
    for index in 0..200 {
        file.write_all_at(&[1 + index as u8; 5000], index << 32 | 12_345).unwrap();
    }
    let report = compress_file(&source, &target, &CompressOptions::default()).unwrap();
    assert_eq!(report.data_bytes, 200 * 65_536);
    assert_clean(&target);
    let image = peers::open(&target);
    for index in 0..200_u64 {
        let mut bytes = [0; 5002];
        image.disk.read_at(&mut bytes, (index << 32) + 12_344).unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[5000], bytes[5001]), (0, 1 + index as u8, 1 + index as u8, 0));
    }
}

fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_does_not_grow_with_the_image() {
    let Some(directory) = images("memory_does_not_grow_with_the_image", &[]) else { return };
    // In a process of its own, as the others of this binary have threads and buffers too.
    if std::env::var_os("IMAGEOPS_TEST_MEMORY").is_none() {
        let itself = std::env::current_exe().unwrap();
        let output = std::process::Command::new(itself)
            .args(["--exact", "memory_does_not_grow_with_the_image", "--nocapture"])
            .env("IMAGEOPS_TEST_MEMORY", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.qcow2");
    let options = CompressOptions { threads: 2, ..Default::default() };
    compress_file(&directory.join("variants/huge-virtual.qcow2"), &target, &options).unwrap();
    compress_file(&directory.join("debian-ext4.raw"), &target, &options).unwrap();
    assert!(peak_memory_kib() < 64 << 10, "{} KiB", peak_memory_kib());
}

#[test]
fn progress_rises_to_one_and_never_falls() {
    let Some(directory) = images("progress_rises_to_one_and_never_falls", &[]) else { return };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let control = Control::new(move |progress| sink.lock().unwrap().push(progress), CancelToken::default());
    let storage = Arc::new(FileStorage::new(File::open(directory.join("debian-ext4.raw")).unwrap()).unwrap());
    compress(storage, None, &tempfile::tempfile().unwrap(), &CompressOptions::default(), &control).unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].fraction <= pair[1].fraction));
    assert!(seen.iter().all(|progress| progress.done_bytes <= progress.total_bytes));
    assert_eq!(seen.last().unwrap().fraction, 1.0);
    for phase in [Phase::Planning, Phase::Compressing, Phase::Verifying] {
        assert!(seen.iter().any(|progress| progress.phase == phase), "{phase:?}");
    }
}

#[test]
fn cancelling_stops_soon_and_leaves_nothing() {
    let Some(directory) = images("cancelling_stops_soon_and_leaves_nothing", &[]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for after in [0, 1, 2, 20] {
        let token = CancelToken::default();
        let (canceller, calls) = (token.clone(), AtomicU64::new(0));
        let control = Control::new(
            move |_| {
                if calls.fetch_add(1, Ordering::Relaxed) == after {
                    canceller.cancel();
                }
            },
            token,
        );
        let output = OutputFile::create(scratch.path()).unwrap();
        let storage =
            Arc::new(FileStorage::new(File::open(directory.join("debian-ext4.raw")).unwrap()).unwrap());
        let error =
            compress(storage, None, output.file(), &CompressOptions::default(), &control).unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::Cancelled, reason::CANCELLED));
        drop(output);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn sec_12_output_is_bounded_by_the_limit() {
    let Some(directory) = images("sec_12_output_is_bounded_by_the_limit", &[]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.qcow2");
    let source = directory.join("fs/unknown.raw");
    let full = compress_file(&source, &target, &CompressOptions::default()).unwrap();
    for (limit, fits) in
        [(full.output_bytes, true), (full.output_bytes - 1, false), (100_000, false), (0, false)]
    {
        let options = CompressOptions { output_limit_bytes: Some(limit), ..Default::default() };
        match compress_file(&source, &target, &options) {
            Ok(report) => assert!(fits && report.output_bytes == full.output_bytes),
            Err(error) => {
                assert_eq!((error.kind, error.reason), (ErrorKind::OutputLimit, reason::OUTPUT_LIMIT));
                assert!(!fits && target.metadata().unwrap().len() <= limit.max(1 << 21));
            }
        }
    }
}

/// A file whose time of change moves while it is read.
struct Restless {
    file: FileStorage,
    writer: File,
    reads: AtomicU64,
}

impl Storage for Restless {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 10 {
            self.writer.write_all_at(b"x", 0)?;
        }
        self.file.read_at(buffer, offset)
    }

    fn fingerprint(&self) -> std::io::Result<Option<Fingerprint>> {
        self.file.fingerprint()
    }
}

#[test]
fn a_source_that_changes_is_noticed() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("in.raw");
    std::fs::write(&source, noise(4 << 20, 3)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let storage = Restless {
        file: FileStorage::new(File::open(&source).unwrap()).unwrap(),
        writer: File::options().write(true).open(&source).unwrap(),
        reads: AtomicU64::new(0),
    };
    let output = tempfile::tempfile().unwrap();
    let options = CompressOptions::default();
    let error =
        compress(Arc::new(storage), Some(Format::Raw), &output, &options, &Control::default()).unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Changed, reason::SOURCE_CHANGED));
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let test = "a_full_disk_is_named_and_leaves_nothing";
    let mount = tempfile::tempdir().unwrap();
    if !run("mount", &["-t", "tmpfs", "-o", "size=1m", "none", text(mount.path())]).status.success() {
        eprintln!("SKIPPED: {test}: no right to mount a small file system");
        return;
    }
    let output = OutputFile::create(mount.path()).unwrap();
    let options = CompressOptions::default();
    let result = compress(
        Arc::new(noise(4 << 20, 9)),
        Some(Format::Raw),
        output.file(),
        &options,
        &Control::default(),
    );
    drop(output);
    let left = std::fs::read_dir(mount.path()).unwrap().count();
    run("umount", &[text(mount.path())]);
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::NoSpace, reason::NO_SPACE));
    assert_eq!(left, 0);
}

#[test]
fn sec_53_nothing_the_guest_cannot_see_is_copied() {
    let Some(directory) = images("sec_53_nothing_the_guest_cannot_see_is_copied", &["qemu-img"]) else {
        return;
    };
    const MARK: &[u8] = b"-not-for-the-eyes-of-the-next-owner-";
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.qcow2"), scratch.path().join("out.qcow2"));
    std::fs::copy(directory.join("variants/leak-source.qcow2"), &source)
        .or_else(|_| std::fs::copy(directory.join("corrupt/leak.qcow2"), &source))
        .unwrap();
    // Clusters that nothing refers to, and slack behind the end of everything.
    let mut file = File::options().read(true).write(true).open(&source).unwrap();
    let end = file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&MARK.repeat(8000)).unwrap();
    let leaked = run("qemu-img", &["check", "--output", "json", text(&source)]);
    assert!(String::from_utf8_lossy(&leaked.stdout).contains("leaks"));
    assert!(end > 0);
    // Free space of a file system, and a partly used cluster beside it.
    let ext = scratch.path().join("ext.raw");
    std::fs::copy(directory.join("fs/ext4-4k.raw"), &ext).unwrap();
    let image = peers::open(&ext);
    let layout = imageops_image::guest::scan(&*image.disk, &Control::default()).unwrap();
    let mut free = Vec::new();
    layout.free_within(&*image.disk, 0..image.disk.virtual_size_bytes(), &mut free).unwrap();
    let file = File::options().write(true).open(&ext).unwrap();
    for range in &free {
        let length = (range.end - range.start).min(1 << 20) as usize;
        file.write_all_at(&MARK.repeat(length / MARK.len()), range.start).unwrap();
    }
    for source in [source, ext] {
        // Stored as it is, so that the mark would be seen: compare with what the peer makes of the output.
        compress_file(&source, &target, &CompressOptions::default()).unwrap();
        let raw = scratch.path().join("out.raw");
        run_ok("qemu-img", &["convert", "-O", "raw", text(&target), text(&raw)]);
        for path in [&target, &raw] {
            let mut bytes = Vec::new();
            File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(!bytes.windows(MARK.len()).any(|window| window == MARK), "{}", path.display());
        }
    }
}

#[test]
fn an_output_appears_complete_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let names = || std::fs::read_dir(scratch.path()).unwrap().count();
    let make = |content: &str| {
        let output = OutputFile::create(scratch.path()).unwrap();
        output.file().write_all_at(content.as_bytes(), 0).unwrap();
        output
    };
    drop(make("dropped"));
    assert_eq!(names(), 0);
    make("one").publish("a".as_ref(), 0o640, Existing::Keep).unwrap();
    let error = make("two").publish("a".as_ref(), 0o640, Existing::Keep).unwrap_err();
    assert_eq!(error.reason, reason::OUTPUT_EXISTS);
    assert_eq!(std::fs::read_to_string(scratch.path().join("a")).unwrap(), "one");
    make("three").publish("a".as_ref(), 0o600, Existing::Replace).unwrap();
    assert_eq!(std::fs::read_to_string(scratch.path().join("a")).unwrap(), "three");
    assert_eq!(scratch.path().join("a").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(), 1);
    for name in ["", ".", "..", "x/y", "/x", "x\0y"] {
        let error = make("bad").publish(name.as_ref(), 0o600, Existing::Replace).unwrap_err();
        assert_eq!(error.reason, reason::OUTPUT_NAME, "{name:?}");
    }
    assert_eq!(names(), 1);
}
