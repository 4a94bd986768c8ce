//! Archives.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use imageops_archive::{ErrorKind, Limits, open};
use imageops_image::storage::Storage;

use super::{Limits as Cost, within};
use crate::sparse::Sparse;

/// Memory: a directory of 4 MiB with copies of its names, and the buffers of a member.
const COST: Cost = Cost { memory_bytes: 32 << 20, reads: 1 << 16, bytes_read: 256 << 20 };
/// Small, so that the bounds are met.
const LIMITS: Limits =
    Limits { max_bytes: 32 << 20, ratio_max: 200, ratio_free_bytes: 1 << 20, take_first: true };

/// An image as a file.
struct File<'a> {
    image: &'a Sparse,
    place: u64,
}

impl Read for File<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.image.read_at(buffer, self.place)?;
        self.place += count as u64;
        Ok(count)
    }
}

impl Seek for File<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(place) => (place, 0),
            SeekFrom::End(by) => (self.image.size_bytes, by),
            SeekFrom::Current(by) => (self.place, by),
        };
        self.place = from.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place)
    }
}

/// Opens an archive and reads the image out of it.
pub fn zip(input: &[u8]) {
    let image = Arc::new(Sparse::decode(input));
    within(&COST, &image, || {
        let mut member = match open(File { image: &image, place: 0 }, &LIMITS) {
            Ok(member) => member,
            Err(error) => {
                assert!(error.kind != ErrorKind::Io, "memory can be read: {error}");
                return;
            }
        };
        assert!(member.size_bytes() <= LIMITS.max_bytes);
        assert!(
            !member.base_name().contains(['/', '\\']) && !member.base_name().chars().any(char::is_control)
        );
        let mut total = 0;
        let mut buffer = [0; 10_000];
        loop {
            match member.read(&mut buffer) {
                Ok(0) => break assert_eq!(total, member.size_bytes(), "what is whole has its length"),
                Ok(count) => total += count as u64,
                Err(_) => break assert!(member.read(&mut buffer).is_err(), "what failed fails again"),
            }
            assert!(total <= member.size_bytes());
        }
    });
}
