//! Reference counts that are lowered in place.

use super::batch::PIECE_BYTES;
use super::medium::Medium;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::Header;
use crate::reason;
use crate::storage::read_zero_filled;

/// Bits of an entry of the table that are no offset.
const RESERVED_MASK: u64 = 0x1ff;

/// The stored reference counts of an image whose check was clean.
pub(super) struct Counts<'a> {
    header: &'a Header,
    /// Offsets of the blocks.
    table: Vec<u64>,
}

impl<'a> Counts<'a> {
    /// Reads the table, of 8 MiB at most.
    pub(super) fn read(header: &'a Header, medium: &dyn Medium) -> Result<Self> {
        let offset = header.refcount_table_offset;
        let inside = header.refcount_table_bytes().min(medium.size_bytes().saturating_sub(offset));
        let mut bytes = vec![0; inside.next_multiple_of(8) as usize];
        read_zero_filled(medium, &mut bytes, offset)?;
        let (words, _) = bytes.as_chunks::<8>();
        let table = words.iter().map(|word| u64::from_be_bytes(*word) & !RESERVED_MASK).collect();
        Ok(Self { header, table })
    }

    /// Lowers the count of each cluster of the host by the number of times that it is listed; `clusters` is sorted.
    /// `unused` gets those that nothing uses any more.
    pub(super) fn lower(&self, medium: &dyn Medium, clusters: &[u64], unused: &mut Vec<u64>) -> Result<()> {
        let piece_bytes = PIECE_BYTES.min(self.header.cluster_bytes());
        let per_piece = (piece_bytes * 8) >> self.header.refcount_order;
        let mut piece = vec![0; piece_bytes as usize];
        for group in clusters.chunk_by(|one, other| one / per_piece == other / per_piece) {
            let first = group[0] / per_piece * per_piece;
            let place = self.place(first, piece_bytes)?;
            read_zero_filled(medium, &mut piece, place)?;
            for same in group.chunk_by(|one, other| one == other) {
                let left = lower(&mut piece, self.header.refcount_order, same[0] - first, same.len() as u64)
                    .ok_or_else(|| changed(place))?;
                if left == 0 {
                    unused.push(same[0]);
                }
            }
            medium.write_at(&piece, place)?;
        }
        Ok(())
    }

    /// Where the piece that begins with the count of `cluster` lies.
    fn place(&self, cluster: u64, piece_bytes: u64) -> Result<u64> {
        let per_block = self.header.refcount_block_entries();
        let block = usize::try_from(cluster / per_block).ok().and_then(|index| self.table.get(index));
        let block = block.copied().filter(|block| *block != 0).ok_or_else(|| changed(0))?;
        let inside = ((cluster % per_block) << self.header.refcount_order) / 8;
        debug_assert!(inside.is_multiple_of(piece_bytes), "pieces do not cross blocks");
        Ok(block + inside)
    }
}

/// The counts were clean when they were checked, and the image is locked.
fn changed(offset: u64) -> Error {
    let message = "a reference count is lower than it was when the image was checked";
    Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message).at(offset)
}

/// Lowers the count with this index in a piece of a block and returns what is left; `None`, with nothing changed, when
/// it is lower than that. Counts have `1 << order` bits; below 8 bits the first one sits in the lowest bits of a byte.
fn lower(piece: &mut [u8], order: u32, index: u64, by: u64) -> Option<u64> {
    let index = index as usize;
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        let mask = ((1_u16 << (1 << order)) - 1) as u8;
        let byte = &mut piece[index / per_byte];
        let left = u8::try_from(u64::from(*byte >> shift & mask).checked_sub(by)?).ok()?;
        *byte = *byte & !(mask << shift) | left << shift;
        return Some(left.into());
    }
    let bytes = 1 << (order - 3);
    let entry = &mut piece[index * bytes..(index + 1) * bytes];
    let left = entry.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)).checked_sub(by)?;
    entry.copy_from_slice(&left.to_be_bytes()[8 - bytes..]);
    Some(left)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The counts of a piece, bit by bit.
    fn counts(piece: &[u8], order: u32) -> Vec<u64> {
        let bits = 1_usize << order;
        let count = |index: usize| match order {
            0..=2 => u64::from(piece[index * bits / 8] >> (index * bits % 8)) & ((1 << bits) - 1),
            _ => {
                let bytes = &piece[index * bits / 8..(index + 1) * bits / 8];
                bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
            }
        };
        (0..piece.len() * 8 / bits).map(count).collect()
    }

    proptest! {
        #[test]
        fn one_count_is_lowered_and_no_other(
            bytes in prop::collection::vec(any::<u8>(), 64..=64),
            order in 0..=6_u32,
            index in any::<prop::sample::Index>(),
            by in 1..4_u64,
        ) {
            let mut expected = counts(&bytes, order);
            let index = index.index(expected.len());
            let mut piece = bytes.clone();
            let left = lower(&mut piece, order, index as u64, by);
            prop_assert_eq!(left, expected[index].checked_sub(by));
            expected[index] = left.unwrap_or(expected[index]);
            prop_assert_eq!(counts(&piece, order), expected);
        }
    }
}
