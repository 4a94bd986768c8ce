//! The narrow window: for readers that inflate in steps.

#![allow(clippy::unwrap_used, missing_docs)]

mod deflate;
#[expect(dead_code, reason = "not all of it is needed here")]
mod peers;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use imageops_image::compress::{CompressOptions, Level, Recompress, Window};
use imageops_image::disk::Disk as _;
use imageops_image::format::Qcow2;
use imageops_image::format::qcow2::Mapping;
use imageops_image::reason;
use imageops_image::storage::FileStorage;
use peers::{compress_file, images, run_ok, text};

const CLUSTER_BYTES: u64 = 65_536;
/// The window of a reader that inflates in steps, as qemu declares it.
const WINDOW_BYTES: usize = 4096;

/// How many compressed clusters a strict reader reads, and how many it does not; some of them are asked.
fn read_strictly(path: &Path) -> (usize, usize) {
    let image = Qcow2::open(Arc::new(FileStorage::new(File::open(path).unwrap()).unwrap())).unwrap();
    let (mut read, mut failed) = (0, 0);
    for start in (0..image.virtual_size_bytes()).step_by(3 * CLUSTER_BYTES as usize) {
        if let Mapping::Compressed { host_offset, length_bytes } = image.mapping_at(start).unwrap().1 {
            let mut stream = vec![0; length_bytes as usize];
            image.storage().read_at(&mut stream, host_offset).unwrap();
            let (length, reach) = deflate::length_and_reach(&stream);
            assert_eq!(length as u64, CLUSTER_BYTES);
            *(if reach <= WINDOW_BYTES { &mut read } else { &mut failed }) += 1;
        }
    }
    (read, failed)
}

#[test]
fn strict_readers_read_every_cluster_of_the_narrow_window() {
    let test = "strict_readers_read_every_cluster_of_the_narrow_window";
    let Some(directory) = images(test, &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("out.qcow2");
    let source = directory.join("data-ntfs.qcow2");
    let mut sizes = Vec::new();
    for level in [Level::Fast, Level::Default, Level::Small, Level::Smallest] {
        let options = CompressOptions { window: Window::Narrow, level, ..Default::default() };
        let whole = CompressOptions { drop_free: false, ..options };
        let report = compress_file(&source, &target, &whole).unwrap();
        let (read, failed) = read_strictly(&target);
        assert!(read > 20 && failed == 0, "{level:?}: {read} read, {failed} not");
        run_ok("qemu-img", &["check", text(&target)]);
        run_ok("qemu-img", &["compare", text(&source), text(&target)]);
        sizes.push(report.output_bytes);
    }
    assert!(sizes.windows(2).all(|pair| pair[0] >= pair[1]), "{sizes:?}");
    // The reader is strict indeed.
    compress_file(&source, &target, &CompressOptions { drop_free: false, ..Default::default() }).unwrap();
    let (read, failed) = read_strictly(&target);
    assert!(failed > read, "{read} read, {failed} not");
}

#[test]
fn wide_streams_are_not_copied_into_a_narrow_window() {
    let test = "wide_streams_are_not_copied_into_a_narrow_window";
    let Some(directory) = images(test, &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (wide, narrow) = (scratch.path().join("wide.qcow2"), scratch.path().join("narrow.qcow2"));
    compress_file(&directory.join("data-ntfs.qcow2"), &wide, &CompressOptions::default()).unwrap();
    let options = CompressOptions { window: Window::Narrow, threads: 1, ..Default::default() };
    let report = compress_file(&wide, &narrow, &options).unwrap();
    assert_eq!(report.copied_bytes, 0);
    assert_eq!(read_strictly(&narrow).1, 0);
    let bytes = std::fs::read(&narrow).unwrap();
    compress_file(&wide, &narrow, &CompressOptions { threads: 3, ..options.clone() }).unwrap();
    assert!(std::fs::read(&narrow).unwrap() == bytes);
    let always = CompressOptions { recompress: Recompress::Always, ..options };
    compress_file(&wide, &narrow, &always).unwrap();
    assert!(std::fs::read(&narrow).unwrap() == bytes);
}

#[test]
fn noise_is_stored_and_does_not_disturb_the_coder() {
    let scratch = tempfile::tempdir().unwrap();
    let [source, target] = ["in.raw", "out.qcow2"].map(|name| scratch.path().join(name));
    let mut state = 1_u64;
    let mut bytes = Vec::new();
    for index in 0..60 {
        // Noise, what is mostly noise, and text by turns: the first leaves a stream unfinished when it has no room.
        let noise = [CLUSTER_BYTES, CLUSTER_BYTES - 700, CLUSTER_BYTES / 2, 0][index % 4] as usize;
        bytes.extend((0..noise).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }));
        bytes.extend(format!("line {index} ").repeat(9000).bytes().take(CLUSTER_BYTES as usize - noise));
    }
    std::fs::write(&source, &bytes).unwrap();
    for level in 1..=9 {
        let level = Level::Number(level);
        let options = CompressOptions { window: Window::Narrow, level, threads: 2, ..Default::default() };
        let report = compress_file(&source, &target, &options).unwrap();
        assert!(report.verified && report.output_bytes < report.data_bytes * 3 / 4, "{report:?}");
        assert_eq!(read_strictly(&target).1, 0);
    }
}

#[test]
fn zstd_has_no_narrow_window() {
    let options = CompressOptions {
        compression: imageops_image::compress::Compression::Zstd,
        window: Window::Narrow,
        ..Default::default()
    };
    let scratch = tempfile::tempdir().unwrap();
    let [source, target] = ["in.raw", "out.qcow2"].map(|name| scratch.path().join(name));
    std::fs::write(&source, [1; 4096]).unwrap();
    assert_eq!(compress_file(&source, &target, &options).unwrap_err().reason, reason::COMPRESSION_WINDOW);
}
