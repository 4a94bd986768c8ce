//! Puts files into an empty exFAT file system, by the specification; `fsck.exfat` judges the result.

use std::path::Path;

use crate::peers::open;

/// A directory under way.
#[derive(Clone, Copy)]
pub(crate) struct Directory {
    /// Where the next entry goes.
    place: usize,
}

/// A file system in memory.
pub(crate) struct Maker {
    bytes: Vec<u8>,
    pub(crate) table: usize,
    pub(crate) data: usize,
    pub(crate) cluster: usize,
    clusters: usize,
    root: usize,
    pub(crate) bitmap: usize,
}

impl Maker {
    /// Reads what `mkfs.exfat` made.
    pub(crate) fn new(source: &Path) -> Self {
        let disk = open(source).disk;
        let mut bytes = vec![0; disk.virtual_size_bytes() as usize];
        disk.read_at(&mut bytes, 0).unwrap();
        let number = |place: usize| u32::from_le_bytes(bytes[place..place + 4].try_into().unwrap()) as usize;
        let sector = 1 << bytes[108];
        let (table, data) = (number(80) * sector, number(88) * sector);
        let (cluster, clusters) = (sector << bytes[109], number(92));
        let root = data + (number(96) - 2) * cluster;
        let entries = bytes[root..root + cluster].chunks_exact(32);
        let place = entries.enumerate().find(|(_, entry)| entry[0] == 0x81).unwrap().0 * 32 + root;
        let bitmap = data + (number(place + 20) - 2) * cluster;
        Self { bytes, table, data, cluster, clusters, root, bitmap }
    }

    pub(crate) fn write(&self, target: &Path) {
        std::fs::write(target, &self.bytes).unwrap();
    }

    /// Where the entries of the root directory go; it is one cluster, or two where one is a single sector.
    pub(crate) fn root(&self) -> Directory {
        let mut place = self.root;
        while self.bytes[place] != 0 {
            place += 32;
        }
        Directory { place }
    }

    /// Where the root directory starts.
    pub(crate) fn root_place(&self) -> usize {
        self.root
    }

    /// A place of a cluster.
    pub(crate) fn place(&self, cluster: u32) -> usize {
        self.data + (cluster as usize - 2) * self.cluster
    }

    fn is_used(&self, cluster: usize) -> bool {
        self.bytes[self.bitmap + (cluster - 2) / 8] >> ((cluster - 2) % 8) & 1 == 1
    }

    /// Takes clusters, every `step`th of the free ones.
    fn take(&mut self, count: usize, step: usize) -> Vec<u32> {
        let free: Vec<usize> = (2..self.clusters + 2).filter(|cluster| !self.is_used(*cluster)).collect();
        let taken: Vec<u32> = free.iter().step_by(step).take(count).map(|cluster| *cluster as u32).collect();
        assert_eq!(taken.len(), count);
        for cluster in &taken {
            let bit = *cluster as usize - 2;
            self.bytes[self.bitmap + bit / 8] |= 1 << (bit % 8);
        }
        taken
    }

    /// Frees clusters again, and leaves what is in them and in the table.
    pub(crate) fn free(&mut self, clusters: &[u32]) {
        for cluster in clusters {
            let bit = *cluster as usize - 2;
            self.bytes[self.bitmap + bit / 8] &= !(1 << (bit % 8));
        }
    }

    fn chain(&mut self, clusters: &[u32]) {
        for (index, cluster) in clusters.iter().enumerate() {
            let next = clusters.get(index + 1).copied().unwrap_or(u32::MAX);
            let place = self.table + *cluster as usize * 4;
            self.bytes[place..place + 4].copy_from_slice(&next.to_le_bytes());
        }
    }

    /// Adds a file, in one piece when `step` is 1, else as a chain with gaps; returns its clusters.
    pub(crate) fn file(
        &mut self,
        directory: &mut Directory,
        name: &str,
        content: &[u8],
        step: usize,
    ) -> Vec<u32> {
        let clusters = self.take(content.len().div_ceil(self.cluster), step);
        for (piece, cluster) in content.chunks(self.cluster).zip(&clusters) {
            let place = self.place(*cluster);
            self.bytes[place..place + piece.len()].copy_from_slice(piece);
        }
        if step > 1 {
            self.chain(&clusters);
        }
        self.entries(directory, name, 0x20, &clusters, content.len(), step == 1);
        clusters
    }

    /// Adds a directory of two clusters.
    pub(crate) fn directory(&mut self, directory: &mut Directory, name: &str) -> Directory {
        let clusters = self.take(2, 1);
        let place = self.place(clusters[0]);
        assert_eq!(clusters[1], clusters[0] + 1);
        let length = 2 * self.cluster;
        self.bytes[place..place + length].fill(0);
        self.entries(directory, name, 0x10, &clusters, length, true);
        Directory { place }
    }

    /// Marks the set of entries before `directory`'s place as deleted.
    pub(crate) fn delete_last(&mut self, directory: Directory, entries: usize) {
        for entry in 1..=entries {
            self.bytes[directory.place - entry * 32] &= 0x7f;
        }
    }

    fn entries(
        &mut self,
        directory: &mut Directory,
        name: &str,
        attributes: u8,
        clusters: &[u32],
        length: usize,
        contiguous: bool,
    ) {
        let units: Vec<u16> = name.encode_utf16().collect();
        let mut set = vec![0_u8; 64];
        set[0] = 0x85;
        set[1] = 1 + units.len().div_ceil(15) as u8;
        set[4] = attributes;
        for time in [8, 12, 16] {
            // The first of January 2024.
            set[time..time + 4].copy_from_slice(&(44_u32 << 25 | 1 << 21 | 1 << 16).to_le_bytes());
        }
        set[32] = 0xc0;
        set[33] = if contiguous && !clusters.is_empty() { 3 } else { 1 };
        set[35] = units.len() as u8;
        let upper = name.to_ascii_uppercase();
        let hash = upper.encode_utf16().flat_map(u16::to_le_bytes).fold(0, add);
        set[36..38].copy_from_slice(&hash.to_le_bytes());
        set[40..48].copy_from_slice(&(length as u64).to_le_bytes());
        set[52..56].copy_from_slice(&clusters.first().copied().unwrap_or(0).to_le_bytes());
        set[56..64].copy_from_slice(&(length as u64).to_le_bytes());
        for piece in units.chunks(15) {
            set.extend([0xc1, 0]);
            let start = set.len();
            set.extend(piece.iter().flat_map(|unit| unit.to_le_bytes()));
            set.resize(start + 30, 0);
        }
        sign(&mut set);
        self.bytes[directory.place..directory.place + set.len()].copy_from_slice(&set);
        directory.place += set.len();
    }
}

fn add(sum: u16, byte: u8) -> u16 {
    sum.rotate_right(1).wrapping_add(byte.into())
}

/// Sets the checksum of a set of entries.
pub(crate) fn sign(set: &mut [u8]) {
    let covered = set.iter().enumerate().filter(|(place, _)| !matches!(place, 2 | 3));
    let sum = covered.map(|(_, byte)| *byte).fold(0, add);
    set[2..4].copy_from_slice(&sum.to_le_bytes());
}
