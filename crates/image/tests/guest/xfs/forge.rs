//! XFS file systems changed behind their owner's back: trees of free space that no mkfs makes, and damage that comes
//! with a right checksum.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imageops_image::disk::Disk;
use imageops_image::format::{self, Format};

use crate::proofs::Patched;

/// A structure of an allocation group: where it is, how long, and where its checksum is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Superblock,
    Header,
    List,
    /// A block of a tree of free space, by its number in the group.
    Tree(u32),
}

/// A file system in memory.
#[derive(Clone)]
pub(crate) struct Forge {
    pub(crate) bytes: Vec<u8>,
    pub(crate) block_bytes: usize,
    pub(crate) group_blocks: usize,
    pub(crate) groups: usize,
    sector_bytes: usize,
    sealed: bool,
}

impl Forge {
    pub(crate) fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut forge =
            Self { bytes, block_bytes: 0, group_blocks: 0, groups: 0, sector_bytes: 0, sealed: false };
        forge.block_bytes = forge.word(4) as usize;
        forge.group_blocks = forge.word(84) as usize;
        forge.groups = forge.word(88) as usize;
        forge.sector_bytes = (forge.word(100) & 0xffff) as usize;
        forge.sealed = forge.word(100) >> 16 & 0xf == 5;
        forge
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        format::open(Arc::new(self.bytes.clone()), Some(Format::Raw)).unwrap().disk
    }

    pub(crate) fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    pub(crate) fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn place(&self, group: usize, part: Part) -> Range<usize> {
        let start = group * self.group_blocks * self.block_bytes;
        let (offset, length) = match part {
            Part::Superblock => (0, self.sector_bytes),
            Part::Header => (self.sector_bytes, self.sector_bytes),
            Part::List => (3 * self.sector_bytes, self.sector_bytes),
            Part::Tree(block) => (block as usize * self.block_bytes, self.block_bytes),
        };
        start + offset..start + offset + length
    }

    /// Bytes of the log.
    pub(crate) fn log(&self) -> Range<usize> {
        let bits = self.bytes[124];
        let start = u64::from(self.word(48)) << 32 | u64::from(self.word(52));
        let (group, block) = ((start >> bits) as usize, (start & ((1 << bits) - 1)) as usize);
        let start = (group * self.group_blocks + block) * self.block_bytes;
        start..start + self.word(96) as usize * self.block_bytes
    }

    /// Roots of the trees by place and by size.
    pub(crate) fn roots(&self, group: usize) -> [u32; 2] {
        let header = self.place(group, Part::Header).start;
        [self.word(header + 16), self.word(header + 20)]
    }

    /// Gives a structure the checksum that it should have.
    pub(crate) fn seal(&mut self, group: usize, part: Part) {
        if !self.sealed {
            return;
        }
        let offset = match part {
            Part::Superblock => 224,
            Part::Header => 216,
            Part::List => 32,
            Part::Tree(_) => 52,
        };
        let place = self.place(group, part);
        let bytes = &mut self.bytes[place];
        bytes[offset..offset + 4].fill(0);
        let crc = crc32c::crc32c(bytes).to_le_bytes();
        bytes[offset..offset + 4].copy_from_slice(&crc);
    }

    /// `base`, which holds the same bytes as this, with a change to one structure.
    pub(crate) fn patched(
        &mut self,
        base: &Arc<dyn Disk>,
        (group, part): (usize, Part),
        sealed: bool,
        change: impl FnOnce(&mut [u8]),
    ) -> Patched {
        let place = self.place(group, part);
        let before = self.bytes[place.clone()].to_vec();
        change(&mut self.bytes[place.clone()]);
        if sealed {
            self.seal(group, part);
        }
        let after = self.bytes[place.clone()].iter().zip(&before).zip(place.start as u64..);
        let bytes = after.filter(|((new, old), _)| new != old).map(|((new, _), at)| (at, *new)).collect();
        self.bytes[place].copy_from_slice(&before);
        Patched { base: Arc::clone(base), bytes, size: None }
    }

    /// The free extents of a group whose tree by place is a single leaf.
    pub(crate) fn extents(&self, group: usize) -> Vec<(u32, u32)> {
        let root = self.place(group, Part::Tree(self.roots(group)[0])).start;
        assert_eq!(self.word(root + 4) >> 16, 0, "a leaf");
        let count = (self.word(root + 4) & 0xffff) as usize;
        let first = root + if self.sealed { 56 } else { 16 };
        (0..count).map(|index| (self.word(first + 8 * index), self.word(first + 8 * index + 4))).collect()
    }

    /// Takes most of the largest free extent of a group, and leaves `count` small free ones between what is taken.
    pub(crate) fn fragment(&mut self, group: usize, count: u32) {
        let mut extents = self.extents(group);
        let largest = (0..extents.len()).max_by_key(|index| extents[*index].1).unwrap();
        let (start, length) = extents.remove(largest);
        let pool = start..start + count / 10 + 10;
        let mut place = pool.end;
        for index in 0..count {
            let free = 1 + index % 3;
            extents.push((place, free));
            place += free + 1;
        }
        assert!(place < start + length);
        self.plant(group, extents, pool);
    }

    /// Gives a group these free extents, in trees made of blocks from `pool`.
    pub(crate) fn plant(&mut self, group: usize, mut extents: Vec<(u32, u32)>, mut pool: Range<u32>) {
        let header = self.place(group, Part::Header).start;
        let old = [52, 60].map(|offset| self.word(header + offset));
        let first = pool.start;
        extents.sort_unstable();
        let magics = if self.sealed { [b"AB3B", b"AB3C"] } else { [b"ABTB", b"ABTC"] };
        let by_place = self.grow(group, magics[0], &extents, &mut pool);
        extents.sort_unstable_by_key(|(start, length)| (*length, *start));
        let by_size = self.grow(group, magics[1], &extents, &mut pool);
        // What cannot be may be planted too, and then the sums are whatever they are.
        let free = extents.iter().fold(0_u32, |sum, (_, length)| sum.wrapping_add(*length));
        let blocks = pool.start - first - 2;
        let longest = extents.last().map_or(0, |(_, length)| *length);
        let fields = [by_place.0, by_size.0, by_place.1, by_size.1, free, longest, blocks];
        for (offset, value) in [16, 20, 28, 32, 52, 56, 60].into_iter().zip(fields) {
            self.put(header + offset, value);
        }
        self.seal(group, Part::Header);
        // The sum of the file system; it fits in the lower half here.
        let sum = self.word(148).wrapping_add(free).wrapping_add(blocks);
        self.put(148, sum.wrapping_sub(old[0] + old[1]));
        self.seal(0, Part::Superblock);
    }

    /// Gives a group a tree by size that has `leaves` leaves by its inner blocks; the leaves are not there.
    pub(crate) fn plant_leafless(&mut self, group: usize, leaves: u32) {
        assert!(self.sealed);
        let extents = self.extents(group);
        let largest = extents.iter().max_by_key(|(_, length)| length).unwrap();
        let mut pool = largest.0..largest.0 + largest.1;
        let level = (0..leaves).map(|start| ((start, 1), 0)).collect();
        let (root, levels) = self.grow_above(group, b"AB3C", level, 1, &mut pool);
        let header = self.place(group, Part::Header).start;
        self.put(header + 20, root);
        self.put(header + 32, levels);
        self.seal(group, Part::Header);
    }

    /// Makes a tree of sorted extents; its root and number of levels.
    fn grow(
        &mut self,
        group: usize,
        magic: &[u8; 4],
        extents: &[(u32, u32)],
        pool: &mut Range<u32>,
    ) -> (u32, u32) {
        let level = extents.iter().map(|extent| (*extent, 0)).collect();
        self.grow_above(group, magic, level, 0, pool)
    }

    /// Makes the levels of a tree from `lowest` on.
    fn grow_above(
        &mut self,
        group: usize,
        magic: &[u8; 4],
        mut level: Vec<((u32, u32), u32)>,
        lowest: u32,
        pool: &mut Range<u32>,
    ) -> (u32, u32) {
        let room = self.block_bytes - if self.sealed { 56 } else { 16 };
        for height in lowest.. {
            let most = room / if height == 0 { 8 } else { 12 };
            let nodes: Vec<_> = level.chunks(most * 7 / 10).collect();
            let blocks: Vec<u32> = pool.by_ref().take(nodes.len().max(1)).collect();
            for (index, block) in blocks.iter().enumerate() {
                let node = nodes.get(index).copied().unwrap_or_default();
                let left = index.checked_sub(1).map_or(u32::MAX, |index| blocks[index]);
                let right = blocks.get(index + 1).copied().unwrap_or(u32::MAX);
                self.write_node(group, *block, magic, height, [left, right], node);
            }
            if let [root] = blocks[..] {
                return (root, height + 1);
            }
            level = nodes.iter().map(|node| node[0].0).zip(blocks).collect();
        }
        unreachable!("a level has fewer blocks than the one below")
    }

    fn write_node(
        &mut self,
        group: usize,
        block: u32,
        magic: &[u8; 4],
        height: u32,
        neighbours: [u32; 2],
        items: &[((u32, u32), u32)],
    ) {
        let place = self.place(group, Part::Tree(block));
        let start = place.start;
        self.bytes[place].fill(0);
        self.bytes[start..start + 4].copy_from_slice(magic);
        self.put(start + 4, height << 16 | items.len() as u32);
        self.put(start + 8, neighbours[0]);
        self.put(start + 12, neighbours[1]);
        let mut first = start + 16;
        if self.sealed {
            self.put(start + 20, (start / 512) as u32);
            let uuid = self.bytes[32..48].to_vec();
            self.bytes[start + 32..start + 48].copy_from_slice(&uuid);
            self.put(start + 48, group as u32);
            first = start + 56;
        }
        let pointers = first + (self.block_bytes - (first - start)) / 12 * 8;
        for (index, ((from, length), pointer)) in items.iter().enumerate() {
            self.put(first + 8 * index, *from);
            self.put(first + 8 * index + 4, *length);
            if height > 0 {
                self.put(pointers + 4 * index, *pointer);
            }
        }
        self.seal(group, Part::Tree(block));
    }

    /// Every structure that is trusted: headers of all groups, blocks of the trees of one, and the head of the log.
    pub(crate) fn trusted(&self, tree_blocks: &[(usize, u32)]) -> Vec<Range<u64>> {
        let log = self.log();
        let mut places = vec![log.start..log.start + 1536, self.place(0, Part::Superblock)];
        for group in 0..self.groups {
            let copy = self.place(group, Part::Superblock);
            places.extend([copy, self.place(group, Part::Header), self.place(group, Part::List)]);
            places.extend(self.roots(group).map(|root| self.place(group, Part::Tree(root))));
        }
        places.extend(tree_blocks.iter().map(|(group, block)| self.place(*group, Part::Tree(*block))));
        places.into_iter().map(|place| place.start as u64..place.end as u64).collect()
    }
}
