//! Tasks of the imageops workspace: cargo xtask test, check, bench.

fn main() {}
