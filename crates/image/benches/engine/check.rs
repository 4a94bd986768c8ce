//! The check of a disk of 64 GiB without its digests, by how its clusters lie.

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use imageops_image::Control;
use imageops_image::check::{CheckOptions, CheckOutcome, check};
use imageops_image::storage::Storage;

use crate::images::{Order, mapped};

/// Clusters of 64 KiB that are mapped.
const CLUSTERS: u64 = 1 << 20;

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    group.throughput(Throughput::Elements(CLUSTERS));
    for (name, order) in [
        ("in order", Order::Ascending),
        ("scattered", Order::Scattered),
        ("two tables share each cluster", Order::Shared),
    ] {
        let image: Arc<dyn Storage> = Arc::new(mapped(CLUSTERS, order));
        for threads in [1, 2] {
            let options = CheckOptions { md5: false, sha256: false, threads, ..CheckOptions::default() };
            group.bench_function(format!("{name}, {threads} threads"), |bencher| {
                bencher.iter(|| {
                    let report = check(Arc::clone(&image), &options, &Control::default());
                    assert_eq!(report.expect("memory can be read").outcome, CheckOutcome::Consistent);
                });
            });
        }
    }
    group.finish();
}
