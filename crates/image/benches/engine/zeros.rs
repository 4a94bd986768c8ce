//! The test for zeros that each cluster passes.

use std::hint::black_box;

use criterion::{Criterion, Throughput};

// What the crate keeps to itself is measured from its source.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../../src/compress/proof.rs"]
mod proof;

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("zeros");
    for (name, length) in [("cluster", 64 << 10), ("beyond the caches", 64 << 20)] {
        let mut bytes = vec![1u8; length];
        bytes.fill(0);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(name, |bencher| bencher.iter(|| proof::is_zero(black_box(&bytes))));
    }
    group.finish();
}
