//! All items of a tree in the order of their keys.
//!
//! The path from the root is a list of at most eight nodes; nothing recurses. Each node is visited once: its level is
//! one below its parent's, and its first key is the one that its parent names, which no other pointer has.

use super::node::{Expected, Key, Node};
use super::superblock::Root;
use super::{Checked, Volume};

/// A place in a tree, between its items.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    volume: Volume<'a>,
    /// From the root down, each node with the entry that the walk is at. The last one is a leaf, or the list is empty
    /// when the walk has ended.
    path: Vec<(Node, usize)>,
}

impl<'a> Walk<'a> {
    /// Starts at the first item that is not below `key`.
    pub(crate) fn start(volume: Volume<'a>, root: Root, key: Key) -> Checked<Self> {
        let mut walk = Self { volume, path: Vec::new() };
        let mut expected = Expected { root, first: None, limit: None };
        loop {
            let node = Node::read(&volume, expected)?;
            let position = node.position(key);
            if node.is_leaf() {
                walk.path.push((node, position));
                walk.settle()?;
                return Ok(walk);
            }
            // The child before the first one that starts above the key, since the key may lie in the middle of it.
            let exact = position < node.entries() && node.key(position) == key;
            let index = if exact { position } else { position.saturating_sub(1) };
            expected = node.child(index);
            walk.path.push((node, index));
        }
    }

    /// The item that the walk is at; `None` at the end of the tree.
    pub(crate) fn item(&self) -> Option<(Key, &[u8])> {
        self.path.last().map(|(leaf, index)| (leaf.key(*index), leaf.item(*index)))
    }

    /// Goes to the next item.
    pub(crate) fn advance(&mut self) -> Checked<()> {
        if let Some((_, index)) = self.path.last_mut() {
            *index += 1;
        }
        self.settle()
    }

    /// From the end of a leaf to the start of the next one.
    fn settle(&mut self) -> Checked<()> {
        while let Some((node, index)) = self.path.last_mut() {
            if *index >= node.entries() {
                self.path.pop();
                if let Some((_, parent)) = self.path.last_mut() {
                    *parent += 1;
                }
            } else if node.is_leaf() {
                break;
            } else {
                self.volume.check_cancelled()?;
                let child = Node::read(&self.volume, node.child(*index))?;
                self.path.push((child, 0));
            }
        }
        Ok(())
    }
}
