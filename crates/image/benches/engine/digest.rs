//! Digests: ours beside the general crates, and a whole file with each and with both.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use imageops_image::Control;
use imageops_image::digest::{Digester, Selection, digest_storage};
use md5::Digest;

use crate::images::noise;

/// Bytes that stay in the processor's cache.
const BUFFER_BYTES: usize = 512 << 10;
/// Bytes of the file.
const FILE_BYTES: usize = 64 << 20;

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let buffer = noise(BUFFER_BYTES);
    let mut group = criterion.benchmark_group("digest/buffer");
    group.throughput(Throughput::Bytes(BUFFER_BYTES as u64));
    for (name, md5, sha256) in [("md5", true, false), ("sha256", false, true)] {
        let mut digester = Digester::new(Selection { md5, sha256, ..Selection::default() });
        group.bench_function(name, |bencher| bencher.iter(|| digester.update(black_box(&buffer))));
    }
    let mut md5 = md5::Md5::new();
    group.bench_function("md5 of the md-5 crate", |bencher| bencher.iter(|| md5.update(black_box(&buffer))));
    let mut sha256 = sha2::Sha256::new();
    group.bench_function("sha256 of the sha2 crate", |bencher| {
        bencher.iter(|| sha256.update(black_box(&buffer)));
    });
    group.finish();

    let file = noise(FILE_BYTES);
    let mut group = criterion.benchmark_group("digest/file");
    group.throughput(Throughput::Bytes(FILE_BYTES as u64));
    for (name, md5, sha256) in
        [("md5", true, false), ("sha256", false, true), ("md5 and sha256, a thread each", true, true)]
    {
        let selection = Selection { md5, sha256, ..Selection::default() };
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| digest_storage(&file, selection, &Control::default()).expect("memory can be read"));
        });
    }
    group.finish();
}
