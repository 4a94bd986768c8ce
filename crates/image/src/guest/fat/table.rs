//! The file allocation tables: one entry for each cluster, in two copies as a rule.

use std::ops::{ControlFlow, Range};

use super::boot::{BootRecord, Width};
use crate::control::Control;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Entries that are read at a time; even, so that a read starts at a whole byte of FAT12.
const CHUNK: u32 = 16_384;
/// Clusters that are looked after in one pass over the tables: a bitmap of 8 MiB, for disks of terabytes alone.
const WINDOW: u32 = 1 << 26;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Free,
    Next(u32),
    /// The last of a chain, or bad.
    Last,
    Invalid,
}

/// Where the tables lie, and how their entries are read.
#[derive(Debug)]
pub(crate) struct Tables {
    width: Width,
    starts: Vec<u64>,
    media: u8,
    /// One more than the highest cluster number.
    end: u32,
}

/// What a pass over the tables came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Clusters that every copy calls free.
    pub(crate) free: u64,
    /// … of those that may be dropped.
    pub(crate) settled: u64,
    /// Clusters that one copy calls free and the other does not.
    pub(crate) disputed: u64,
}

impl Tables {
    /// The tables of a file system whose record was found sound.
    pub(crate) fn new(record: &BootRecord) -> Self {
        Self {
            width: record.width,
            starts: (0..record.tables).map(|table| record.table_start(table)).collect(),
            media: record.media,
            end: record.clusters + 2,
        }
    }

    /// Calls `take` with each cluster of `clusters` and its entry in the first and in the last copy. `None`: `take` never
    /// broke off.
    pub(crate) fn for_each<T>(
        &self,
        device: &Device<'_>,
        clusters: Range<u32>,
        mut take: impl FnMut(u32, [u32; 2]) -> ControlFlow<T>,
    ) -> Result<Option<T>> {
        let bits = self.width.bits();
        let mut copies = [Vec::new(), Vec::new()];
        let mut first = clusters.start & !1;
        while first < clusters.end {
            let last = clusters.end.min(first + CHUNK);
            let bytes = u64::from(first) * bits / 8..(u64::from(last) * bits).div_ceil(8);
            for (copy, start) in copies.iter_mut().zip(&self.starts) {
                copy.resize((bytes.end - bytes.start) as usize, 0);
                // Outside the device, which the record has ruled out, nothing would be free.
                if !device.read_at(copy, start + bytes.start)? {
                    copy.fill(0xff);
                }
            }
            let [one, two] = &copies;
            let two = if self.starts.len() == 1 { one } else { two };
            for cluster in first.max(clusters.start)..last {
                let index = (cluster - first) as usize;
                let entries = [self.decode(one, index), self.decode(two, index)];
                if let ControlFlow::Break(value) = take(cluster, entries) {
                    return Ok(Some(value));
                }
            }
            first = last;
        }
        Ok(None)
    }

    fn decode(&self, bytes: &[u8], index: usize) -> u32 {
        match self.width {
            Width::Fat12 => u32::from(bytes.u16_at(index * 3 / 2) >> (index % 2 * 4) & 0xfff),
            Width::Fat16 => u32::from(bytes.u16_at(index * 2)),
            // The highest bits are reserved and say nothing.
            Width::Fat32 => bytes.u32_at(index * 4) & 0x0fff_ffff,
        }
    }

    /// All bits of an entry.
    fn ones(&self) -> u32 {
        match self.width {
            Width::Fat12 => 0xfff,
            Width::Fat16 => 0xffff,
            Width::Fat32 => 0x0fff_ffff,
        }
    }

    fn classify(&self, entry: u32) -> Entry {
        match entry {
            0 => Entry::Free,
            next if (2..self.end).contains(&next) => Entry::Next(next),
            // Eight values end a chain; the one before them marks a bad cluster.
            mark if mark >= self.ones() - 8 => Entry::Last,
            _ => Entry::Invalid,
        }
    }

    /// The reason to keep all by the first two entries, which are no clusters' but the media type and the state.
    pub(crate) fn check_marks(&self, device: &Device<'_>) -> Result<Result<(), Kept>> {
        let mut marks = [[0; 2]; 2];
        self.for_each(device, 0..2, |cluster, entries| {
            marks[cluster as usize] = entries;
            ControlFlow::<()>::Continue(())
        })?;
        let ones = self.ones();
        let media = ones & !0xff | u32::from(self.media);
        // FAT12 has no room for a state.
        let (clean, sound) = match self.width {
            Width::Fat12 => (0, 0),
            Width::Fat16 | Width::Fat32 => (ones - (ones >> 1), (ones >> 1) - (ones >> 2)),
        };
        for (media_entry, state) in marks[0].into_iter().zip(marks[1]) {
            if media_entry != media || (state | clean | sound) < ones - 7 {
                let message = "a file allocation table does not start as one";
                return Ok(Err(Kept::whole(reason::KEPT_GEOMETRY, message)));
            }
            if state & clean != clean {
                let message = "the file allocation table says that the file system was not cleanly unmounted";
                return Ok(Err(Kept::whole(reason::KEPT_NOT_CLEAN, message)));
            }
            if state & sound != sound {
                let message = "the file allocation table says that the medium has errors";
                return Ok(Err(Kept::whole(reason::KEPT_ERROR_STATE, message)));
            }
        }
        Ok(Ok(()))
    }

    /// Counts free clusters and looks for entries that make no sense; the inner error is the reason to keep all.
    /// Clusters from number `settled` on are counted, and kept.
    pub(crate) fn check(
        &self,
        device: &Device<'_>,
        settled: u32,
        control: &Control,
    ) -> Result<Result<Count, Kept>> {
        let mut count = Count::default();
        for start in (2..self.end).step_by(WINDOW as usize) {
            let window = start..self.end.min(start.saturating_add(WINDOW));
            let followers = match self.followers(device, &window, control)? {
                Ok(followers) => followers,
                Err(kept) => return Ok(Err(kept)),
            };
            let followed = self.scan(device, window.clone(), control, |cluster, entries| {
                let zeros = entries.iter().filter(|entry| **entry == 0).count();
                count.disputed += u64::from(zeros == 1);
                count.free += u64::from(zeros == 2);
                count.settled += u64::from(zeros == 2 && cluster < settled);
                let bit = (cluster - window.start) as usize;
                if zeros == 2 && followers[bit / 8] >> (bit % 8) & 1 == 1 {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
            if followed.is_some() {
                let message = "a chain of the file allocation table leads to a free cluster";
                return Ok(Err(Kept::whole(reason::KEPT_FREE_COUNT, message)));
            }
        }
        Ok(Ok(count))
    }

    /// A bit for each cluster of `window`: another one's entry names it, in any copy.
    fn followers(
        &self,
        device: &Device<'_>,
        window: &Range<u32>,
        control: &Control,
    ) -> Result<Result<Vec<u8>, Kept>> {
        let mut followers = vec![0_u8; (window.end - window.start).div_ceil(8) as usize];
        let invalid = self.scan(device, 2..self.end, control, |_, entries| {
            for entry in entries {
                match self.classify(entry) {
                    Entry::Next(next) if window.contains(&next) => {
                        let bit = (next - window.start) as usize;
                        followers[bit / 8] |= 1 << (bit % 8);
                    }
                    Entry::Invalid => return ControlFlow::Break(()),
                    Entry::Free | Entry::Next(_) | Entry::Last => {}
                }
            }
            ControlFlow::Continue(())
        })?;
        if invalid.is_some() {
            let message = "the file allocation table names clusters that do not exist";
            return Ok(Err(Kept::whole(reason::KEPT_GEOMETRY, message)));
        }
        Ok(Ok(followers))
    }

    /// As `for_each`, and can be cancelled.
    fn scan<T>(
        &self,
        device: &Device<'_>,
        clusters: Range<u32>,
        control: &Control,
        mut take: impl FnMut(u32, [u32; 2]) -> ControlFlow<T>,
    ) -> Result<Option<T>> {
        for first in clusters.clone().step_by(CHUNK as usize) {
            control.check_cancelled()?;
            let chunk = first..clusters.end.min(first.saturating_add(CHUNK));
            if let Some(value) = self.for_each(device, chunk, &mut take)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
