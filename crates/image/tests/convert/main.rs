//! Conversion to raw against the peer: the same bytes, and nothing that the guest could not see.

#![allow(clippy::unwrap_used, missing_docs)]

mod hidden;
mod made;
#[path = "../peers/mod.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod peers;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use imageops_image::compress::CompressOptions;
use imageops_image::convert::{ConvertOptions, ConvertReport, convert_to_raw};
use imageops_image::format::Format;
use imageops_image::storage::FileStorage;
use imageops_image::{CancelToken, Control, ErrorKind, Phase, Progress, reason};
use made::has_tools;
use peers::{compress_file, files, format_of, images, run, run_ok, text};

fn create(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap()
}

fn convert_with(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    control: &Control,
) -> imageops_image::Result<ConvertReport> {
    let storage = Arc::new(FileStorage::new(File::open(source).unwrap()).unwrap());
    convert_to_raw(storage, Some(format_of(source)), &create(target), options, control)
}

fn convert_file(source: &Path, target: &Path) -> ConvertReport {
    convert_with(source, target, &ConvertOptions::default(), &Control::default())
        .unwrap_or_else(|error| panic!("{}: {error} ({})", source.display(), error.reason))
}

/// What the peer makes of `source`, and what it says of `target`.
fn assert_same_to_the_peer(source: &Path, target: &Path, directory: &Path) {
    let format = format_of(source).as_str();
    let expected = directory.join("expected");
    run_ok("qemu-img", &["convert", "-f", format, "-O", "raw", text(source), text(&expected)]);
    assert_eq!(expected.metadata().unwrap().len(), target.metadata().unwrap().len(), "{}", source.display());
    run_ok("cmp", &[text(&expected), text(target)]);
    run_ok("qemu-img", &["compare", "-f", format, "-F", "raw", text(source), text(target)]);
}

#[test]
fn every_made_image_becomes_what_the_peer_makes_of_it() {
    if !has_tools("every_made_image_becomes_what_the_peer_makes_of_it") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.raw");
    for source in made::all(scratch.path()) {
        for threads in [1, 3] {
            let options = ConvertOptions { threads, ..Default::default() };
            let report = convert_with(&source, &target, &options, &Control::default()).unwrap();
            let metadata = target.metadata().unwrap();
            assert!(report.verified);
            assert_eq!(report.virtual_size_bytes, metadata.len());
            assert!(report.written_bytes <= report.stored_bytes, "{report:?}");
            assert_eq!(report.allocated_bytes, metadata.blocks() * 512, "{}", source.display());
            assert_same_to_the_peer(&source, &target, scratch.path());
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<ConvertReport>(&json).unwrap(), report);
        }
    }
}

#[test]
fn every_image_of_the_set_becomes_what_the_peer_makes_of_it() {
    let name = "every_image_of_the_set_becomes_what_the_peer_makes_of_it";
    let Some(directory) = images(name, &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.raw");
    // The last one promises more than a file of most file systems can hold.
    let refused = ["backing-mid", "backing-top", "data-file", "luks", "huge-virtual"];
    let mut sources = files(&directory, &["raw", "qcow2"]);
    sources
        .extend(["fs", "variants"].iter().flat_map(|below| files(&directory.join(below), &["raw", "qcow2"])));
    sources.retain(|path| !refused.iter().any(|name| path.file_stem().unwrap() == *name));
    assert!(sources.len() > 50);
    for source in sources {
        convert_file(&source, &target);
        assert_same_to_the_peer(&source, &target, scratch.path());
    }
}

#[test]
fn holes_stay_holes_and_stored_zeros_become_some() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.raw"));
    let file = create(&source);
    file.set_len(1 << 30).unwrap();
    file.write_all_at(&vec![0; 4 << 20], 8 << 20).unwrap();
    file.write_all_at(&[7; 100], 512 << 20).unwrap();
    let report = convert_file(&source, &target);
    assert!(report.stored_bytes >= 4 << 20, "{report:?}");
    assert!((100..=64 << 10).contains(&report.written_bytes), "{report:?}");
    let metadata = target.metadata().unwrap();
    assert_eq!(metadata.len(), 1 << 30);
    assert!(metadata.blocks() * 512 <= 128 << 10, "{} blocks", metadata.blocks());
}

#[test]
fn a_sector_that_is_cut_short_is_filled_up() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.raw"));
    for (length, want) in [(0, 0), (1, 512), (700, 1024), ((1 << 20) + 1, (1 << 20) + 512)] {
        std::fs::write(&source, vec![9; length]).unwrap();
        let report = convert_file(&source, &target);
        assert_eq!(report.virtual_size_bytes, want);
        let mut expected = vec![9; length];
        expected.resize(want as usize, 0);
        assert!(std::fs::read(&target).unwrap() == expected, "{length}");
    }
}

#[test]
fn a_conversion_and_a_compression_prove_the_same_content() {
    if !has_tools("a_conversion_and_a_compression_prove_the_same_content") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (scratch.path().join("out.raw"), scratch.path().join("out.qcow2"));
    for source in made::all(scratch.path()) {
        let options = CompressOptions { drop_free: false, ..Default::default() };
        let compressed = compress_file(&source, &qcow2, &options).unwrap();
        assert_eq!(convert_file(&source, &raw).content_proof, compressed.content_proof);
    }
}

/// A raw image with some content, and what a conversion of it comes to when `at` is done at the first word of `phase`.
fn interrupted(
    phase: Phase,
    cancel: &CancelToken,
    at: impl Fn(&Path, &Path) + Send + Sync + 'static,
) -> imageops_image::Error {
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.raw"));
    std::fs::write(&source, vec![5; 3 << 20]).unwrap();
    let paths = (source.clone(), target.clone());
    let report = move |progress: Progress| {
        if progress.phase == phase && progress.done_bytes == 0 {
            at(&paths.0, &paths.1);
        }
    };
    let control = Control::new(report, cancel.clone());
    convert_with(&source, &target, &ConvertOptions::default(), &control).unwrap_err()
}

#[test]
fn a_fault_of_the_medium_is_noticed() {
    let damage = |_: &Path, target: &Path| {
        File::options().write(true).open(target).unwrap().write_all_at(b"x", 1_234_567).unwrap();
    };
    let error = interrupted(Phase::Verifying, &CancelToken::default(), damage);
    assert_eq!((error.kind, error.reason), (ErrorKind::Verification, reason::OUTPUT_DIFFERS));
    let cut = |_: &Path, target: &Path| {
        File::options().write(true).open(target).unwrap().set_len((3 << 20) - 1).unwrap();
    };
    let error = interrupted(Phase::Verifying, &CancelToken::default(), cut);
    assert_eq!((error.kind, error.reason), (ErrorKind::Verification, reason::OUTPUT_DIFFERS));
}

#[test]
fn a_source_that_changes_is_noticed() {
    let grow =
        |source: &Path, _: &Path| File::options().write(true).open(source).unwrap().set_len(4 << 20).unwrap();
    let error = interrupted(Phase::Converting, &CancelToken::default(), grow);
    assert_eq!((error.kind, error.reason), (ErrorKind::Changed, reason::SOURCE_CHANGED));
    let shrink =
        |source: &Path, _: &Path| File::options().write(true).open(source).unwrap().set_len(4096).unwrap();
    let error = interrupted(Phase::Converting, &CancelToken::default(), shrink);
    assert_eq!((error.kind, error.reason), (ErrorKind::Changed, reason::SOURCE_CHANGED));
}

#[test]
fn a_cancelled_conversion_stops_in_each_phase() {
    for phase in [Phase::Planning, Phase::Converting, Phase::Verifying] {
        let cancel = CancelToken::default();
        let token = cancel.clone();
        let error = interrupted(phase, &cancel, move |_, _| token.cancel());
        assert_eq!(error.kind, ErrorKind::Cancelled, "{phase:?}");
    }
}

#[test]
fn progress_never_falls_and_ends_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.raw"));
    std::fs::write(&source, vec![5; 9 << 20]).unwrap();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let list = Arc::clone(&told);
    let control = Control::new(move |progress| list.lock().unwrap().push(progress), CancelToken::default());
    convert_with(&source, &target, &ConvertOptions::default(), &control).unwrap();
    let told = told.lock().unwrap();
    assert!(told.windows(2).all(|pair| pair[0].fraction <= pair[1].fraction), "{told:?}");
    let converted = told.iter().rfind(|progress| progress.phase == Phase::Converting).unwrap();
    assert_eq!((converted.done_bytes, converted.total_bytes), (9 << 20, 9 << 20));
    assert!((told.last().unwrap().fraction - 1.0).abs() < 1e-9);
}

#[test]
fn no_more_is_written_than_the_limit() {
    let scratch = tempfile::tempdir().unwrap();
    let (source, target) = (scratch.path().join("in.raw"), scratch.path().join("out.raw"));
    std::fs::write(&source, vec![5; 3 << 20]).unwrap();
    let limited = |limit| {
        let options = ConvertOptions { output_limit_bytes: Some(limit), ..Default::default() };
        convert_with(&source, &target, &options, &Control::default())
    };
    assert_eq!(limited(3 << 20).unwrap().written_bytes, 3 << 20);
    let error = limited((3 << 20) - 1).unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::OutputLimit, reason::OUTPUT_LIMIT));
    assert!(target.metadata().unwrap().blocks() * 512 <= 3 << 20);
}

#[test]
fn what_compress_refuses_is_refused() {
    if !has_tools("what_compress_refuses_is_refused") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (path, target) = (|name: &str| scratch.path().join(name), scratch.path().join("out.raw"));
    let (base, top, data) = (path("base.qcow2"), path("top.qcow2"), path("data.qcow2"));
    let (other, secret) = (path("other.vdi"), path("secret.qcow2"));
    run_ok("qemu-img", &["create", "-q", "-f", "qcow2", text(&base), "1M"]);
    run_ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "qcow2", text(&top)]);
    let data_file = format!("data_file={}", text(&path("data.raw")));
    run_ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &data_file, text(&data), "1M"]);
    run_ok("qemu-img", &["create", "-q", "-f", "vdi", text(&other), "1M"]);
    let key = ["--object", "secret,id=key,data=secret", "-o", "encrypt.format=luks,encrypt.key-secret=key"];
    let create_secret = [&["create", "-q", "-f", "qcow2"], &key[..], &[text(&secret), "1M"]].concat();
    // It measures its processor to make the key expensive, and gives up on a busy machine.
    assert!((0..5).any(|_| run("qemu-img", &create_secret).status.success()));
    for (source, want) in [
        (&top, reason::UNSAFE_BACKING_FILE),
        (&data, reason::UNSAFE_DATA_FILE),
        (&secret, reason::UNSUPPORTED_ENCRYPTION),
        (&other, reason::UNSUPPORTED_FORMAT),
    ] {
        let storage = || Arc::new(FileStorage::new(File::open(source).unwrap()).unwrap());
        let (options, control) = (ConvertOptions::default(), Control::default());
        let error = convert_to_raw(storage(), None, &create(&target), &options, &control).unwrap_err();
        let options = CompressOptions::default();
        let same = imageops_image::compress::compress(storage(), None, &create(&target), &options, &control);
        assert_eq!((error.reason, error.reason), (want, same.unwrap_err().reason), "{}", source.display());
    }
    // Declared raw, its bytes are those of the disk.
    let storage = Arc::new(FileStorage::new(File::open(&top).unwrap()).unwrap());
    let (options, control) = (ConvertOptions::default(), Control::default());
    convert_to_raw(storage, Some(Format::Raw), &create(&target), &options, &control).unwrap();
    assert!(std::fs::read(&target).unwrap().starts_with(&std::fs::read(&top).unwrap()));
}
