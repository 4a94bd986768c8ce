//! Compression of 16 MiB, one thread, nothing verified: what is left beside the coder is small.

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use imageops_image::Control;
use imageops_image::compress::{CompressOptions, Compression, Level, compress};
use imageops_image::format::Format;
use imageops_image::storage::Storage;

use crate::images::{noise, text};

/// Bytes of the disk.
const DISK_BYTES: usize = 16 << 20;

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("coder");
    group.throughput(Throughput::Bytes(DISK_BYTES as u64));
    let disks: [(&str, Arc<dyn Storage>); 2] =
        [("text", Arc::new(text(DISK_BYTES))), ("noise", Arc::new(noise(DISK_BYTES)))];
    for (content, disk) in disks {
        for (name, compression, level) in [
            ("zlib 1", Compression::Zlib, 1),
            ("zlib 4", Compression::Zlib, 4),
            ("zlib 6", Compression::Zlib, 6),
            ("zstd 1", Compression::Zstd, 1),
            ("zstd 3", Compression::Zstd, 3),
        ] {
            let options = CompressOptions {
                compression,
                level: Level::Number(level),
                threads: 1,
                verify: false,
                ..CompressOptions::default()
            };
            group.bench_function(format!("{name}, {content}"), |bencher| {
                bencher.iter(|| {
                    let output = tempfile::tempfile().expect("there is a directory for temporary files");
                    compress(Arc::clone(&disk), Some(Format::Raw), &output, &options, &Control::default())
                        .expect("there is space for the output")
                });
            });
        }
    }
    group.finish();
}
