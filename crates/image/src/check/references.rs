//! How often each host cluster is referred to, counted by many threads at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Clusters of a chunk; a chunk is allocated when the first of them is counted.
pub(crate) const CHUNK_CLUSTERS: u64 = 1 << 16;
/// Clusters of a word of the bitmap of used clusters.
pub(crate) const WORD_CLUSTERS: u64 = 64;

/// Most memory for counters: enough for 2^31 clusters that are used once, or 58 TiB of clusters of 64 KiB that are used
/// more often. A file that is nearly all hole needs next to nothing on its medium to have far more clusters than that,
/// if only they are small.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What an entry of the map of rounds takes, at most.
const ROUND_BYTES: u64 = 40;

/// One bit for each cluster that is referred to at all, and one byte for its further references where there are any.
/// Few clusters are referred to more than 256 times (those that hold many compressed streams): how often their byte
/// went around is kept aside.
///
/// Everything is a sum, so the order in which threads add does not matter, and neither does memory order: threads are
/// joined before sums are read as a whole. Of the references to one cluster exactly one finds its bit clear; the sum
/// is the same whichever it was.
pub(crate) struct References {
    chunks: Vec<OnceLock<Chunk>>,
    rounds: Mutex<HashMap<u64, u64>>,
    clusters: u64,
    grown: AtomicBool,
    /// Left of the memory for counters.
    memory_bytes: AtomicU64,
    exhausted: AtomicBool,
}

/// The counters of [`CHUNK_CLUSTERS`] clusters.
struct Chunk {
    /// A bit for each cluster that is referred to.
    used: Box<[AtomicU64]>,
    /// References beyond the first, modulo 256; made when one of the clusters has any.
    more: OnceLock<Box<[AtomicU8]>>,
}

impl References {
    /// Counters for the clusters of a file, and one for a cluster that the file's last table may reach into.
    pub(crate) fn new(clusters: u64) -> Self {
        Self::with_memory(clusters, MEMORY_BYTES_MAX)
    }

    fn with_memory(clusters: u64, memory_bytes: u64) -> Self {
        let chunks = (clusters + 1).div_ceil(CHUNK_CLUSTERS);
        Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            rounds: Mutex::default(),
            clusters,
            grown: AtomicBool::new(false),
            memory_bytes: AtomicU64::new(memory_bytes),
            exhausted: AtomicBool::new(false),
        }
    }

    /// Whether counters were left out for want of memory: then the sums mean nothing.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// Takes memory from what is left; false when it is not there.
    fn reserve(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        let taken = self.memory_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        if !taken {
            self.exhausted.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// What `slot` holds, made when it is asked for the first time; `None` when there is no memory for it.
    fn made<'a, T>(&self, slot: &'a OnceLock<T>, bytes: u64, make: impl FnOnce() -> T) -> Option<&'a T> {
        if slot.get().is_none() && !self.reserve(bytes) {
            return None;
        }
        // Two threads may both have reserved it: once too much in the books, at most once for each slot.
        Some(slot.get_or_init(make))
    }

    /// The counters that a cluster belongs to, made when it is the first of them that is counted.
    fn chunk_of(&self, cluster: u64) -> Option<&Chunk> {
        let words = CHUNK_CLUSTERS / WORD_CLUSTERS;
        self.made(&self.chunks[(cluster / CHUNK_CLUSTERS) as usize], words * 8, || Chunk {
            used: (0..words).map(|_| AtomicU64::new(0)).collect(),
            more: OnceLock::new(),
        })
    }

    /// Clusters that are counted: those of the file, and one more once that was referred to.
    pub(crate) fn clusters(&self) -> u64 {
        self.clusters + u64::from(self.grown.load(Ordering::Relaxed))
    }

    /// Clusters that the file has.
    pub(crate) fn file_clusters(&self) -> u64 {
        self.clusters
    }

    /// Adds `weight` references, at least one, to a cluster; false when the cluster lies beyond all counters. Once
    /// memory is short, new counters are not made: [`Self::is_exhausted`] tells.
    pub(crate) fn add(&self, cluster: u64, weight: u64) -> bool {
        if cluster >= self.clusters {
            if cluster > self.clusters {
                return false;
            }
            self.grown.store(true, Ordering::Relaxed);
        }
        self.add_each(cluster / WORD_CLUSTERS, 1 << (cluster % WORD_CLUSTERS), weight);
        true
    }

    /// Adds `weight` references, at least one, to each cluster of a word whose bit in `clusters` is set. All of them
    /// are clusters of the file, or the one behind them that [`Self::add`] counts.
    pub(crate) fn add_each(&self, word: u64, clusters: u64, weight: u64) {
        let first = word * WORD_CLUSTERS;
        let Some(chunk) = self.chunk_of(first) else { return };
        let used = &chunk.used[(first % CHUNK_CLUSTERS / WORD_CLUSTERS) as usize];
        // Bits are never cleared: one that is seen as set needs no write, which others would have to wait for.
        let seen = used.load(Ordering::Relaxed) & clusters;
        let before = if seen == clusters { seen } else { used.fetch_or(clusters, Ordering::Relaxed) };
        let mut further = if weight > 1 { clusters } else { clusters & before };
        while further != 0 {
            let bit = further.trailing_zeros();
            let is_first = before >> bit & 1 == 0;
            self.add_further(chunk, first + u64::from(bit), weight - u64::from(is_first));
            further &= further - 1;
        }
    }

    /// Adds references beyond the first one.
    fn add_further(&self, chunk: &Chunk, cluster: u64, references: u64) {
        let make = || (0..CHUNK_CLUSTERS).map(|_| AtomicU8::new(0)).collect();
        let Some(more) = self.made(&chunk.more, CHUNK_CLUSTERS, make) else { return };
        let low = references as u8;
        let before = more[(cluster % CHUNK_CLUSTERS) as usize].fetch_add(low, Ordering::Relaxed);
        // The byte went around for exactly one of the threads that add to it.
        let rounds = references / 256 + u64::from(before.checked_add(low).is_none());
        if rounds > 0 {
            let mut all = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            if all.contains_key(&cluster) || self.reserve(ROUND_BYTES) {
                *all.entry(cluster).or_default() += rounds;
            }
        }
    }

    /// References to a cluster, for the time when nobody adds.
    pub(crate) fn get(&self, cluster: u64) -> u64 {
        let word = cluster / WORD_CLUSTERS;
        let used = self.used(word) >> (cluster % WORD_CLUSTERS) & 1;
        let more = self
            .more(word)
            .map_or(0, |more| more[(cluster % WORD_CLUSTERS) as usize].load(Ordering::Relaxed));
        let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        used + u64::from(more) + 256 * rounds.get(&cluster).copied().unwrap_or(0)
    }

    /// The clusters of a word that are referred to, a bit for each.
    pub(crate) fn used(&self, word: u64) -> u64 {
        let chunk = self.chunk(word * WORD_CLUSTERS / CHUNK_CLUSTERS);
        let index = word % (CHUNK_CLUSTERS / WORD_CLUSTERS);
        chunk.map_or(0, |chunk| chunk.used[index as usize].load(Ordering::Relaxed))
    }

    /// The low bytes of the references beyond the first to the clusters of a word; `None` when there are none in its
    /// whole chunk.
    pub(crate) fn more(&self, word: u64) -> Option<&[AtomicU8]> {
        let more = self.chunk(word * WORD_CLUSTERS / CHUNK_CLUSTERS)?.more.get()?;
        let first = (word * WORD_CLUSTERS % CHUNK_CLUSTERS) as usize;
        Some(&more[first..first + WORD_CLUSTERS as usize])
    }

    fn chunk(&self, chunk: u64) -> Option<&Chunk> {
        self.chunks.get(chunk as usize).and_then(OnceLock::get)
    }

    /// Clusters with more than 256 references, and their references in full.
    pub(crate) fn large(&self) -> Vec<(u64, u64)> {
        let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rounds.into_keys().map(|cluster| (cluster, self.get(cluster))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn memory_is_bounded() {
        let chunk_bytes = CHUNK_CLUSTERS / 8;
        let references = References::with_memory(10 * CHUNK_CLUSTERS, 3 * chunk_bytes + CHUNK_CLUSTERS);
        for chunk in [3, 7, 3] {
            assert!(references.add(chunk * CHUNK_CLUSTERS, 1) && !references.is_exhausted());
        }
        assert_eq!(references.get(3 * CHUNK_CLUSTERS), 2);
        references.add(8 * CHUNK_CLUSTERS, 1);
        assert!(!references.is_exhausted());
        references.add(7 * CHUNK_CLUSTERS, 1);
        assert!(references.is_exhausted());
        assert_eq!(references.get(7 * CHUNK_CLUSTERS), 1);
        references.add(9 * CHUNK_CLUSTERS, 1);
        assert_eq!(references.get(9 * CHUNK_CLUSTERS), 0);
    }

    proptest! {
        /// What threads add, cluster by cluster and word by word, against a map.
        #[test]
        fn sums_are_those_of_a_map(
            lists in prop::collection::vec(
                prop::collection::vec((0..4u64, any::<u64>(), prop_oneof![9 => Just(1), 1 => 1..70_000u64]), 0..40),
                1..4,
            ),
        ) {
            let references = References::new(4 * WORD_CLUSTERS);
            std::thread::scope(|scope| {
                for list in &lists {
                    let references = &references;
                    scope.spawn(move || for (word, clusters, weight) in list {
                        if clusters.count_ones() % 2 == 0 {
                            references.add_each(*word, *clusters, *weight);
                        } else {
                            references.add(word * WORD_CLUSTERS + clusters % WORD_CLUSTERS, *weight);
                        }
                    });
                }
            });
            let mut sums = vec![0u64; 4 * WORD_CLUSTERS as usize];
            for (word, clusters, weight) in lists.iter().flatten() {
                let each = clusters.count_ones() % 2 == 0;
                let clusters = if each { *clusters } else { 1 << (clusters % WORD_CLUSTERS) };
                for bit in (0..WORD_CLUSTERS).filter(|bit| clusters >> bit & 1 == 1) {
                    sums[(word * WORD_CLUSTERS + bit) as usize] += weight;
                }
            }
            for (cluster, sum) in (0..).zip(&sums) {
                prop_assert_eq!(references.get(cluster), *sum);
            }
            let mut large = references.large();
            large.sort_unstable();
            let expected: Vec<(u64, u64)> = (0..).zip(sums).filter(|(_, sum)| *sum > 256).collect();
            prop_assert_eq!(large, expected);
        }
    }

    #[test]
    fn counts_beyond_a_byte() {
        let references = References::new(10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| assert!(references.add(3, 1))));
            }
        });
        assert!(references.add(3, 1000));
        assert_eq!(references.get(3), 5000);
        assert_eq!(references.large(), [(3, 5000)]);
        assert_eq!((references.get(4), references.clusters()), (0, 10));
        assert!(references.add(10, 1));
        assert_eq!((references.get(10), references.clusters()), (1, 11));
        assert!(!references.add(11, 1));
    }
}
