//! The root tree: where the other trees start, and whether something big is under way.

use super::node::Key;
use super::superblock::{Root, Superblock};
use super::walk::Walk;
use super::{Checked, Volume, keep};
use crate::guest::device::Fields;
use crate::reason;

const EXTENT_TREE: u64 = 2;
const DEVICE_TREE: u64 = 4;
const FREE_SPACE_TREE: u64 = 10;
const BLOCK_GROUP_TREE: u64 = 11;
/// Objects with special meaning count down from zero.
const LOG_TREES: u64 = 6_u64.wrapping_neg();
const RELOCATION_TREES: u64 = 8_u64.wrapping_neg();

const ROOT_ITEM: u8 = 132;
/// The root tree has it for a balance only.
const TEMPORARY_ITEM: u8 = 248;
/// Up to the tree's level; newer ones are longer.
const ROOT_ITEM_BYTES: usize = 239;

/// The trees that are read.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) extents: Root,
    pub(crate) devices: Root,
    /// When its content is in force.
    pub(crate) free_space: Option<Root>,
    /// When block groups are not described in the extent tree.
    pub(crate) block_groups: Option<Root>,
}

impl Roots {
    /// Goes through the whole root tree.
    pub(crate) fn read(volume: Volume<'_>) -> Checked<Self> {
        let mut walk = Walk::start(volume, volume.superblock.root_tree, Key::default())?;
        let mut found: [Option<Root>; 4] = [None; 4];
        while let Some((key, item)) = walk.item() {
            match (key.objectid, key.kind) {
                (_, TEMPORARY_ITEM) => {
                    return Err(keep(reason::KEPT_CHANGE_UNDER_WAY, "a balance was begun and not finished"));
                }
                (LOG_TREES | RELOCATION_TREES, ROOT_ITEM) => {
                    let message = "block groups are being moved, or a log was not replayed";
                    return Err(keep(reason::KEPT_CHANGE_UNDER_WAY, message));
                }
                (tree @ (EXTENT_TREE | DEVICE_TREE | FREE_SPACE_TREE | BLOCK_GROUP_TREE), ROOT_ITEM) => {
                    if item.len() < ROOT_ITEM_BYTES {
                        return Err(keep(reason::KEPT_TREE, "an entry of the root tree is too short"));
                    }
                    let root = Root {
                        tree,
                        logical: item.u64_at(176),
                        generation: item.u64_at(160),
                        level: item[238],
                    };
                    let place = match tree {
                        EXTENT_TREE => 0,
                        DEVICE_TREE => 1,
                        FREE_SPACE_TREE => 2,
                        _ => 3,
                    };
                    found[place] = Some(root);
                }
                _ => {}
            }
            walk.advance()?;
        }
        Self::choose(volume.superblock, found).ok_or_else(|| keep(reason::KEPT_TREE, "a tree is missing"))
    }

    fn choose(superblock: &Superblock, found: [Option<Root>; 4]) -> Option<Self> {
        let [extents, devices, free_space, block_groups] = found;
        Some(Self {
            extents: extents?,
            devices: devices?,
            free_space: if superblock.has_free_space_tree() { Some(free_space?) } else { None },
            block_groups: if superblock.has_block_group_tree() { Some(block_groups?) } else { None },
        })
    }
}
