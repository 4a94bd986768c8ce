//! Entries of L1 and L2 tables.

use crate::format::qcow2::Header;

/// Host offset in an L1 entry.
pub(crate) const L1_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry that must be zero.
pub(crate) const L1_RESERVED_MASK: u64 = 0x7f00_0000_0000_01ff;
/// Host offset in a standard L2 entry.
pub(crate) const L2_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of a standard L2 entry that must be zero.
pub(crate) const STANDARD_RESERVED_MASK: u64 = 0x3f00_0000_0000_01fe;
/// The cluster's refcount is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

/// How many entries of an L2 table, from the first one on, say the same but for host clusters that follow each other;
/// `most` at most. With subclusters `N` is 16, else 8; their bitmaps are not looked at.
pub(crate) fn run_length<const N: usize>(entries: &[[u8; N]], cluster_bits: u32, most: u64) -> u64 {
    let Some(first) = entries.first() else { return 0 };
    let first = word_of(first);
    let follows =
        |(entry, step): &(&[u8; N], u64)| word_of(entry) == first.wrapping_add(*step << cluster_bits);
    entries.iter().zip(0..most).take_while(follows).count() as u64
}

/// The word of an entry of an L2 table that says where its cluster is.
pub(crate) fn word_of<const N: usize>(entry: &[u8; N]) -> u64 {
    let (words, _) = entry.as_chunks::<8>();
    u64::from_be_bytes(words[0])
}

/// What the bitmaps of subclusters say, where an entry has them.
pub(crate) fn bitmap_of<const N: usize>(entry: &[u8; N]) -> u64 {
    let (words, _) = entry.as_chunks::<8>();
    words.get(1).map_or(0, |word| u64::from_be_bytes(*word))
}

/// What an L2 entry says of its cluster. Subclusters are in a word of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L2Entry {
    /// Nothing stored.
    Unallocated,
    /// Reads as zeros, no cluster behind it.
    ZeroPlain,
    /// Reads as zeros, with a host cluster kept for it.
    ZeroAllocated { host_offset: u64 },
    /// Stored as it is.
    Normal { host_offset: u64 },
    /// Stored compressed: where the stream starts, and the most bytes it may take.
    Compressed { host_offset: u64, length_bytes: u64 },
}

impl L2Entry {
    /// Decodes a word by the rules of `header`. The zero bit has no meaning in images with subclusters.
    pub(crate) fn decode(word: u64, header: &Header) -> Self {
        if word & COMPRESSED != 0 {
            let shift = 62 - (header.cluster_bits - 8);
            let host_offset = word & ((1 << shift) - 1);
            let sectors = ((word >> shift) & ((1 << (header.cluster_bits - 8)) - 1)) + 1;
            return Self::Compressed { host_offset, length_bytes: sectors * 512 - (host_offset & 511) };
        }
        let host_offset = word & L2_OFFSET_MASK;
        if word & ZERO != 0 && !header.has_subclusters() {
            return if host_offset == 0 { Self::ZeroPlain } else { Self::ZeroAllocated { host_offset } };
        }
        // In an external data file the first cluster is as good as any other.
        if host_offset == 0 && !(header.has_data_file() && word & COPIED != 0) {
            return Self::Unallocated;
        }
        Self::Normal { host_offset }
    }
}
