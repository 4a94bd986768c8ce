//! Stored refcounts against counted references.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::check::finding::{Finding, FindingKind, Findings};
use crate::check::qcow2::Figures;
use crate::check::refcounts::{Refcounts, Stored};
use crate::check::references::{References, WORD_CLUSTERS};
use crate::control::Control;
use crate::error::Result;
use crate::format::qcow2::Header;

/// What is wrong with a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    TooLow,
    Leak,
    Unreadable,
}

/// Compares all clusters, and tells the ranges of host clusters whose refcount is too low, the first ones.
pub(crate) struct Compare<'a> {
    pub(crate) header: &'a Header,
    pub(crate) refcounts: &'a Refcounts,
    pub(crate) references: &'a References,
    pub(crate) findings: &'a Findings,
    pub(crate) control: &'a Control,
    large: BTreeMap<u64, u64>,
    run: Option<Run>,
    /// Clusters with either count above 0 end here.
    end: u64,
}

/// Neighbouring clusters with the same difference.
struct Run {
    first: u64,
    count: u64,
    difference: Difference,
}

impl<'a> Compare<'a> {
    pub(crate) fn new(
        header: &'a Header,
        refcounts: &'a Refcounts,
        references: &'a References,
        findings: &'a Findings,
        control: &'a Control,
    ) -> Self {
        let large = references.large().into_iter().collect();
        Self { header, refcounts, references, findings, control, large, run: None, end: 0 }
    }

    /// Adds corruptions, leaks and unreadable counts to `figures`, and the end of the image.
    pub(crate) fn run(mut self, figures: &mut Figures) -> Result<()> {
        self.add_overflows(figures);
        let clusters = self.references.clusters();
        let per_block = self.header.refcount_block_entries();
        let mut buffer = Vec::new();
        let mut start = 0;
        while start < clusters {
            self.control.check_cancelled()?;
            let end = (start + per_block).min(clusters);
            match self.refcounts.stored(start / per_block, &mut buffer)? {
                None => self.take_unreadable(figures, start, end),
                Some(stored) => self.compare_block(figures, start, end, stored),
            }
            start = end;
        }
        self.close_run();
        figures.image_end_offset = self.end.max(1) << self.header.cluster_bits;
        Ok(())
    }

    /// Each reference beyond what a refcount can hold is a corruption of its own.
    fn add_overflows(&mut self, figures: &mut Figures) {
        let max = self.largest();
        if max >= 256 {
            for (cluster, references) in &self.large {
                self.add_overflow(figures, *cluster, *references, max);
            }
            return;
        }
        for word in 0..self.references.clusters().div_ceil(WORD_CLUSTERS) {
            // Without further references there is one at most, which every width holds.
            if self.references.more(word).is_none() {
                continue;
            }
            let counted = self.counted(word);
            for (low, cluster) in counted.iter().zip(word * WORD_CLUSTERS..) {
                let references = self.large.get(&cluster).copied().unwrap_or(u64::from(*low));
                self.add_overflow(figures, cluster, references, max);
            }
        }
    }

    /// The references to the clusters of a word; those in `large` are cut.
    fn counted(&self, word: u64) -> [u16; WORD_CLUSTERS as usize] {
        let used = self.references.used(word);
        let mut counted = [0u16; WORD_CLUSTERS as usize];
        for (count, bit) in counted.iter_mut().zip(0..) {
            *count = (used >> bit & 1) as u16;
        }
        if let Some(more) = self.references.more(word) {
            for (count, more) in counted.iter_mut().zip(more) {
                *count += u16::from(more.load(Ordering::Relaxed));
            }
        }
        counted
    }

    fn add_overflow(&self, figures: &mut Figures, cluster: u64, references: u64, max: u64) {
        if references > max {
            figures.corruptions += references - max;
            self.findings.add((3, 0, cluster), || {
                let message = format!("{references} references, more than the width of refcounts can hold");
                self.finding(FindingKind::RefcountOverflow, message, cluster, 1)
            });
        }
    }

    /// The largest value of a refcount.
    fn largest(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.header.refcount_order))
    }

    fn take_unreadable(&mut self, figures: &mut Figures, start: u64, end: u64) {
        // Whether such a cluster is used does not matter to its peer either: the end stays where it was.
        figures.check_errors += end - start;
        self.close_run();
        self.run = Some(Run { first: start, count: end - start, difference: Difference::Unreadable });
        self.close_run();
    }

    fn compare_block(&mut self, figures: &mut Figures, start: u64, end: u64, stored: Stored<'_>) {
        let mut at = start;
        while at < end {
            let next = (at + WORD_CLUSTERS).min(end);
            let used = self.references.used(at / WORD_CLUSTERS);
            if !self.is_equal(at, next, at - start, stored) {
                self.compare_each(figures, at..next, at - start, stored);
            } else if used != 0 {
                self.end = at + u64::from(u64::BITS - used.leading_zeros());
            }
            at = next;
        }
    }

    /// The fast way: most words are equal, in images with the usual width of refcounts.
    fn is_equal(&self, at: u64, next: u64, first: u64, stored: Stored<'_>) -> bool {
        let word = at / WORD_CLUSTERS;
        if self.large.range(at..next).next().is_some() {
            return false;
        }
        match (stored, self.references.more(word)) {
            (Stored::Zeros, _) => self.references.used(word) == 0,
            (Stored::Bits(bits), more) => {
                let inside = u64::MAX >> (WORD_CLUSTERS - (next - at));
                let alone = more.is_none_or(|more| more.iter().all(|more| more.load(Ordering::Relaxed) == 0));
                alone && bits[(first / WORD_CLUSTERS) as usize] & inside == self.references.used(word)
            }
            (Stored::Entries(block), _) if self.header.refcount_order == 4 => {
                let (stored, _) = block[first as usize * 2..].as_chunks::<2>();
                let differs = |stored: &[u8; 2], counted: &u16| u16::from_be_bytes(*stored) ^ counted;
                let counted = self.counted(word);
                let counted = &counted[..(next - at) as usize];
                stored.iter().zip(counted).fold(0, |all, (stored, counted)| all | differs(stored, counted))
                    == 0
            }
            (Stored::Entries(_), _) => false,
        }
    }

    fn compare_each(&mut self, figures: &mut Figures, clusters: Range<u64>, first: u64, stored: Stored<'_>) {
        let max = self.largest();
        let counted = self.counted(clusters.start / WORD_CLUSTERS);
        for ((low, cluster), entry) in counted.iter().zip(clusters).zip(first..) {
            let stored = stored.get(self.header.refcount_order, entry);
            let references = self.large.get(&cluster).copied().unwrap_or(u64::from(*low)).min(max);
            if stored > 0 || references > 0 {
                self.end = cluster + 1;
            }
            match stored.cmp(&references) {
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Less => {
                    figures.corruptions += 1;
                    self.differ(cluster, Difference::TooLow);
                }
                std::cmp::Ordering::Greater => {
                    figures.leaks += 1;
                    self.differ(cluster, Difference::Leak);
                }
            }
        }
    }

    fn differ(&mut self, cluster: u64, difference: Difference) {
        match &mut self.run {
            Some(run) if run.difference == difference && run.first + run.count == cluster => run.count += 1,
            _ => {
                self.close_run();
                self.run = Some(Run { first: cluster, count: 1, difference });
            }
        }
    }

    fn close_run(&mut self) {
        let Some(run) = self.run.take() else { return };
        let (kind, message) = match run.difference {
            Difference::TooLow => {
                (FindingKind::RefcountTooLow, "clusters are used more often than their refcount says")
            }
            Difference::Leak => (FindingKind::Leak, "clusters are used less often than their refcount says"),
            Difference::Unreadable => {
                (FindingKind::RefcountUnreadable, "the refcounts of clusters cannot be read")
            }
        };
        self.findings.add((4, u64::from(kind == FindingKind::Leak), run.first), || {
            self.finding(kind, message.to_owned(), run.first, run.count)
        });
    }

    fn finding(&self, kind: FindingKind, message: String, cluster: u64, count: u64) -> Finding {
        Finding::new(kind, message)
            .host(cluster << self.header.cluster_bits, count << self.header.cluster_bits)
    }
}
