//! Clusters that are released together, in the order that survives a crash; see the module above.

use std::ops::Range;

use super::counts::Counts;
use super::medium::Medium;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::Header;
use crate::guest::ranges;
use crate::reason;
use crate::storage::read_zero_filled;

/// Entries and holes of one batch: less than a MiB of memory, and one flush for each GiB of released guest at the usual
/// cluster size.
const STEPS_MAX: usize = 16 << 10;
/// Tables are read and written in pieces of this size, or of a cluster when that is smaller.
pub(super) const PIECE_BYTES: u64 = 4096;

/// An L2 entry to be cleared.
struct Entry {
    /// Place in the file.
    at: u64,
    /// What it held when it was looked at.
    word: u64,
}

/// What is to be released.
#[derive(Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    /// Clusters of the host that lose a reference, once for each.
    released: Vec<u64>,
    /// Freed bytes inside clusters that stay, and that nothing else uses.
    holes: Vec<Range<u64>>,
}

impl Batch {
    /// The entry `word` at `at` names `bytes` of the file and shall name nothing.
    pub(super) fn release(&mut self, header: &Header, at: u64, word: u64, bytes: Range<u64>) {
        self.entries.push(Entry { at, word });
        let cluster_bytes = header.cluster_bytes();
        self.released.extend(bytes.start / cluster_bytes..bytes.end.div_ceil(cluster_bytes));
    }

    /// What lies in `hole` is free, in a cluster that stays.
    pub(super) fn punch(&mut self, hole: Range<u64>) {
        ranges::push_joined(&mut self.holes, hole);
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() + self.holes.len() >= STEPS_MAX
    }

    /// Carries it out, and is empty afterwards.
    pub(super) fn commit(&mut self, header: &Header, counts: &Counts<'_>, medium: &dyn Medium) -> Result<()> {
        if !self.entries.is_empty() {
            self.clear_entries(header, medium)?;
            // From here on nothing on the medium names the clusters: only now they may lose their counts.
            medium.flush()?;
            self.released.sort_unstable();
            let mut unused = Vec::new();
            counts.lower(medium, &self.released, &mut unused)?;
            let bits = header.cluster_bits;
            for cluster in unused {
                ranges::push_joined(&mut self.holes, cluster << bits..(cluster + 1) << bits);
            }
        }
        for hole in self.holes.drain(..) {
            medium.punch(hole)?;
        }
        self.entries.clear();
        self.released.clear();
        Ok(())
    }

    fn clear_entries(&self, header: &Header, medium: &dyn Medium) -> Result<()> {
        let piece_bytes = PIECE_BYTES.min(header.cluster_bytes());
        let entry_bytes = header.l2_entry_bytes() as usize;
        let mut piece = vec![0; piece_bytes as usize];
        for group in self.entries.chunk_by(|one, other| one.at / piece_bytes == other.at / piece_bytes) {
            let start = group[0].at / piece_bytes * piece_bytes;
            read_zero_filled(medium, &mut piece, start)?;
            for entry in group {
                let place = (entry.at - start) as usize;
                let found = &mut piece[place..place + entry_bytes];
                if found[..8] != entry.word.to_be_bytes() {
                    let message = "a table changed while the image was locked";
                    let error = Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message);
                    return Err(error.at(entry.at));
                }
                found.fill(0);
            }
            medium.write_at(&piece, start)?;
        }
        Ok(())
    }
}
