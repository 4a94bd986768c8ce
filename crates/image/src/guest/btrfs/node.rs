//! One block of a tree.
//!
//! Field places: "On-disk format" of the Btrfs documentation, `struct btrfs_header`, `btrfs_item`, `btrfs_key_ptr`.

use super::superblock::{LEVELS, Root};
use super::{Checked, Volume, keep};
use crate::guest::device::Fields;
use crate::reason;

/// Bytes at the head of a node.
pub(crate) const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
/// Bytes of a key on disk.
pub(crate) const KEY: usize = 17;

const FLAG_WRITTEN: u64 = 1;
/// The revision of back references is the upper byte of the flags; before 1 extent items were other ones.
const FLAGS_EXPECTED: u64 = 1 << 56 | FLAG_WRITTEN;

/// What everything in a tree is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) objectid: u64,
    pub(crate) kind: u8,
    pub(crate) offset: u64,
}

impl Key {
    /// The key at the head of `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        Self { objectid: bytes.u64_at(0), kind: bytes[8], offset: bytes.u64_at(9) }
    }

    /// The lowest key of an object.
    pub(crate) fn first_of(objectid: u64) -> Self {
        Self { objectid, kind: 0, offset: 0 }
    }
}

/// What is known of a node before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Its place, and what its header must say.
    pub(crate) root: Root,
    /// Its first key; not known of a tree's root.
    pub(crate) first: Option<Key>,
    /// All its keys are lower than this one.
    pub(crate) limit: Option<Key>,
}

/// A node that passed every check.
#[derive(Debug)]
pub(crate) struct Node {
    bytes: Vec<u8>,
    entries: usize,
    expected: Expected,
}

impl Node {
    /// Reads and checks a node.
    pub(crate) fn read(volume: &Volume<'_>, expected: Expected) -> Checked<Self> {
        let superblock = volume.superblock;
        let Root { logical, generation, level, .. } = expected.root;
        let place = volume.chunks.metadata_place(logical, superblock.node_bytes);
        let place = place.filter(|_| logical.is_multiple_of(superblock.sector_bytes) && level < LEVELS);
        let mut bytes = vec![0; superblock.node_bytes as usize];
        let read = match place {
            Some(place) => volume.device.read_at(&mut bytes, place)?,
            None => false,
        };
        if !read {
            return Err(keep(reason::KEPT_GEOMETRY, "a tree leads to a place that holds no metadata"));
        }
        if !superblock.checksum.holds(&bytes) {
            return Err(keep(reason::KEPT_CHECKSUM, "the checksum of a tree block is wrong"));
        }
        if bytes.u64_at(48) != logical
            || bytes[32..48] != superblock.uuid
            || bytes.u64_at(80) != generation
            || generation > superblock.generation
            || bytes.u64_at(88) != expected.root.tree
            || bytes[100] != level
        {
            return Err(keep(reason::KEPT_TREE, "a tree block is another one than the tree says"));
        }
        if bytes.u64_at(56) != FLAGS_EXPECTED {
            return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "the flags of a tree block are not known"));
        }
        let entries = bytes.u32_at(96) as usize;
        let node = Self { bytes, entries, expected };
        if !node.is_sound(superblock.sector_bytes) {
            return Err(keep(reason::KEPT_TREE, "the entries of a tree block contradict each other"));
        }
        Ok(node)
    }

    fn is_sound(&self, sector_bytes: u64) -> bool {
        let room = self.bytes.len() - HEADER;
        let entry_bytes = if self.is_leaf() { ITEM } else { POINTER };
        // Only the root of a tree that holds nothing is empty.
        if self.entries > room / entry_bytes
            || self.entries == 0 && (!self.is_leaf() || self.expected.first.is_some())
        {
            return false;
        }
        let ascending = (1..self.entries).all(|index| self.key(index - 1) < self.key(index));
        let first = self.expected.first.is_none_or(|first| self.key(0) == first);
        let last = match (self.expected.limit, self.entries.checked_sub(1)) {
            (Some(limit), Some(last)) => self.key(last) < limit,
            _ => true,
        };
        let entries = if self.is_leaf() {
            self.items_are_packed(room)
        } else {
            (0..self.entries).all(|index| {
                let (logical, generation) = self.pointer(index);
                logical.is_multiple_of(sector_bytes) && generation <= self.expected.root.generation
            })
        };
        ascending && first && last && entries
    }

    /// Item data fill a leaf from its end, without gaps, and stay clear of the items' heads.
    fn items_are_packed(&self, room: usize) -> bool {
        let mut end = room;
        for index in 0..self.entries {
            let (start, length) = self.item_place(index);
            if start.checked_add(length) != Some(end) {
                return false;
            }
            end = start;
        }
        end >= self.entries * ITEM
    }

    /// Whether this is on the lowest level.
    pub(crate) fn is_leaf(&self) -> bool {
        self.expected.root.level == 0
    }

    /// How many items or pointers it has.
    pub(crate) fn entries(&self) -> usize {
        self.entries
    }

    /// The first entry that is not below `key`.
    pub(crate) fn position(&self, key: Key) -> usize {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The key of an entry.
    pub(crate) fn key(&self, index: usize) -> Key {
        let entry_bytes = if self.is_leaf() { ITEM } else { POINTER };
        Key::parse(&self.bytes[HEADER + index * entry_bytes..][..KEY])
    }

    /// Start, counted from behind the header, and length of an item's data.
    fn item_place(&self, index: usize) -> (usize, usize) {
        let entry = &self.bytes[HEADER + index * ITEM..][..ITEM];
        (entry.u32_at(KEY) as usize, entry.u32_at(KEY + 4) as usize)
    }

    /// The data of a leaf's item.
    pub(crate) fn item(&self, index: usize) -> &[u8] {
        let (start, length) = self.item_place(index);
        &self.bytes[HEADER + start..][..length]
    }

    /// Place and generation of a child.
    fn pointer(&self, index: usize) -> (u64, u64) {
        let entry = &self.bytes[HEADER + index * POINTER..][..POINTER];
        (entry.u64_at(KEY), entry.u64_at(KEY + 8))
    }

    /// What is known of a child.
    pub(crate) fn child(&self, index: usize) -> Expected {
        let (logical, generation) = self.pointer(index);
        // Its level is at least 1: leaves have no children.
        let level = self.expected.root.level - 1;
        let limit = if index + 1 < self.entries { Some(self.key(index + 1)) } else { self.expected.limit };
        let root = Root { logical, generation, level, ..self.expected.root };
        Expected { root, first: Some(self.key(index)), limit }
    }
}
