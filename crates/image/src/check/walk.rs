//! Walks L1 tables and hands out the L2 tables below them; [`crate::check::table`] goes through each.
//!
//! L2 tables are independent of each other but for sums, so each is read once, by any thread, however many L1 entries
//! share it (snapshots share nearly all of theirs): its figures are taken that many times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use crate::check::finding::{ByteRange, Finding, FindingKind, Findings};
use crate::check::qcow2::Figures;
use crate::check::refcounts::{OFFSET_MAX, Refcounts};
use crate::check::references::References;
use crate::check::table::TableWalk;
use crate::control::Control;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::{COPIED, Header, L1_OFFSET_MASK, L1_RESERVED_MASK};
use crate::progress::Meter;
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Bytes of an L1 table read at once.
const L1_PIECE_BYTES: u64 = 64 << 10;
/// L2 tables gathered before they are walked; 24 bytes each.
const BATCH_TABLES: usize = 1 << 20;
/// Tables that are worth a thread: fewer are walked before it has started.
const THREAD_TABLES: usize = 4;
/// Tables of which the medium is told before they are read.
const READ_AHEAD_TABLES: usize = 16;

/// Everything that walkers share.
pub(crate) struct Walk<'a> {
    pub(crate) storage: &'a Arc<dyn Storage>,
    pub(crate) header: &'a Header,
    pub(crate) refcounts: &'a Refcounts,
    pub(crate) references: &'a References,
    pub(crate) findings: &'a Findings,
    pub(crate) control: &'a Control,
    pub(crate) threads: usize,
    /// Told of every L1 entry, in bytes of L2 tables: those without a table, and those whose table was walked.
    pub(crate) meter: Option<&'a Meter<'a>>,
    /// Bytes of tables that may still be walked: tables that overlap could make the work grow without bound.
    pub(crate) budget_bytes: AtomicU64,
}

/// An L1 table to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct L1Table {
    pub(crate) offset: u64,
    pub(crate) entries: u32,
    /// How many snapshots have this table; 0 for the active one.
    pub(crate) snapshots: u32,
}

/// An L2 table, and how often L1 entries point at it.
#[derive(Clone, Copy)]
pub(crate) struct L2Table {
    pub(crate) offset: u64,
    /// The first L1 index that points here.
    pub(crate) index: u32,
    pub(crate) active: u32,
    pub(crate) snapshots: u32,
}

impl Walk<'_> {
    /// Counts a region of the file `weight` times. One that ends less than a cluster past the end of the file is fine:
    /// the last cluster may be cut short.
    pub(crate) fn count(&self, figures: &mut Figures, offset: u64, length: u64, weight: u64) -> Counted {
        if length == 0 {
            return Counted::Inside;
        }
        // Lengths come in whole sectors from a peer that knows no others, so they do here.
        let file_bytes = self.storage.size_bytes().next_multiple_of(512);
        let last = offset.saturating_add(length - 1);
        if last.saturating_add(1) >= file_bytes.saturating_add(self.header.cluster_bytes()) {
            figures.corruptions += weight;
            return Counted::PastEnd;
        }
        for cluster in offset >> self.header.cluster_bits..=last >> self.header.cluster_bits {
            self.references.add(cluster, weight);
        }
        Counted::Inside
    }

    /// Counts an L1 table and all below it.
    pub(crate) fn walk_l1(&self, figures: &mut Figures, tables: &[L1Table]) -> Result<()> {
        let mut batch = Vec::new();
        for table in tables {
            self.gather(figures, *table, &mut batch)?;
        }
        self.walk_batch(figures, &mut batch)
    }

    fn gather(&self, figures: &mut Figures, l1: L1Table, batch: &mut Vec<L2Table>) -> Result<()> {
        let length = u64::from(l1.entries) * 8;
        let weight = u64::from(l1.snapshots.max(1));
        if self.count(figures, l1.offset, length, weight) == Counted::PastEnd {
            self.findings.add((1, 0, l1.offset), || {
                let message = "an L1 table reaches past the end of the file";
                Finding::new(FindingKind::PastEnd, message).host(l1.offset, length)
            });
        }
        if l1.offset > OFFSET_MAX - length {
            let message = "an L1 table lies where no file reaches";
            return Err(Error::new(ErrorKind::Invalid, reason::INVALID_TABLE_OFFSET, message).at(l1.offset));
        }
        // Past the end of the file all entries are zero.
        let length = length.min(self.storage.size_bytes().saturating_sub(l1.offset)).next_multiple_of(8);
        let mut piece = Vec::new();
        let mut done = 0;
        while done < length {
            self.control.check_cancelled()?;
            piece.resize((length - done).min(L1_PIECE_BYTES) as usize, 0);
            read_zero_filled(&**self.storage, &mut piece, l1.offset + done)?;
            let (words, _) = piece.as_chunks::<8>();
            let waiting = batch.len();
            for (word, index) in words.iter().zip(done / 8..) {
                let word = u64::from_be_bytes(*word);
                if word != 0 {
                    batch.push(self.l1_entry(figures, l1, index, word)?);
                }
            }
            self.tell(words.len() - (batch.len() - waiting));
            self.check_memory()?;
            if batch.len() >= BATCH_TABLES {
                self.walk_batch(figures, batch)?;
            }
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// One non-zero L1 entry.
    fn l1_entry(&self, figures: &mut Figures, l1: L1Table, index: u64, word: u64) -> Result<L2Table> {
        let header = self.header;
        let weight = u64::from(l1.snapshots.max(1));
        let place = (1, 1 + u64::from(l1.snapshots > 0), index);
        let l2_guest_bytes = header.l2_guest_bytes();
        let guest = (l1.snapshots == 0)
            .then(|| self.guest(index.saturating_mul(l2_guest_bytes), l2_guest_bytes))
            .flatten();
        let entry_at = l1.offset + index * 8;
        let mut report = |kind, message: &str| {
            figures.corruptions += weight;
            self.findings.add(place, || Finding::new(kind, message).host(entry_at, 8).guest(guest));
        };
        let offset = word & L1_OFFSET_MASK;
        if word & L1_RESERVED_MASK != 0 {
            report(FindingKind::ReservedBits, "an L1 entry has reserved bits set");
        }
        if !header.is_cluster_aligned(offset) {
            report(FindingKind::Misaligned, "an L1 entry does not point at a cluster");
        }
        if l1.snapshots == 0 && offset != 0 {
            let one = self.refcounts.is_one(offset >> header.cluster_bits)?;
            if one.is_some_and(|one| one != (word & COPIED != 0)) {
                report(
                    FindingKind::CopiedMark,
                    "the mark of an L1 entry contradicts the refcount of its L2 table",
                );
            }
        }
        if self.count(figures, offset, header.cluster_bytes(), weight) == Counted::PastEnd {
            self.findings.add(place, || {
                let message = "an L2 table lies past the end of the file";
                Finding::new(FindingKind::PastEnd, message).host(offset, header.cluster_bytes()).guest(guest)
            });
        }
        let active = u32::from(l1.snapshots == 0);
        // The index fits: an L1 table has less than 2^32 entries.
        Ok(L2Table { offset, index: index as u32, active, snapshots: l1.snapshots })
    }

    /// Some L1 entries are done with.
    fn tell(&self, entries: usize) {
        if let Some(meter) = self.meter {
            meter.add((entries as u64).saturating_mul(self.header.cluster_bytes()));
        }
    }

    /// An error once references could not be counted any more.
    pub(crate) fn check_memory(&self) -> Result<()> {
        if self.references.is_exhausted() {
            let message = "counting the references of the image takes more than 1 GiB of memory";
            return Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_LIMIT, message));
        }
        Ok(())
    }

    /// Walks the gathered tables, each once, on all threads.
    fn walk_batch(&self, figures: &mut Figures, batch: &mut Vec<L2Table>) -> Result<()> {
        let gathered = batch.len();
        // Active references first, so that findings name the active disk's guest range.
        batch.sort_unstable_by_key(|table| (table.offset, table.snapshots, table.index));
        batch.dedup_by(|next, first| {
            let same = next.offset == first.offset;
            if same {
                first.active = first.active.saturating_add(next.active);
                first.snapshots = first.snapshots.saturating_add(next.snapshots);
            }
            same
        });
        // Past the end of the file all entries are zero, and a table of zeros refers to nothing.
        batch.retain(|table| table.offset < self.storage.size_bytes());
        self.tell(gathered - batch.len());
        for table in batch.iter().take(READ_AHEAD_TABLES) {
            self.will_need(table);
        }
        let next = AtomicUsize::new(0);
        let tables = &**batch;
        let threads = self.threads.min(tables.len() / THREAD_TABLES).max(1);
        let results: Vec<Result<Figures>> = thread::scope(|scope| {
            let others: Vec<_> =
                (1..threads).map(|_| scope.spawn(|| self.walk_tables(tables, &next))).collect();
            let mut results = vec![self.walk_tables(tables, &next)];
            results.extend(others.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Io, reason::IO, "a checking thread failed"))
                })
            }));
            results
        });
        for result in results {
            figures.add(&result?);
        }
        batch.clear();
        Ok(())
    }

    fn walk_tables(&self, tables: &[L2Table], next: &AtomicUsize) -> Result<Figures> {
        let mut figures = Figures::default();
        let mut bytes = vec![0u8; self.header.cluster_bytes() as usize];
        let sparse = self.storage.allocated_bytes() < self.storage.size_bytes();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(table) = tables.get(index) else { return Ok(figures) };
            self.control.check_cancelled()?;
            self.check_memory()?;
            if let Some(ahead) = tables.get(index + READ_AHEAD_TABLES) {
                self.will_need(ahead);
            }
            let end = table.offset + self.header.cluster_bytes();
            let hole = sparse && self.storage.next_data(table.offset)?.is_none_or(|data| data.start >= end);
            if !hole {
                self.spend()?;
                read_zero_filled(&**self.storage, &mut bytes, table.offset)?;
                TableWalk::new(self, table).take_all(&mut figures, &bytes)?;
            }
            self.tell(1);
        }
    }

    /// Tells the medium of a table that will be read soon.
    fn will_need(&self, table: &L2Table) {
        self.storage.will_need(table.offset..table.offset + self.header.cluster_bytes());
    }

    fn spend(&self) -> Result<()> {
        let spent = self.header.cluster_bytes();
        let take = |left: u64| left.checked_sub(spent);
        match self.budget_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => {
                let message = "the L2 tables overlap so much that walking them would take too long";
                Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_LIMIT, message))
            }
        }
    }

    /// A range of the guest's disk, cut at its end.
    pub(crate) fn guest(&self, start_bytes: u64, length_bytes: u64) -> Option<ByteRange> {
        let left = self.header.virtual_size_bytes().saturating_sub(start_bytes);
        (left > 0).then(|| ByteRange { start_bytes, length_bytes: length_bytes.min(left) })
    }
}

/// Whether a counted region lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Inside,
    PastEnd,
}
