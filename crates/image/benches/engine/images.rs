//! What is measured: bytes and images in memory.

use std::io;

use imageops_image::storage::Storage;

const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// The cluster that an entry names has a refcount of exactly one.
const COPIED: u64 = 1 << 63;

/// Bytes that no coder makes smaller.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend((mixed ^ (mixed >> 27)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Bytes as guests have them: words from a small set among noise, so that a coder makes half of them.
pub(crate) fn text(length: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["inode ", "return ", "0000000", "library", "\n    if ", "/usr/lib/", "static ", "const char "];
    let noise = noise(length / 4);
    let mut bytes = Vec::with_capacity(length + 16);
    for pair in noise.chunks_exact(2).cycle() {
        bytes.extend(WORDS[usize::from(pair[0] % 8)].as_bytes());
        bytes.push(pair[1]);
        if bytes.len() >= length {
            break;
        }
    }
    bytes.truncate(length);
    bytes
}

/// How the clusters of data lie in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// One behind the other.
    Ascending,
    /// No two neighbours of the disk are neighbours in the file.
    Scattered,
    /// As ascending, but the second half of the disk is the first one once more.
    Shared,
}

/// A file of which only the first bytes are there; zeros follow.
pub(crate) struct Headed {
    head: Vec<u8>,
    size_bytes: u64,
}

impl Storage for Headed {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let done = self.head.read_at(buffer, offset)?;
        buffer[done..].fill(0);
        Ok(buffer.len())
    }
}

/// An image of `clusters` mapped clusters, a power of two and 8192 at least: all tables first, then the data.
pub(crate) fn mapped(clusters: u64, order: Order) -> Headed {
    let entries = CLUSTER_BYTES / 8;
    let stored = if order == Order::Shared { clusters / 2 } else { clusters };
    let l2_tables = clusters / entries;
    let blocks = (stored + clusters / 1024).div_ceil(CLUSTER_BYTES / 2) + 1;
    // Header, L1 table, refcount table, refcount blocks, L2 tables, data.
    let (l1, refcount_table, first_block) = (1u64, 2u64, 3);
    let first_table = first_block + blocks;
    let first_data = first_table + l2_tables;
    let mut head = vec![0u8; (first_data << CLUSTER_BITS) as usize];
    let mut put = |at: u64, bytes: &[u8]| head[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &(clusters << CLUSTER_BITS).to_be_bytes());
    put(36, &(l2_tables as u32).to_be_bytes());
    put(40, &(l1 << CLUSTER_BITS).to_be_bytes());
    put(48, &(refcount_table << CLUSTER_BITS).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    for table in 0..l2_tables {
        let offset = (first_table + table) << CLUSTER_BITS;
        put((l1 << CLUSTER_BITS) + table * 8, &(offset | COPIED).to_be_bytes());
    }
    for block in 0..blocks {
        let offset = (first_block + block) << CLUSTER_BITS;
        put((refcount_table << CLUSTER_BITS) + block * 8, &offset.to_be_bytes());
    }
    for cluster in 0..first_data + stored {
        let refcount = 1 + u16::from(order == Order::Shared && cluster >= first_data);
        put((first_block << CLUSTER_BITS) + cluster * 2, &refcount.to_be_bytes());
    }
    for guest in 0..clusters {
        let (place, mark) = match order {
            Order::Ascending => (guest, COPIED),
            // Odd, so that it meets each of 2^n places once.
            Order::Scattered => (guest.wrapping_mul(0x9e37_79b1) % clusters, COPIED),
            Order::Shared => (guest % stored, 0),
        };
        let entry = ((first_data + place) << CLUSTER_BITS) | mark;
        put((first_table << CLUSTER_BITS) + guest * 8, &entry.to_be_bytes());
    }
    Headed { head, size_bytes: (first_data + stored) << CLUSTER_BITS }
}
