//! qcow2 images: what can be released, found table by table.

use std::ops::Range;

use super::batch::{Batch, PIECE_BYTES};
use super::counts::Counts;
use super::medium::Medium;
use super::plan::Plan;
use super::raw::whole_blocks;
use crate::control::Control;
use crate::error::Result;
use crate::format::Qcow2;
use crate::format::qcow2::{COPIED, Header, L1_OFFSET_MASK, L2Entry};
use crate::guest::ranges;
use crate::progress::Meter;
use crate::storage::read_zero_filled;

/// Releases all that can be.
pub(super) fn punch(
    image: &Qcow2,
    medium: &dyn Medium,
    plan: &mut Plan<'_>,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<()> {
    let header = image.header();
    plan.set_cluster_bytes(header.cluster_bytes());
    let counts = Counts::read(header, medium)?;
    let tables = Tables { header, medium, control };
    let streams_alone = !tables.any_shared()?;
    let mut finder = Finder { header, plan, streams_alone, batch: Batch::default(), free: Vec::new() };
    tables.walk(|table| {
        if let Table::Of { guest, entries } = table {
            for entry in entries {
                finder.look_at(&guest, &entry)?;
            }
            if finder.batch.is_full() {
                finder.batch.commit(header, &counts, medium)?;
            }
        } else {
            meter.add(header.l2_guest_bytes());
        }
        Ok(true)
    })?;
    finder.batch.commit(header, &counts, medium)?;
    Ok(medium.flush()?)
}

/// An entry of an L2 table.
struct Entry {
    /// Place in the file.
    at: u64,
    word: u64,
    /// The word of the subclusters; 0 in images that have none.
    subclusters: u64,
    /// First guest byte, counted from that of the piece.
    offset: u64,
}

/// What a walk meets.
enum Table {
    /// A piece of an L2 table that only one L1 entry names, and the guest bytes that it maps.
    Of { guest: Range<u64>, entries: Vec<Entry> },
    /// A table that several L1 entries name.
    Shared,
    /// The end of what one L1 entry is about.
    End,
}

/// The L2 tables of the active disk.
struct Tables<'a> {
    header: &'a Header,
    medium: &'a dyn Medium,
    control: &'a Control,
}

impl Tables<'_> {
    /// Whether anything of the disk has several users. A stream that leaves a cluster with one user left would have to
    /// set that one's mark.
    fn any_shared(&self) -> Result<bool> {
        let mut any = false;
        self.walk(|table| {
            any |= match table {
                Table::Shared => true,
                Table::End => false,
                Table::Of { entries, .. } => entries.iter().any(|entry| {
                    let plain = matches!(
                        L2Entry::decode(entry.word, self.header),
                        L2Entry::Normal { .. } | L2Entry::ZeroAllocated { .. }
                    );
                    plain && entry.word & COPIED == 0
                }),
            };
            Ok(!any)
        })?;
        Ok(any)
    }

    /// Hands every table to `take`, in guest order and in pieces, until it has had enough.
    fn walk(&self, mut take: impl FnMut(Table) -> Result<bool>) -> Result<()> {
        let piece_bytes = PIECE_BYTES.min(self.header.cluster_bytes());
        let mut l1 = vec![0; piece_bytes as usize];
        let size = self.header.virtual_size_bytes();
        for index in 0..u64::from(self.header.l1_entries) {
            let base = index.saturating_mul(self.header.l2_guest_bytes());
            if base >= size {
                break;
            }
            let place = (index * 8 % piece_bytes) as usize;
            if place == 0 {
                self.control.check_cancelled()?;
                read_zero_filled(self.medium, &mut l1, self.header.l1_offset + index * 8)?;
            }
            let word = word_at(&l1, place);
            let more = match word & L1_OFFSET_MASK {
                0 => true,
                _ if word & COPIED == 0 => take(Table::Shared)?,
                offset => self.walk_table(offset, base, &mut take)?,
            };
            if !more || !take(Table::End)? {
                break;
            }
        }
        Ok(())
    }

    fn walk_table(
        &self,
        offset: u64,
        base: u64,
        take: &mut impl FnMut(Table) -> Result<bool>,
    ) -> Result<bool> {
        let header = self.header;
        let piece_bytes = PIECE_BYTES.min(header.cluster_bytes());
        let entry_bytes = header.l2_entry_bytes();
        let guest_bytes = (piece_bytes / entry_bytes) << header.cluster_bits;
        let size = header.virtual_size_bytes();
        let mut piece = vec![0; piece_bytes as usize];
        for number in 0..header.cluster_bytes() / piece_bytes {
            self.control.check_cancelled()?;
            let guest = base.saturating_add(number * guest_bytes);
            if guest >= size {
                break;
            }
            let start = offset + number * piece_bytes;
            read_zero_filled(self.medium, &mut piece, start)?;
            let entry = |index: u64| {
                let place = (index * entry_bytes) as usize;
                let subclusters = if header.has_subclusters() { word_at(&piece, place + 8) } else { 0 };
                let (at, offset) = (start + index * entry_bytes, index << header.cluster_bits);
                Entry { at, word: word_at(&piece, place), subclusters, offset }
            };
            let entries = (0..piece_bytes / entry_bytes).map(entry).filter(|entry| entry.word != 0);
            let end = guest.saturating_add(guest_bytes).min(size);
            if !take(Table::Of { guest: guest..end, entries: entries.collect() })? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Decides what becomes of each entry.
struct Finder<'a, 'p> {
    header: &'a Header,
    plan: &'a mut Plan<'p>,
    /// Clusters that hold compressed streams hold nothing else.
    streams_alone: bool,
    batch: Batch,
    free: Vec<Range<u64>>,
}

impl Finder<'_, '_> {
    fn look_at(&mut self, piece: &Range<u64>, entry: &Entry) -> Result<()> {
        let start = piece.start + entry.offset;
        let guest = start..start.saturating_add(self.header.cluster_bytes()).min(piece.end);
        let decoded = L2Entry::decode(entry.word, self.header);
        if guest.is_empty() || matches!(decoded, L2Entry::Unallocated | L2Entry::ZeroPlain) {
            return Ok(());
        }
        let mut free = std::mem::take(&mut self.free);
        self.plan.free_within(&guest, &mut free)?;
        if !free.is_empty() {
            self.decide(&guest, entry, decoded, &free);
        }
        self.free = free;
        Ok(())
    }

    fn decide(&mut self, guest: &Range<u64>, entry: &Entry, decoded: L2Entry, free: &[Range<u64>]) {
        let cluster_bytes = self.header.cluster_bytes();
        let is_free = free == std::slice::from_ref(guest);
        let alone = entry.word & COPIED != 0;
        let stored = self.stored(guest, entry, decoded);
        let bytes = match decoded {
            L2Entry::Normal { host_offset } | L2Entry::ZeroAllocated { host_offset } if alone => {
                host_offset..host_offset + cluster_bytes
            }
            // Whole sectors, as counts go by them.
            L2Entry::Compressed { host_offset, length_bytes } if self.streams_alone => {
                host_offset / 512 * 512..host_offset + length_bytes
            }
            _ => 0..0,
        };
        if bytes.is_empty() || (!is_free && !matches!(decoded, L2Entry::Normal { .. })) {
            let left: u64 = free.iter().map(|range| ranges::overlap_bytes(&stored, range)).sum();
            self.plan.count_left(left);
        } else if is_free {
            self.batch.release(self.header, entry.at, entry.word, bytes);
            for range in &stored {
                self.plan.count_dropped(range);
            }
        } else {
            self.punch_inside(guest, bytes.start, &stored, free);
        }
    }

    /// Punches the free pieces of a plain cluster that stays, and that nothing else uses.
    fn punch_inside(&mut self, guest: &Range<u64>, host: u64, stored: &[Range<u64>], free: &[Range<u64>]) {
        for range in free {
            let place = |offset: u64| offset - guest.start + host;
            let hole = whole_blocks(&(place(range.start)..place(range.end)));
            let inside = hole.start - host + guest.start..hole.end - host + guest.start;
            let mut dropped = 0;
            if !hole.is_empty() {
                self.batch.punch(hole);
                for piece in stored {
                    let piece = piece.start.max(inside.start)..piece.end.min(inside.end);
                    if !piece.is_empty() {
                        self.plan.count_dropped(&piece);
                        dropped += piece.end - piece.start;
                    }
                }
            }
            self.plan.count_left(ranges::overlap_bytes(stored, range) - dropped);
        }
    }

    /// What the image stores of a cluster.
    fn stored(&self, guest: &Range<u64>, entry: &Entry, decoded: L2Entry) -> Vec<Range<u64>> {
        match decoded {
            L2Entry::Normal { .. } if self.header.has_subclusters() => {
                let bytes = self.header.cluster_bytes() / 32;
                let mut stored = Vec::new();
                for index in (0..32).filter(|index| entry.subclusters >> index & 1 == 1) {
                    let start = guest.start + index * bytes;
                    if start < guest.end {
                        ranges::push_joined(&mut stored, start..(start + bytes).min(guest.end));
                    }
                }
                stored
            }
            L2Entry::Normal { .. } | L2Entry::Compressed { .. } => vec![guest.clone()],
            _ => Vec::new(),
        }
    }
}

/// The big-endian word at `place`, which lies inside.
fn word_at(bytes: &[u8], place: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[place..place + 8]);
    u64::from_be_bytes(word)
}
