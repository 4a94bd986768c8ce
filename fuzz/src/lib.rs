//! What the fuzz targets of the disk-image engine share: images in few bytes, changes to them, checksums put right after
//! a change, and what must be true whatever the image. `README.md` tells how to run them.
//!
//! Nothing here needs libFuzzer: `tests/seeds.rs` runs the same targets with changes of its own.

pub mod memory;
pub mod mutate;
pub mod numbers;
pub mod seal;
pub mod sparse;
pub mod targets;

use std::sync::{Mutex, MutexGuard, PoisonError};

use self::numbers::Numbers;
use self::sparse::Sparse;

/// Held by whoever measures memory, which is that of all threads.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change of a fuzzer's input, made to what it means. `None` when the result would be longer than `length_max`.
pub fn change(input: &[u8], seed: u64, length_max: usize) -> Option<Vec<u8>> {
    let mut image = Sparse::decode(input);
    mutate::mutate(&mut image, &mut Numbers::new(seed));
    Some(image.encode()).filter(|bytes| bytes.len() <= length_max)
}

/// A program of libFuzzer for the target of this name.
#[macro_export]
macro_rules! fuzz {
    ($name:ident) => {
        ::libfuzzer_sys::fuzz_target!(|input: &[u8]| $crate::targets::run(stringify!($name), input));
        // Half of the changes know fields; the other half are libFuzzer's own, which know what was compared.
        ::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let changed = $crate::change(&data[..size], seed.into(), max_size).filter(|_| seed % 2 == 0);
            match changed {
                Some(bytes) => {
                    data[..bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                }
                None => ::libfuzzer_sys::fuzzer_mutate(data, size, max_size),
            }
        });
    };
}
