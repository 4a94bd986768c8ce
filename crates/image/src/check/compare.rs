//! Stored refcounts against counted references.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::check::finding::{Finding, FindingKind, Findings};
use crate::check::qcow2::Figures;
use crate::check::refcounts::{Refcounts, entry_at};
use crate::check::references::{CHUNK_CLUSTERS, References};
use crate::control::Control;
use crate::error::Result;
use crate::format::qcow2::Header;

/// Clusters that are compared at once; divides both a block of refcounts and a chunk of references.
const STRIDE: u64 = 64;

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
        let mut block = Vec::new();
        let mut start = 0;
        while start < clusters {
            self.control.check_cancelled()?;
            let end = (start + per_block).min(clusters);
            let read = self.refcounts.read_block(start / per_block, &mut block)?;
            match read {
                None => self.take_unreadable(figures, start, end),
                Some(stored) => self.compare_block(figures, start, end, stored.then_some(&block)),
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
        if max >= 255 {
            for (cluster, references) in &self.large {
                self.add_overflow(figures, *cluster, *references, max);
            }
            return;
        }
        for chunk in 0..self.references.clusters().div_ceil(CHUNK_CLUSTERS) {
            let Some(counters) = self.references.chunk(chunk) else { continue };
            for (low, cluster) in counters.iter().zip(chunk * CHUNK_CLUSTERS..) {
                let references = match self.large.get(&cluster) {
                    Some(references) => *references,
                    None => u64::from(low.load(Ordering::Relaxed)),
                };
                self.add_overflow(figures, cluster, references, max);
            }
        }
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

    fn compare_block(&mut self, figures: &mut Figures, start: u64, end: u64, block: Option<&Vec<u8>>) {
        let mut at = start;
        while at < end {
            let next = (at + STRIDE).min(end);
            let counters = self.references.chunk(at / CHUNK_CLUSTERS);
            let mut counted = [0u8; STRIDE as usize];
            if let Some(counters) = counters {
                let first = (at % CHUNK_CLUSTERS) as usize;
                for (low, counter) in counted.iter_mut().zip(&counters[first..]) {
                    *low = counter.load(Ordering::Relaxed);
                }
            }
            let counted = &counted[..(next - at) as usize];
            if !self.is_equal(block, at - start, counted) || self.large.range(at..next).next().is_some() {
                self.compare_each(figures, at, counted, block, start);
            }
            if self.end < next {
                let used = |index: usize| {
                    counted[index] > 0 || stored_at(block, self.header, at - start + index as u64) > 0
                };
                if let Some(last) = (0..counted.len()).rev().find(|index| used(*index)) {
                    self.end = at + last as u64 + 1;
                }
            }
            at = next;
        }
    }

    /// The fast way: most strides are equal, in images with the usual width of refcounts.
    fn is_equal(&self, block: Option<&Vec<u8>>, first: u64, counted: &[u8]) -> bool {
        let Some(block) = block else { return counted.iter().all(|count| *count == 0) };
        if self.header.refcount_order != 4 {
            return false;
        }
        let (stored, _) = block[first as usize * 2..].as_chunks::<2>();
        let differs = |stored: &[u8; 2], counted: &u8| u16::from_be_bytes(*stored) ^ u16::from(*counted);
        stored.iter().zip(counted).fold(0, |all, (stored, counted)| all | differs(stored, counted)) == 0
    }

    fn compare_each(
        &mut self,
        figures: &mut Figures,
        at: u64,
        counted: &[u8],
        block: Option<&Vec<u8>>,
        start: u64,
    ) {
        let max = self.largest();
        for (low, cluster) in counted.iter().zip(at..) {
            let stored = stored_at(block, self.header, cluster - start);
            let references = self.large.get(&cluster).copied().unwrap_or(u64::from(*low)).min(max);
            if references > 0 {
                self.end = self.end.max(cluster + 1);
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

fn stored_at(block: Option<&Vec<u8>>, header: &Header, entry: u64) -> u64 {
    block.map_or(0, |block| entry_at(block, header.refcount_order, entry))
}
