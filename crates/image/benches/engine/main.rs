//! The parts of the engine that its speed hangs on, each by itself, in memory: `cargo bench -p imageops-image`.
//!
//! A name behind it picks some: `cargo bench -p imageops-image -- digest`. Figures are for one machine and one thread
//! unless the name says otherwise; `cargo xtask bench` measures whole operations on whole images against the peers.

mod check;
mod coder;
mod digest;
mod images;
mod zeros;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

criterion_group! {
    name = engine;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = digest::benchmarks, check::benchmarks, coder::benchmarks, zeros::benchmarks
}
criterion_main!(engine);
