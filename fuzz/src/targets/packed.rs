//! Files that are packed by themselves.

use std::io::{self, Read};
use std::sync::Arc;

use imageops_archive::{Error, ErrorKind, Limits, Packing, unpack};
use imageops_image::storage::Storage;

use super::{Limits as Cost, within};
use crate::sparse::Sparse;

/// Memory: a window of 64 MiB, what a decoder keeps beside it, and the buffers.
const COST: Cost = Cost { memory_bytes: 160 << 20, reads: 1 << 16, bytes_read: 256 << 20 };
/// Small, so that the bounds are met.
const LIMITS: Limits =
    Limits { max_bytes: 32 << 20, ratio_max: 200, ratio_free_bytes: 1 << 20, take_first: true };

/// Longest file: zeros behind the last stream of xz are padding, and all of them are read.
const PACKED_BYTES_MAX: u64 = 64 << 20;

/// An image as a stream.
struct Stream<'a> {
    image: &'a Sparse,
    place: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.image.read_at(buffer, self.place)?;
        self.place += count as u64;
        Ok(count)
    }
}

/// Unpacks a file, as whatever it begins like.
pub fn packed(input: &[u8]) {
    let image = Arc::new(Sparse::decode(input));
    within(&COST, &image, || {
        for packing in [Packing::Gzip, Packing::Xz, Packing::Zstd] {
            let stream = Stream { image: &image, place: 0 };
            let mut file = match unpack(stream.take(PACKED_BYTES_MAX), packing, &LIMITS) {
                Ok(file) => file,
                Err(error) => {
                    assert!(error.kind != ErrorKind::Io, "memory can be read: {error}");
                    continue;
                }
            };
            let mut total = 0;
            let mut buffer = [0; 10_000];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => total += count as u64,
                    Err(error) => {
                        assert!(Error::from_read(error).kind != ErrorKind::Io, "memory can be read");
                        break assert!(file.read(&mut buffer).is_err(), "what failed fails again");
                    }
                }
                assert!(total <= LIMITS.max_bytes);
            }
        }
    });
}
