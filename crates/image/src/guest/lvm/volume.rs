//! A logical volume as a disk of its own, in pieces on the disk that holds it.

use crate::disk::{Disk, Extent, ExtentKind};
use crate::error::Result;

/// A stretch of a volume: stripes from each column in turn.
#[derive(Debug)]
pub(crate) struct Stripes {
    /// First byte in the volume.
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Divides the share of a column.
    pub(crate) stripe_bytes: u64,
    /// First byte of each column on the disk.
    pub(crate) columns: Vec<u64>,
}

impl Stripes {
    /// Bytes of a column.
    pub(crate) fn column_bytes(&self) -> u64 {
        self.length / self.columns.len() as u64
    }

    /// The byte of the volume at `offset` of a column, and how many follow it there.
    pub(crate) fn logical(&self, column: usize, offset: u64) -> (u64, u64) {
        let (row, inside) = (offset / self.stripe_bytes, offset % self.stripe_bytes);
        let stripe = row * self.columns.len() as u64 + column as u64;
        (self.start + stripe * self.stripe_bytes + inside, self.stripe_bytes - inside)
    }

    /// The byte of the disk at `offset` of the stretch, and how many follow it there.
    fn physical(&self, offset: u64) -> (u64, u64) {
        let (stripe, inside) = (offset / self.stripe_bytes, offset % self.stripe_bytes);
        let width = self.columns.len() as u64;
        let column = self.columns[(stripe % width) as usize];
        (column + stripe / width * self.stripe_bytes + inside, self.stripe_bytes - inside)
    }
}

/// Where the bytes of a volume lie.
#[derive(Debug)]
pub(crate) struct Map {
    /// In the order of the volume, without gaps.
    pub(crate) stretches: Vec<Stripes>,
    pub(crate) length_bytes: u64,
}

/// A volume on its disk.
pub(crate) struct VolumeDisk<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) map: &'a Map,
}

impl Disk for VolumeDisk<'_> {
    fn virtual_size_bytes(&self) -> u64 {
        self.map.length_bytes
    }

    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        let stretches = &self.map.stretches;
        let mut index = stretches.partition_point(|stretch| stretch.start + stretch.length <= offset);
        while !buffer.is_empty() {
            let Some(stretch) = stretches.get(index) else {
                buffer.fill(0);
                break;
            };
            let (place, follow) = stretch.physical(offset - stretch.start);
            let left = follow.min(stretch.start + stretch.length - offset);
            let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (head, tail) = buffer.split_at_mut(length);
            self.disk.read_at(head, place)?;
            (buffer, offset) = (tail, offset + length as u64);
            index += usize::from(offset == stretch.start + stretch.length);
        }
        Ok(())
    }

    /// Readers of file systems ask for bytes only; what the medium stores is the affair of the whole disk.
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let range = offset..self.map.length_bytes;
        Ok((!range.is_empty()).then_some(Extent { range, kind: ExtentKind::Data }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::format::{self, Format};
    use crate::storage::Storage;

    /// Stretches over pieces of a disk in an odd order, and the bytes that the volume then has.
    fn map(disk: &[u8], stretches: &[(u64, u64, u64)]) -> (Map, Vec<u8>) {
        let (mut made, mut content, mut place) = (Vec::new(), Vec::new(), 0);
        for (width, stripe_bytes, rows) in stretches {
            let columns: Vec<u64> =
                (0..*width).rev().map(|column| place + column * rows * stripe_bytes).collect();
            for row in 0..*rows {
                for column in &columns {
                    let start = (column + row * stripe_bytes) as usize;
                    content.extend_from_slice(&disk[start..start + *stripe_bytes as usize]);
                }
            }
            let (start, length) = (
                made.last().map_or(0, |last: &Stripes| last.start + last.length),
                width * stripe_bytes * rows,
            );
            made.push(Stripes { start, length, stripe_bytes: *stripe_bytes, columns });
            place += length + 3;
        }
        let length_bytes = content.len() as u64;
        (Map { stretches: made, length_bytes }, content)
    }

    proptest! {
        #[test]
        fn reads_what_lies_there_and_finds_the_way_back(
            stretches in prop::collection::vec((1..4_u64, 1..40_u64, 1..5_u64), 1..5),
            offset in 0..600_u64,
            length in 0..300_usize,
        ) {
            let bytes: Vec<u8> = (0..4096_u32).map(|index| (index * 7 % 251) as u8).collect();
            let storage: Arc<dyn Storage> = Arc::new(bytes.clone());
            let disk = format::open(storage, Some(Format::Raw)).unwrap().disk;
            let (map, mut content) = map(&bytes, &stretches);
            for stretch in &map.stretches {
                for (column, start) in stretch.columns.iter().enumerate() {
                    for place in 0..stretch.column_bytes() {
                        let (logical, follow) = stretch.logical(column, place);
                        prop_assert_eq!(stretch.physical(logical - stretch.start), (start + place, follow));
                    }
                }
            }
            content.resize(4096, 0);
            let volume = VolumeDisk { disk: &*disk, map: &map };
            let mut buffer = vec![1; length];
            volume.read_at(&mut buffer, offset).unwrap();
            prop_assert_eq!(&buffer[..], &content[offset as usize..offset as usize + length]);
        }
    }
}
