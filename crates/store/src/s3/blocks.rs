//! Blocks of objects that were read, kept for the next reads of the neighbourhood.
//!
//! One budget for all blobs of a store, so that memory does not grow with the number of readers. Readers that want the
//! same block wait for one request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::OnceCell;

/// Length of a block, the last of an object excepted.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;
/// Blocks of a store that are kept: 64 MiB.
const BLOCKS_MAX: usize = 64;

pub(super) type Slot = Arc<OnceCell<Bytes>>;

/// A block of the blob with a number that no other open blob has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockId {
    pub(super) blob: u64,
    pub(super) index: u64,
}

/// The blocks, the longest unused first.
#[derive(Debug, Default)]
pub(super) struct Blocks(Mutex<VecDeque<(BlockId, Slot)>>);

impl Blocks {
    /// The place of a block, empty when nobody has asked for it lately.
    pub(super) fn slot(&self, id: BlockId) -> Slot {
        let mut blocks = self.lock();
        let slot = match blocks.iter().position(|(held, _)| *held == id) {
            Some(position) => blocks.remove(position).map(|(_, slot)| slot).unwrap_or_default(),
            None => Slot::default(),
        };
        blocks.push_back((id, Arc::clone(&slot)));
        if blocks.len() > BLOCKS_MAX {
            blocks.pop_front();
        }
        slot
    }

    /// Whether a block is held, or on its way.
    pub(super) fn holds(&self, id: BlockId) -> bool {
        self.lock().iter().any(|(held, _)| *held == id)
    }

    /// Drops the blocks of a blob.
    pub(super) fn forget(&self, blob: u64) {
        self.lock().retain(|(held, _)| held.blob != blob);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(BlockId, Slot)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(blob: u64, index: u64) -> BlockId {
        BlockId { blob, index }
    }

    #[test]
    fn the_longest_unused_block_goes_first() {
        let blocks = Blocks::default();
        let first = blocks.slot(id(1, 0));
        for index in 1..BLOCKS_MAX as u64 {
            blocks.slot(id(1, index));
        }
        assert!(Arc::ptr_eq(&first, &blocks.slot(id(1, 0))), "used again");
        blocks.slot(id(2, 0));
        assert!(blocks.holds(id(1, 0)) && !blocks.holds(id(1, 1)) && blocks.holds(id(1, 2)));
        blocks.forget(1);
        assert!(!blocks.holds(id(1, 0)) && blocks.holds(id(2, 0)));
    }
}
