//! The walk through one L2 table.

use crate::check::finding::{Finding, FindingKind};
use crate::check::qcow2::Figures;
use crate::check::references::WORD_CLUSTERS;
use crate::check::walk::{Counted, L2Table, Walk};
use crate::error::Result;
use crate::format::qcow2::{
    COPIED, L2_OFFSET_MASK, L2Entry, STANDARD_RESERVED_MASK, bitmap_of, run_length, word_of,
};

#[cfg(test)]
mod tests;

/// An L2 table being walked.
pub(crate) struct TableWalk<'a> {
    walk: &'a Walk<'a>,
    table: &'a L2Table,
    /// How often the table is referred to.
    weight: u64,
    /// Where the next cluster would lie, were the guest's data in one piece.
    expected: u64,
}

impl<'a> TableWalk<'a> {
    pub(crate) fn new(walk: &'a Walk<'a>, table: &'a L2Table) -> Self {
        let weight = u64::from(table.active) + u64::from(table.snapshots);
        Self { walk, table, weight, expected: 0 }
    }

    /// Takes the entries of the table, whose bytes are given.
    pub(crate) fn take_all(&mut self, figures: &mut Figures, bytes: &[u8]) -> Result<()> {
        if self.walk.header.has_subclusters() {
            self.take_entries(figures, bytes.as_chunks::<16>().0)
        } else {
            self.take_entries(figures, bytes.as_chunks::<8>().0)
        }
    }

    fn take_entries<const N: usize>(&mut self, figures: &mut Figures, entries: &[[u8; N]]) -> Result<()> {
        let mut index = 0;
        while let Some(entry) = entries.get(index) {
            let (word, bitmap) = (word_of(entry), bitmap_of(entry));
            if word | bitmap != 0 {
                let run = self.take_run(figures, &entries[index..])?;
                if run > 0 {
                    index += run as usize;
                    continue;
                }
                self.take(figures, index as u64, word, bitmap)?;
            }
            index += 1;
        }
        Ok(())
    }

    /// Takes the first entries at once when they are what nearly all are: data in one host cluster behind the other,
    /// with nothing to find. Tells how many; 0 when the first one must be looked at by itself.
    fn take_run<const N: usize>(&mut self, figures: &mut Figures, entries: &[[u8; N]]) -> Result<u64> {
        let Walk { header, references, refcounts, .. } = self.walk;
        let Some(word) = entries.first().map(word_of) else { return Ok(0) };
        let host_offset = word & !COPIED;
        let cluster = host_offset >> header.cluster_bits;
        let plain =
            host_offset & !L2_OFFSET_MASK == 0 && header.is_cluster_aligned(host_offset) && host_offset != 0;
        if !plain || cluster >= references.file_clusters() || header.has_data_file() {
            return Ok(0);
        }
        let first = cluster % WORD_CLUSTERS;
        let most = (WORD_CLUSTERS - first).min(references.file_clusters() - cluster);
        let mut run = run_length(entries, header.cluster_bits, most);
        if N > 8 {
            let odd = |entry: &[u8; N]| bitmap_of(entry) & (bitmap_of(entry) >> 32) != 0;
            run = entries[..run as usize].iter().position(odd).map_or(run, |odd| odd as u64);
        }
        let active = u64::from(self.table.active);
        if active > 0 && self.table.offset != 0 {
            let Some(ones) = refcounts.ones(cluster / WORD_CLUSTERS)? else { return Ok(0) };
            let wrong = if word & COPIED != 0 { !ones } else { ones };
            run = run.min(u64::from((wrong >> first).trailing_zeros()));
        }
        if run > 0 {
            references.add_each(
                cluster / WORD_CLUSTERS,
                u64::MAX >> (WORD_CLUSTERS - run) << first,
                self.weight,
            );
            figures.allocated_clusters += active * run;
            if self.expected != 0 && host_offset != self.expected {
                figures.fragmented_clusters += active;
            }
            self.expected = host_offset + (run << header.cluster_bits);
        }
        Ok(run)
    }

    fn take(&mut self, figures: &mut Figures, index: u64, word: u64, bitmap: u64) -> Result<()> {
        let entry = L2Entry::decode(word, self.walk.header);
        if !matches!(entry, L2Entry::Compressed { .. }) && word & STANDARD_RESERVED_MASK != 0 {
            self.report(figures, index, FindingKind::ReservedBits, "an L2 entry has reserved bits set");
        }
        match entry {
            L2Entry::Normal { host_offset } | L2Entry::ZeroAllocated { host_offset } => {
                self.take_allocated(figures, index, word, bitmap, host_offset)
            }
            L2Entry::Compressed { host_offset, length_bytes } => {
                self.take_compressed(figures, index, word, bitmap, (host_offset, length_bytes));
                Ok(())
            }
            L2Entry::Unallocated => {
                if bitmap & 0xffff_ffff != 0 {
                    let message = "subclusters of a cluster that is not allocated are marked as allocated";
                    self.report(figures, index, FindingKind::Subclusters, message);
                }
                Ok(())
            }
            L2Entry::ZeroPlain => Ok(()),
        }
    }

    fn take_allocated(
        &mut self,
        figures: &mut Figures,
        index: u64,
        word: u64,
        bitmap: u64,
        host_offset: u64,
    ) -> Result<()> {
        let walk = self.walk;
        let header = walk.header;
        let cluster = host_offset >> header.cluster_bits;
        let aligned = header.is_cluster_aligned(host_offset);
        if bitmap & (bitmap >> 32) != 0 {
            let message = "subclusters are marked as allocated and as zero";
            self.report(figures, index, FindingKind::Subclusters, message);
        }
        if !aligned {
            self.report(figures, index, FindingKind::Misaligned, "an L2 entry does not point at a cluster");
        }
        let active = u64::from(self.table.active);
        figures.allocated_clusters += active;
        if self.expected != 0 && host_offset != self.expected {
            figures.fragmented_clusters += active;
        }
        self.expected = host_offset + header.cluster_bytes();
        let past_end = if header.has_data_file() {
            false
        } else if aligned && cluster < walk.references.file_clusters() {
            walk.references.add(cluster, self.weight);
            false
        } else {
            walk.count(figures, host_offset, header.cluster_bytes(), self.weight) == Counted::PastEnd
        };
        if past_end {
            self.find(index, FindingKind::PastEnd, "a cluster of data lies past the end of the file");
        }
        // The active table's first entry of 0 stands for the header, whose marks nobody looks at.
        if active == 0 || self.table.offset == 0 {
            return Ok(());
        }
        let one = if header.has_data_file() { Some(true) } else { walk.refcounts.is_one(cluster)? };
        if one.is_some_and(|one| one != (word & COPIED != 0)) {
            figures.corruptions += active;
            self.find(
                index,
                FindingKind::CopiedMark,
                "the mark of an L2 entry contradicts the refcount of its cluster",
            );
        }
        Ok(())
    }

    fn take_compressed(&self, figures: &mut Figures, index: u64, word: u64, bitmap: u64, place: (u64, u64)) {
        let kind = FindingKind::CompressedEntry;
        if word & COPIED != 0 {
            self.report(figures, index, kind, "a compressed cluster is marked as used exactly once");
        }
        if self.walk.header.has_data_file() {
            self.report(figures, index, kind, "a compressed cluster in an image with an external data file");
            return;
        }
        if bitmap != 0 {
            self.report(figures, index, kind, "a compressed cluster has subclusters");
            return;
        }
        let (host_offset, length_bytes) = place;
        if self.walk.count(figures, host_offset, length_bytes, self.weight) == Counted::PastEnd {
            self.find(index, FindingKind::PastEnd, "a compressed cluster lies past the end of the file");
        }
        let active = u64::from(self.table.active);
        figures.allocated_clusters += active;
        figures.compressed_clusters += active;
        // A stream shares its sectors with its neighbours, so compressed clusters count as fragmented by nature.
        figures.fragmented_clusters += active;
    }

    /// Counts and lists a corruption.
    fn report(&self, figures: &mut Figures, index: u64, kind: FindingKind, message: &str) {
        figures.corruptions += self.weight;
        self.find(index, kind, message);
    }

    fn find(&self, index: u64, kind: FindingKind, message: &str) {
        let header = self.walk.header;
        let table = self.table;
        // By the guest's cluster; tables of snapshots may map the same ones.
        let cluster = u64::from(table.index) * header.l2_entries() + index;
        self.walk.findings.add((2, cluster, table.offset), || {
            let guest = cluster.checked_mul(header.cluster_bytes()).filter(|_| table.active > 0);
            let guest = guest.and_then(|start| self.walk.guest(start, header.cluster_bytes()));
            let entry_at = table.offset + index * header.l2_entry_bytes();
            Finding::new(kind, message).host(entry_at, header.l2_entry_bytes()).guest(guest)
        });
    }
}
