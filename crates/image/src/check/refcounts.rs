//! The refcounts that an image stores.

use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::format::qcow2::Header;
use crate::storage::{Storage, read_zero_filled};

/// Bits of a refcount table entry that must be zero.
pub(crate) const RESERVED_MASK: u64 = 0x1ff;
/// Largest end of a read that the format's other readers take; what lies beyond counts as unreadable.
pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64 & !((1 << 30) - 1);

/// Blocks of which the medium is told before they are read.
const READ_AHEAD_BLOCKS: u64 = 8;
/// Entries that a word of [`Ones`] stands for.
const WORD_ENTRIES: usize = 64;

/// The refcount table and, of blocks that were looked at, which clusters have a refcount of exactly one.
pub(crate) struct Refcounts {
    storage: Arc<dyn Storage>,
    header: Header,
    table: Vec<u64>,
    blocks: Vec<OnceLock<Block>>,
}

/// What is kept of a block.
enum Block {
    /// All clusters count 0.
    Zeros,
    Unreadable,
    Read(Ones),
}

/// Which clusters of a block have a refcount of exactly one.
struct Ones {
    bits: Box<[u64]>,
    /// All others count 0: the bits are all there is to know.
    whole: bool,
}

/// The refcounts of a block, to compare with.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'a> {
    /// All are 0.
    Zeros,
    /// 0 or 1 each, a bit for each.
    Bits(&'a [u64]),
    /// As the block has them.
    Entries(&'a [u8]),
}

impl Refcounts {
    /// Reads the table; `clusters` is the number of clusters of the file.
    pub(crate) fn read(storage: Arc<dyn Storage>, header: &Header, clusters: u64) -> Result<Self> {
        // What lies past the end of the file is zero and need not be there.
        let offset = header.refcount_table_offset;
        let inside = header.refcount_table_bytes().min(storage.size_bytes().saturating_sub(offset));
        let mut bytes = vec![0u8; inside.next_multiple_of(8) as usize];
        read_zero_filled(&*storage, &mut bytes, offset)?;
        let (words, _) = bytes.as_chunks::<8>();
        let blocks = clusters.div_ceil(header.refcount_block_entries()).min(words.len() as u64);
        let refcounts = Self {
            table: words.iter().map(|word| u64::from_be_bytes(*word)).collect(),
            blocks: (0..blocks).map(|_| OnceLock::new()).collect(),
            header: header.clone(),
            storage,
        };
        (0..READ_AHEAD_BLOCKS.min(blocks)).for_each(|index| refcounts.will_need(index));
        Ok(refcounts)
    }

    /// The entries of the table, without the trailing ones that lie past the end of the file.
    pub(crate) fn table(&self) -> &[u64] {
        &self.table
    }

    /// Offset of the block with this index: `Ok(None)` when all of its clusters count 0, `Err` when its offset is none.
    fn block_offset(&self, index: u64) -> std::result::Result<Option<u64>, ()> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index)).copied().unwrap_or(0);
        let offset = entry & !RESERVED_MASK;
        let readable =
            self.header.is_cluster_aligned(offset) && offset <= OFFSET_MAX - self.header.cluster_bytes();
        match offset {
            0 => Ok(None),
            offset if readable => Ok(Some(offset)),
            _ => Err(()),
        }
    }

    /// Tells the medium of a block that will be read soon.
    fn will_need(&self, index: u64) {
        if let Ok(Some(offset)) = self.block_offset(index) {
            self.storage.will_need(offset..offset + self.header.cluster_bytes());
        }
    }

    /// Reads the block with this index into `block`: `Some(false)` when all of its clusters count 0, `None` when it
    /// cannot be read.
    fn read_block(&self, index: u64, block: &mut Vec<u8>) -> Result<Option<bool>> {
        match self.block_offset(index) {
            Err(()) => Ok(None),
            Ok(None) => Ok(Some(false)),
            // Past the end of the file all is zero.
            Ok(Some(offset)) if offset >= self.storage.size_bytes() => Ok(Some(false)),
            Ok(Some(offset)) => {
                self.will_need(index + READ_AHEAD_BLOCKS);
                block.resize(self.header.cluster_bytes() as usize, 0);
                read_zero_filled(&*self.storage, block, offset)?;
                Ok(Some(true))
            }
        }
    }

    /// The refcounts of the block with this index, `None` when it cannot be read. Blocks that the walk has met are not
    /// read again when what was kept of them is enough; else `buffer` takes the block.
    pub(crate) fn stored<'a>(&'a self, index: u64, buffer: &'a mut Vec<u8>) -> Result<Option<Stored<'a>>> {
        match self.blocks.get(index as usize).and_then(OnceLock::get) {
            Some(Block::Zeros) => return Ok(Some(Stored::Zeros)),
            Some(Block::Unreadable) => return Ok(None),
            Some(Block::Read(ones)) if ones.whole => return Ok(Some(Stored::Bits(&ones.bits))),
            _ => {}
        }
        Ok(match self.read_block(index, buffer)? {
            None => None,
            Some(false) => Some(Stored::Zeros),
            Some(true) => Some(Stored::Entries(buffer)),
        })
    }

    /// Whether the refcount of a cluster is exactly one; `None` when it cannot be read.
    pub(crate) fn is_one(&self, cluster: u64) -> Result<Option<bool>> {
        let entries = self.header.refcount_block_entries();
        if usize::try_from(cluster / entries).is_ok_and(|index| index < self.blocks.len()) {
            let ones = self.ones(cluster / WORD_ENTRIES as u64)?;
            return Ok(ones.map(|ones| ones >> (cluster % WORD_ENTRIES as u64) & 1 == 1));
        }
        self.read_is_one(cluster / entries, cluster % entries)
    }

    /// Which of 64 clusters of the file, from `word` times 64 on, have a refcount of exactly one, a bit for each; `None`
    /// when their refcounts cannot be read. What the table has no block for counts 0.
    pub(crate) fn ones(&self, word: u64) -> Result<Option<u64>> {
        // A block has 64 entries at least, and a power of two: a cluster of 512 bytes with refcounts of 64 bits.
        let words = self.header.refcount_block_entries() / WORD_ENTRIES as u64;
        let (index, word) = (word / words, word % words);
        let Some(slot) = self.blocks.get(index as usize) else { return Ok(Some(0)) };
        let block = match slot.get() {
            Some(block) => block,
            None => {
                let block = self.read_ones(index)?;
                slot.get_or_init(|| block)
            }
        };
        Ok(match block {
            Block::Zeros => Some(0),
            Block::Unreadable => None,
            Block::Read(ones) => Some(ones.bits[word as usize]),
        })
    }

    fn read_ones(&self, index: u64) -> Result<Block> {
        let mut block = Vec::new();
        Ok(match self.read_block(index, &mut block)? {
            None => Block::Unreadable,
            Some(false) => Block::Zeros,
            Some(true) => Block::Read(match self.header.refcount_order {
                4 => Ones::of_16_bits(&block),
                order => Ones::of_any_width(&block, order),
            }),
        })
    }

    /// The same for clusters far beyond the end of the file, one by one: nothing is kept for them.
    fn read_is_one(&self, index: u64, entry: u64) -> Result<Option<bool>> {
        let offset = match self.block_offset(index) {
            Err(()) => return Ok(None),
            Ok(None) => return Ok(Some(false)),
            Ok(Some(offset)) => offset,
        };
        let mut word = [0u8; 8];
        let bit = entry << self.header.refcount_order;
        let start = bit / 64 * 8;
        read_zero_filled(&*self.storage, &mut word, offset + start)?;
        let order = self.header.refcount_order;
        Ok(Some(entry_at(&word, order, (bit % 64) >> order) == 1))
    }
}

impl Stored<'_> {
    /// The refcount with this index.
    pub(crate) fn get(&self, order: u32, index: u64) -> u64 {
        match self {
            Self::Zeros => 0,
            Self::Bits(bits) => {
                bits[(index / WORD_ENTRIES as u64) as usize] >> (index % WORD_ENTRIES as u64) & 1
            }
            Self::Entries(block) => entry_at(block, order, index),
        }
    }
}

impl Ones {
    /// Of a block with refcounts of the usual width, 64 of them at a time and without branches.
    fn of_16_bits(block: &[u8]) -> Self {
        const ONE: u16 = 1u16.to_be();
        let (entries, _) = block.as_chunks::<2>();
        let (words, _) = entries.as_chunks::<WORD_ENTRIES>();
        let mut others = 0u16;
        let bits = words.iter().map(|word| {
            let mut is_one = [0u8; WORD_ENTRIES];
            for (is_one, entry) in is_one.iter_mut().zip(word) {
                let entry = u16::from_ne_bytes(*entry);
                *is_one = u8::from(entry == ONE);
                others |= entry & !ONE;
            }
            gather_bits(&is_one)
        });
        Self { bits: bits.collect(), whole: others == 0 }
    }

    fn of_any_width(block: &[u8], order: u32) -> Self {
        let mut whole = true;
        let entries = (block.len() as u64 * 8) >> order;
        let bits = (0..entries / WORD_ENTRIES as u64).map(|word| {
            (0..WORD_ENTRIES as u64).fold(0u64, |bits, bit| {
                let stored = entry_at(block, order, word * WORD_ENTRIES as u64 + bit);
                whole &= stored <= 1;
                bits | u64::from(stored == 1) << bit
            })
        });
        Self { bits: bits.collect(), whole }
    }
}

/// One bit for each byte, each 0 or 1.
fn gather_bits(bytes: &[u8; WORD_ENTRIES]) -> u64 {
    // Moves the byte with index i to bit 56 + i of the product: 8 i + 7 (8 - i) = 56 + i. No two meet elsewhere.
    const TO_THE_TOP: u64 = 0x0102_0408_1020_4080;
    let (eights, _) = bytes.as_chunks::<8>();
    let gathered = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(TO_THE_TOP) >> 56;
    eights.iter().rev().fold(0, |bits, eight| bits << 8 | gathered(eight))
}

/// The refcount with this index in a block. Below 8 bits the first one sits in the lowest bits of a byte.
fn entry_at(block: &[u8], order: u32, index: u64) -> u64 {
    let index = index as usize;
    match order {
        0..=2 => {
            let per_byte = 8 >> order;
            let byte = block[index / per_byte];
            u64::from(byte >> ((index % per_byte) << order)) & ((1 << (1 << order)) - 1)
        }
        3 => u64::from(block[index]),
        4 => u64::from(u16::from_be_bytes([block[index * 2], block[index * 2 + 1]])),
        _ => {
            let bytes = 1 << (order - 3);
            let entry = &block[index * bytes..(index + 1) * bytes];
            entry.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The fast way and the plain one, on blocks of zeros and ones, and with others among them.
        #[test]
        fn ones_of_a_block(entries in prop::collection::vec(0..4u16, 256), others in any::<bool>()) {
            let cut = |entry: u16| if others { entry } else { entry % 2 };
            let block: Vec<u8> = entries.iter().flat_map(|entry| cut(*entry).to_be_bytes()).collect();
            let (fast, plain) = (Ones::of_16_bits(&block), Ones::of_any_width(&block, 4));
            prop_assert_eq!(&fast.bits, &plain.bits);
            prop_assert_eq!(fast.whole, plain.whole);
            for (entry, index) in entries.iter().zip(0..) {
                prop_assert_eq!(plain.bits[index / 64] >> (index % 64) & 1 == 1, cut(*entry) == 1);
            }
        }
    }
}
