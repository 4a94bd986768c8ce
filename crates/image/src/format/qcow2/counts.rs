//! Reference counts of a file that is being written.

use std::collections::VecDeque;
use std::ops::Range;

use crate::format::qcow2::writer::{CLUSTER_BYTES, Write};

/// 16-bit counts: a cluster may hold the ends of some hundred compressed streams.
pub(super) const COUNTS_PER_BLOCK: u64 = CLUSTER_BYTES / 2;
/// Sharing takes a count no further, so that there is room left for all the streams that may still come to lie in the
/// cluster.
const SHARED_COUNT_MAX: u16 = 32_768;

/// Reference counts of the clusters of the file.
#[derive(Default)]
pub(super) struct Counts {
    /// Blocks from number `table.len()` on, not written yet.
    blocks: VecDeque<Vec<u16>>,
    /// Offsets of the blocks that were written.
    table: Vec<u64>,
}

impl Counts {
    /// Offsets of the blocks that were written.
    pub(super) fn table(&self) -> &[u64] {
        &self.table
    }

    /// How many blocks were written.
    pub(super) fn written(&self) -> usize {
        self.table.len()
    }

    /// One more use of each cluster that `bytes` touches.
    pub(super) fn add(&mut self, bytes: Range<u64>) {
        for cluster in bytes.start / CLUSTER_BYTES..bytes.end.div_ceil(CLUSTER_BYTES) {
            let block = usize::try_from(cluster / COUNTS_PER_BLOCK).expect("bounded by the file's size");
            let block = block
                .checked_sub(self.table.len())
                .expect("written blocks lie below everything that is placed");
            while self.blocks.len() <= block {
                self.blocks.push_back(vec![0; COUNTS_PER_BLOCK as usize]);
            }
            // A cluster of 64 KiB holds a part of 16 Ki streams at the very most, and sharing stops in time: the count
            // cannot overflow.
            self.blocks[block][(cluster % COUNTS_PER_BLOCK) as usize] += 1;
        }
    }

    /// Whether each cluster that `bytes` touches can be counted once more on behalf of somebody who shares it: not when
    /// its count was written, and not above [`SHARED_COUNT_MAX`].
    pub(super) fn can_share(&self, bytes: Range<u64>) -> bool {
        let mut clusters = bytes.start / CLUSTER_BYTES..bytes.end.div_ceil(CLUSTER_BYTES);
        clusters.all(|cluster| {
            let block = usize::try_from(cluster / COUNTS_PER_BLOCK).expect("bounded by the file's size");
            let block = block.checked_sub(self.table.len()).and_then(|block| self.blocks.get(block));
            block.is_some_and(|block| block[(cluster % COUNTS_PER_BLOCK) as usize] < SHARED_COUNT_MAX)
        })
    }

    /// How many blocks cover nothing at or behind `floor`.
    pub(super) fn settled(&self, floor: u64) -> usize {
        let blocks =
            usize::try_from(floor / CLUSTER_BYTES / COUNTS_PER_BLOCK).expect("bounded by the file's size");
        blocks.saturating_sub(self.table.len())
    }

    /// Lays the `count` oldest blocks down one after the other from `offset`.
    pub(super) fn write_oldest(&mut self, count: usize, offset: u64, writes: &mut Vec<Write>) {
        for (block, offset) in self.blocks.drain(..count).zip((offset..).step_by(CLUSTER_BYTES as usize)) {
            self.table.push(offset);
            writes
                .push(Write { offset, bytes: block.iter().flat_map(|count| count.to_be_bytes()).collect() });
        }
    }
}
