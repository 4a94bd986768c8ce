//! A look at the tables of a qcow2 image: do they, and the data they promise, lie in the file and apart?

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Qcow2;
use crate::format::qcow2::{Header, L1_OFFSET_MASK, L2Entry, bitmap_of, run_length, word_of};
use crate::inspect::report::{Inspection, Verdict};
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Bytes of L2 tables that an inspection reads at most; with clusters of 64 KiB they map 256 GiB.
pub const TABLE_BYTES_MAX: u64 = 32 << 20;
/// Most tables whose places are compared.
const TABLES_MAX: usize = 100_000;
/// Tables of which the medium is told before they are read.
const READ_AHEAD_TABLES: usize = 16;
/// Bytes of a table read at once.
const PIECE_BYTES: u64 = 64 << 10;

/// Looks at the tables; what is wrong first is the error.
pub(crate) fn look(storage: &Arc<dyn Storage>, header: &Header, inspection: &mut Inspection) -> Result<()> {
    let mut places = Places { storage, header, clusters: Vec::new() };
    places.add(0, header.cluster_bytes().min(storage.size_bytes()), "header")?;
    places.add(header.l1_offset, header.l1_bytes(), "L1 table")?;
    places.add(header.refcount_table_offset, header.refcount_table_bytes(), "refcount table")?;
    places.add_pointed(
        header.refcount_table_offset,
        header.refcount_table_bytes(),
        !0x1ff,
        "refcount block",
    )?;
    let l2_tables = places.add_pointed(header.l1_offset, header.l1_bytes(), L1_OFFSET_MASK, "L2 table")?;
    places.clusters.sort_unstable();
    if let Some(pair) = places.clusters.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = "two tables lie at the same place";
        return Err(Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message)
            .at(pair[0] << header.cluster_bits));
    }
    // Data in another file are none of this file's; without a key they cannot be judged further.
    if header.has_data_file() || inspection.verdict == Verdict::Unsafe {
        return Ok(());
    }
    let mut left_bytes = TABLE_BYTES_MAX;
    for (number, (index, offset)) in l2_tables.iter().copied().enumerate() {
        if let Some((_, ahead)) = l2_tables.get(number + READ_AHEAD_TABLES) {
            storage.will_need(*ahead..*ahead + header.cluster_bytes());
        }
        match left_bytes.checked_sub(header.cluster_bytes()) {
            Some(left) => left_bytes = left,
            None => break,
        }
        places.look_at_l2(index, offset)?;
    }
    Ok(())
}

/// Where tables lie.
struct Places<'a> {
    storage: &'a Arc<dyn Storage>,
    header: &'a Header,
    /// Host clusters of all tables; may hold one twice until they were compared.
    clusters: Vec<u64>,
}

impl Places<'_> {
    fn add(&mut self, offset: u64, length: u64, what: &str) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let end = offset.saturating_add(length);
        if end > self.storage.size_bytes() {
            return Err(truncated(&format!("the file ends before its {what}"), offset));
        }
        let last = (end - 1) >> self.header.cluster_bits;
        for cluster in offset >> self.header.cluster_bits..=last {
            if self.clusters.len() < TABLES_MAX {
                self.clusters.push(cluster);
            }
        }
        Ok(())
    }

    /// Adds the clusters that the entries of a table point at, and tells those of them that fit the limit.
    fn add_pointed(&mut self, table: u64, length: u64, mask: u64, what: &str) -> Result<Vec<(u64, u64)>> {
        let mut pointed = Vec::new();
        let mut piece = Vec::new();
        let mut done = 0;
        while done < length {
            piece.resize((length - done).min(PIECE_BYTES) as usize, 0);
            read_zero_filled(&**self.storage, &mut piece, table + done)?;
            let (words, _) = piece.as_chunks::<8>();
            for (word, index) in words.iter().zip(done / 8..) {
                let offset = u64::from_be_bytes(*word) & mask;
                if offset == 0 {
                    continue;
                }
                if !self.header.is_cluster_aligned(offset) {
                    let message = format!("a {what} does not start at a cluster");
                    return Err(
                        Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message).at(table + index * 8)
                    );
                }
                self.add(offset, self.header.cluster_bytes(), what)?;
                if pointed.len() < TABLES_MAX {
                    pointed.push((index, offset));
                }
            }
            done += piece.len() as u64;
        }
        Ok(pointed)
    }

    /// The data of an L2 table must lie in the file, and not on a table.
    fn look_at_l2(&self, l1_index: u64, table: u64) -> Result<()> {
        let header = self.header;
        let mut bytes = vec![0u8; header.cluster_bytes() as usize];
        read_zero_filled(&**self.storage, &mut bytes, table)?;
        if header.has_subclusters() {
            self.look_at_entries(l1_index, table, bytes.as_chunks::<16>().0)
        } else {
            self.look_at_entries(l1_index, table, bytes.as_chunks::<8>().0)
        }
    }

    fn look_at_entries<const N: usize>(&self, l1_index: u64, table: u64, entries: &[[u8; N]]) -> Result<()> {
        let header = self.header;
        let mut free = 0..0;
        let mut index = 0;
        while let Some(first) = entries.get(index) {
            let word = word_of(first);
            let entry = L2Entry::decode(word, header);
            if let L2Entry::Normal { host_offset } = entry
                && header.is_cluster_aligned(host_offset)
            {
                // Clusters that lie apart from all tables and in the file need no further look, however many.
                let cluster = host_offset >> header.cluster_bits;
                if !free.contains(&cluster) {
                    free = self.free_around(cluster);
                }
                let run =
                    run_length(&entries[index..], header.cluster_bits, free.end.saturating_sub(cluster));
                if run > 0 {
                    index += run as usize;
                    continue;
                }
            }
            if word != 0 {
                let guest =
                    (l1_index * header.l2_entries() + index as u64).saturating_mul(header.cluster_bytes());
                let at = table + index as u64 * header.l2_entry_bytes();
                self.look_at_entry(entry, bitmap_of(first), guest, at)?;
            }
            index += 1;
        }
        Ok(())
    }

    /// The clusters of the file around this one, up to the next tables; empty when it is a table's.
    fn free_around(&self, cluster: u64) -> Range<u64> {
        let next = self.clusters.partition_point(|table| *table < cluster);
        let start = next.checked_sub(1).map_or(0, |last| self.clusters[last] + 1);
        let end = self.clusters.get(next).copied().unwrap_or(u64::MAX);
        start..end.min(self.storage.size_bytes() >> self.header.cluster_bits)
    }

    fn look_at_entry(&self, entry: L2Entry, bitmap: u64, guest: u64, at: u64) -> Result<()> {
        let header = self.header;
        let size = self.storage.size_bytes();
        match entry {
            L2Entry::Normal { host_offset } => {
                if self.clusters.binary_search(&(host_offset >> header.cluster_bits)).is_ok() {
                    let message = "a cluster of data lies on a table";
                    return Err(Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message).at(at));
                }
                // What the guest does not see need not be there: past the end of its disk, subclusters not allocated.
                let seen = header.virtual_size_bytes().saturating_sub(guest).min(header.cluster_bytes());
                let needed = match header.has_subclusters() {
                    true => {
                        let last = 32 - (bitmap as u32).leading_zeros();
                        seen.min(u64::from(last) * (header.cluster_bytes() / 32))
                    }
                    false => seen,
                };
                if needed > 0 && host_offset.saturating_add(needed) > size {
                    return Err(truncated("the file ends before data that its tables promise", at));
                }
                Ok(())
            }
            L2Entry::Compressed { host_offset, length_bytes }
                if host_offset.saturating_add(length_bytes) > size =>
            {
                self.look_at_cut_stream(guest, at)
            }
            _ => Ok(()),
        }
    }

    /// A stream whose last sector is cut short may still be whole.
    fn look_at_cut_stream(&self, guest: u64, at: u64) -> Result<()> {
        let whole = Qcow2::open(Arc::clone(self.storage)).and_then(|disk| disk.decode_cluster(guest));
        match whole {
            Err(error) if error.kind == ErrorKind::Corrupt => {
                Err(truncated("the file ends before data that its tables promise", at))
            }
            Err(error) if !error.is_of_the_image() => Err(error),
            _ => Ok(()),
        }
    }
}

fn truncated(message: &str, offset: u64) -> Error {
    Error::new(ErrorKind::Invalid, reason::INVALID_TRUNCATED, message).at(offset)
}
