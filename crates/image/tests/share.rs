//! Equal clusters that are stored once.

#![allow(clippy::unwrap_used, missing_docs)]

#[expect(dead_code, reason = "not all of it is needed here")]
mod peers;

use std::path::Path;

use imageops_image::compress::{CompressOptions, Compression};
use peers::{compress_file, images, run_ok, text};

const CLUSTER_BYTES: usize = 65_536;

fn sharing(compression: Compression) -> CompressOptions {
    CompressOptions { compression, share_identical: true, threads: 2, ..Default::default() }
}

/// 400 clusters: noise and text, most of them more than once, next to each other and far apart, and a short one.
fn disk() -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..400_usize {
        let kind = [index, 3, index % 7, 5, index % 40][index % 5];
        if kind % 2 == 0 {
            let mut state = kind as u64 + 1;
            bytes.extend((0..CLUSTER_BYTES).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            }));
        } else {
            bytes.extend(format!("text of kind {kind} ").repeat(5000).bytes().take(CLUSTER_BYTES));
        }
    }
    bytes.extend_from_within(..1024);
    bytes
}

fn assert_clean_and_same(source: &Path, target: &Path) {
    run_ok("qemu-img", &["check", text(target)]);
    run_ok("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", text(source), text(target)]);
}

#[test]
fn equal_clusters_are_stored_once() {
    let Some(_) = images("equal_clusters_are_stored_once", &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let [source, target, other] = ["in.raw", "out.qcow2", "b.qcow2"].map(|name| scratch.path().join(name));
    std::fs::write(&source, disk()).unwrap();
    for compression in [Compression::Zlib, Compression::Zstd] {
        let report = compress_file(&source, &target, &sharing(compression)).unwrap();
        let alone = CompressOptions { compression, ..Default::default() };
        let plain = compress_file(&source, &other, &alone).unwrap();
        assert_eq!((plain.shared_bytes, plain.data_bytes), (0, report.data_bytes));
        assert_eq!(plain.content_proof, report.content_proof);
        assert!(report.shared_bytes > report.data_bytes / 2, "{report:?}");
        assert!(
            report.output_bytes < plain.output_bytes / 2,
            "{} {}",
            report.output_bytes,
            plain.output_bytes
        );
        assert_clean_and_same(&source, &target);
        let bytes = std::fs::read(&target).unwrap();
        for threads in [1, 3] {
            compress_file(&source, &other, &CompressOptions { threads, ..sharing(compression) }).unwrap();
            assert!(std::fs::read(&other).unwrap() == bytes, "{threads} threads");
        }
        // Copied streams are shared, too.
        let again = compress_file(&target, &other, &sharing(compression)).unwrap();
        assert_eq!((again.output_bytes, again.shared_bytes), (report.output_bytes, report.shared_bytes));
        assert!(again.copied_bytes > 0);
    }
}

#[test]
fn a_guest_that_writes_gets_clusters_of_its_own() {
    let Some(_) = images("a_guest_that_writes_gets_clusters_of_its_own", &["qemu-img", "qemu-io"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let [source, target] = ["in.raw", "out.qcow2"].map(|name| scratch.path().join(name));
    std::fs::write(&source, disk()).unwrap();
    compress_file(&source, &target, &sharing(Compression::Zlib)).unwrap();
    for (place, length) in [("0", "4k"), ("65k", "200k"), ("1M", "64k"), ("20M", "1M")] {
        for (format, path) in [("raw", &source), ("qcow2", &target)] {
            run_ok("qemu-io", &["-f", format, "-c", &format!("write -P 7 {place} {length}"), text(path)]);
        }
        assert_clean_and_same(&source, &target);
    }
}
