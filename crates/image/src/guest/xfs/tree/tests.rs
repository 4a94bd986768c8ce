//! Trees of any shape: an inner block over leaves, as they come.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::control::Control;
use crate::format::{self, Format};
use crate::guest::xfs::Context;
use crate::guest::xfs::superblock::tests::{DEVICE_BYTES, superblock};

const GROUP: u32 = 1;
const BLOCK: usize = 4096;

/// A block of a tree by place in version 4.
fn node(height: u16, neighbours: [u32; 2], extents: &[(u32, u32)], children: &[u32]) -> Vec<u8> {
    let mut bytes =
        [b"ABTB".as_slice(), &height.to_be_bytes(), &(extents.len() as u16).to_be_bytes()].concat();
    let words = neighbours.into_iter().chain(extents.iter().flat_map(|extent| [extent.0, extent.1]));
    bytes.extend(words.flat_map(u32::to_be_bytes));
    bytes.resize(16 + (BLOCK - 16) / 12 * 8, 0);
    if height > 0 {
        bytes.extend(children.iter().flat_map(|child| child.to_be_bytes()));
    }
    bytes.resize(BLOCK, 0);
    bytes
}

proptest! {
    #[test]
    fn what_is_read_ascends_and_was_written(
        leaves in prop::collection::vec(prop::collection::vec((0..1100_u32, 0..40_u32), 0..6), 1..5),
        is_sorted in prop::bool::weighted(0.8),
        (place, value) in (0..5 * BLOCK, any::<u8>()),
        is_damaged in any::<bool>(),
    ) {
        let mut all: Vec<(u32, u32)> = leaves.concat();
        if is_sorted {
            all.sort_unstable();
        }
        let mut rest = all.as_slice();
        let count = leaves.len() as u32;
        let (mut bytes, mut keys) = (vec![0; DEVICE_BYTES as usize], Vec::new());
        let start = superblock().block_place(GROUP, 10) as usize;
        for (number, leaf) in (0..count).zip(&leaves) {
            let (extents, behind) = rest.split_at(leaf.len());
            rest = behind;
            keys.push(extents.first().copied().unwrap_or_default());
            let left = if number == 0 { NOWHERE } else { 10 + number };
            let right = if number + 1 == count { NOWHERE } else { 12 + number };
            let at = start + (1 + number as usize) * BLOCK;
            bytes[at..at + BLOCK].copy_from_slice(&node(0, [left, right], extents, &[]));
        }
        let children: Vec<u32> = (11..11 + count).collect();
        bytes[start..start + BLOCK].copy_from_slice(&node(1, [NOWHERE; 2], &keys, &children));
        if is_damaged {
            bytes[start + place] = value;
        }
        let disk = format::open(Arc::new(bytes), Some(Format::Raw)).expect("raw").disk;
        let device = Device::new(&*disk, 0, DEVICE_BYTES);
        let (superblock, control) = (superblock(), Control::default());
        let context = Context { device: &device, superblock: &superblock, control: &control, log_head: 0 };
        let group = Group { context: &context, number: GROUP, blocks: superblock.blocks_of_group(GROUP) };
        let tree = Tree { order: Order::Place, root: 10, levels: 2 };
        let (mut blocks, mut found) = (Vec::new(), Vec::new());
        let read = tree.descend(&group, &mut blocks).and_then(|level| {
            tree.read_level(&group, &level, 0, |_, node| {
                found.extend(node.extents().map(|extent| (extent.start, extent.length)));
                Ok(())
            })
        });
        if read.is_ok() {
            prop_assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!(is_damaged || found == all);
        }
        let is_sound = is_sorted && !is_damaged && leaves.iter().all(|leaf| !leaf.is_empty());
        prop_assert_eq!(is_sound && all.windows(2).all(|pair| pair[0].0 < pair[1].0) && read.is_err(), false);
    }
}
