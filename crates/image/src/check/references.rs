//! How often each host cluster is referred to, counted by many threads at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Clusters of a chunk; a chunk is allocated when the first of them is counted.
pub(crate) const CHUNK_CLUSTERS: u64 = 1 << 16;

/// Most memory for counters: enough for 64 TiB of clusters of 64 KiB. A file that is nearly all hole needs next to
/// nothing on its medium to have far more clusters than that, if only they are small.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// What an entry of the map of rounds takes, at most.
const ROUND_BYTES: u64 = 40;

/// One byte for each cluster. Few clusters are referred to more than 255 times (those that hold many compressed
/// streams): how often their byte went around is kept aside.
///
/// Everything is a sum, so the order in which threads add does not matter, and neither does memory order: threads are
/// joined before sums are read as a whole.
pub(crate) struct References {
    chunks: Vec<OnceLock<Box<[AtomicU8]>>>,
    rounds: Mutex<HashMap<u64, u64>>,
    clusters: u64,
    grown: AtomicBool,
    /// Left of the memory for counters.
    memory_bytes: AtomicU64,
    exhausted: AtomicBool,
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

    /// The counters that a cluster belongs to, made when it is the first of them that is counted.
    fn chunk_of(&self, cluster: u64) -> Option<&[AtomicU8]> {
        let slot = &self.chunks[(cluster / CHUNK_CLUSTERS) as usize];
        if slot.get().is_none() && !self.reserve(CHUNK_CLUSTERS) {
            return None;
        }
        // Two threads may both have reserved it: a chunk too much in the books, at most once for each chunk.
        Some(slot.get_or_init(|| (0..CHUNK_CLUSTERS).map(|_| AtomicU8::new(0)).collect()))
    }

    /// Clusters that are counted: those of the file, and one more once that was referred to.
    pub(crate) fn clusters(&self) -> u64 {
        self.clusters + u64::from(self.grown.load(Ordering::Relaxed))
    }

    /// Clusters that the file has.
    pub(crate) fn file_clusters(&self) -> u64 {
        self.clusters
    }

    /// Adds `weight` references to a cluster; false when the cluster lies beyond all counters. Once memory is short,
    /// new counters are not made: [`Self::is_exhausted`] tells.
    pub(crate) fn add(&self, cluster: u64, weight: u64) -> bool {
        if cluster >= self.clusters {
            if cluster > self.clusters {
                return false;
            }
            self.grown.store(true, Ordering::Relaxed);
        }
        let Some(chunk) = self.chunk_of(cluster) else { return true };
        let low = weight as u8;
        let before = chunk[(cluster % CHUNK_CLUSTERS) as usize].fetch_add(low, Ordering::Relaxed);
        // The byte went around for exactly one of the threads that add to it.
        let rounds = weight / 256 + u64::from(before.checked_add(low).is_none());
        if rounds > 0 {
            let mut all = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            if all.contains_key(&cluster) || self.reserve(ROUND_BYTES) {
                *all.entry(cluster).or_default() += rounds;
            }
        }
        true
    }

    /// References to a cluster, for the time when nobody adds.
    pub(crate) fn get(&self, cluster: u64) -> u64 {
        let Some(chunk) = self.chunks.get((cluster / CHUNK_CLUSTERS) as usize).and_then(OnceLock::get) else {
            return 0;
        };
        let low = chunk[(cluster % CHUNK_CLUSTERS) as usize].load(Ordering::Relaxed);
        let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        u64::from(low) + 256 * rounds.get(&cluster).copied().unwrap_or(0)
    }

    /// The low bytes of the counters of a chunk, `None` while all are zero.
    pub(crate) fn chunk(&self, chunk: u64) -> Option<&[AtomicU8]> {
        self.chunks.get(chunk as usize).and_then(OnceLock::get).map(|counters| &**counters)
    }

    /// Clusters with more than 255 references, and their references in full.
    pub(crate) fn large(&self) -> Vec<(u64, u64)> {
        let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rounds.into_keys().map(|cluster| (cluster, self.get(cluster))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let references = References::with_memory(10 * CHUNK_CLUSTERS, 2 * CHUNK_CLUSTERS);
        for chunk in [3, 7, 3] {
            assert!(references.add(chunk * CHUNK_CLUSTERS, 1) && !references.is_exhausted());
        }
        references.add(9 * CHUNK_CLUSTERS, 1);
        assert!(references.is_exhausted());
        assert_eq!(references.get(9 * CHUNK_CLUSTERS), 0);
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
