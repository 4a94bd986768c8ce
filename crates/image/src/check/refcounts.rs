//! The refcounts that an image stores.

use std::sync::{Arc, OnceLock};

use crate::error::Result;
use crate::format::qcow2::Header;
use crate::storage::{Storage, read_zero_filled};

/// Bits of a refcount table entry that must be zero.
pub(crate) const RESERVED_MASK: u64 = 0x1ff;
/// Largest end of a read that the format's other readers take; what lies beyond counts as unreadable.
pub(crate) const OFFSET_MAX: u64 = i64::MAX as u64 & !((1 << 30) - 1);

/// The refcount table and, for blocks that were looked at, which clusters have a refcount of exactly one.
pub(crate) struct Refcounts {
    storage: Arc<dyn Storage>,
    header: Header,
    table: Vec<u64>,
    ones: Vec<OnceLock<Ones>>,
}

/// Which clusters of a block have a refcount of exactly one.
enum Ones {
    None,
    Unreadable,
    Some(Box<[u64]>),
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
        Ok(Self {
            table: words.iter().map(|word| u64::from_be_bytes(*word)).collect(),
            ones: (0..blocks).map(|_| OnceLock::new()).collect(),
            header: header.clone(),
            storage,
        })
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

    /// Reads the block with this index into `block`: `Some(false)` when all of its clusters count 0, `None` when it
    /// cannot be read.
    pub(crate) fn read_block(&self, index: u64, block: &mut Vec<u8>) -> Result<Option<bool>> {
        match self.block_offset(index) {
            Err(()) => Ok(None),
            Ok(None) => Ok(Some(false)),
            // Past the end of the file all is zero.
            Ok(Some(offset)) if offset >= self.storage.size_bytes() => Ok(Some(false)),
            Ok(Some(offset)) => {
                block.resize(self.header.cluster_bytes() as usize, 0);
                read_zero_filled(&*self.storage, block, offset)?;
                Ok(Some(true))
            }
        }
    }

    /// Whether the refcount of a cluster is exactly one; `None` when it cannot be read.
    pub(crate) fn is_one(&self, cluster: u64) -> Result<Option<bool>> {
        let entries = self.header.refcount_block_entries();
        let (index, entry) = (cluster / entries, cluster % entries);
        let Some(slot) = usize::try_from(index).ok().and_then(|index| self.ones.get(index)) else {
            return self.read_is_one(index, entry);
        };
        let ones = match slot.get() {
            Some(ones) => ones,
            None => {
                let ones = self.read_ones(index)?;
                slot.get_or_init(|| ones)
            }
        };
        Ok(match ones {
            Ones::None => Some(false),
            Ones::Unreadable => None,
            Ones::Some(words) => Some(words[(entry / 64) as usize] >> (entry % 64) & 1 == 1),
        })
    }

    fn read_ones(&self, index: u64) -> Result<Ones> {
        let mut block = Vec::new();
        Ok(match self.read_block(index, &mut block)? {
            None => Ones::Unreadable,
            Some(false) => Ones::None,
            Some(true) => {
                let order = self.header.refcount_order;
                let word = |word: u64| {
                    (0..64).fold(0u64, |bits, bit| {
                        bits | u64::from(entry_at(&block, order, word * 64 + bit) == 1) << bit
                    })
                };
                // A block has 64 entries at least: a cluster of 512 bytes with refcounts of 64 bits.
                Ones::Some((0..self.header.refcount_block_entries() / 64).map(word).collect())
            }
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

/// The refcount with this index in a block. Below 8 bits the first one sits in the lowest bits of a byte.
pub(crate) fn entry_at(block: &[u8], order: u32, index: u64) -> u64 {
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
