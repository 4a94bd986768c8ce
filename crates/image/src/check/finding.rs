//! What a check found, in words, with the guest's bytes that it hits.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Most findings that a report lists; all of them are counted.
pub const FINDINGS_MAX: usize = 100;
/// Most guest ranges that one finding lists.
pub(crate) const GUEST_RANGES_MAX: usize = 8;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// Bits that must be zero are set.
    ReservedBits,
    /// An offset is not a multiple of the cluster size.
    Misaligned,
    /// A table or cluster lies past the end of the file.
    PastEnd,
    /// More references than the width of refcounts can hold.
    RefcountOverflow,
    /// A cluster is used more often than its refcount says: a write can destroy another's data.
    RefcountTooLow,
    /// A cluster is used less often than its refcount says: space is lost, nothing else.
    Leak,
    /// The mark "used exactly once" contradicts the refcount.
    CopiedMark,
    /// A compressed cluster where none may be, or with a mark it must not have.
    CompressedEntry,
    /// Marks of subclusters contradict each other.
    Subclusters,
    /// A refcount block is used by something else, too.
    RefcountBlockShared,
    /// Refcounts cannot be read.
    RefcountUnreadable,
    /// A snapshot is malformed.
    Snapshot,
    /// The bitmaps are malformed.
    Bitmaps,
}

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start_bytes: u64,
    /// Number of bytes.
    pub length_bytes: u64,
}

/// Something that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Sentence for people.
    pub message: String,
    /// Where in the image file.
    pub host: Option<ByteRange>,
    /// Ranges of the guest's disk that it hits, the first ones. Empty when it hits metadata or snapshots alone.
    pub guest: Vec<ByteRange>,
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), host: None, guest: Vec::new() }
    }

    #[must_use]
    pub(crate) fn host(mut self, start_bytes: u64, length_bytes: u64) -> Self {
        self.host = Some(ByteRange { start_bytes, length_bytes });
        self
    }

    #[must_use]
    pub(crate) fn guest(mut self, range: Option<ByteRange>) -> Self {
        self.guest.extend(range);
        self
    }
}

/// The step of a check that found something, and the place there: findings are listed in this order whatever the
/// number of threads.
pub(crate) type Place = (u8, u64, u64);

/// Keeps the first [`FINDINGS_MAX`] findings and counts all.
#[derive(Default)]
pub(crate) struct Findings(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    first: BTreeMap<(Place, u64), Finding>,
    total: u64,
}

impl Findings {
    /// Adds a finding; it is only put together when it will be listed.
    pub(crate) fn add(&self, place: Place, make: impl FnOnce() -> Finding) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.total += 1;
        let key = (place, kept.total);
        if kept.first.len() >= FINDINGS_MAX {
            if kept.first.last_key_value().is_some_and(|(last, _)| *last <= key) {
                return;
            }
            kept.first.pop_last();
        }
        kept.first.insert(key, make());
    }

    /// The findings in order, and how many there were in all.
    pub(crate) fn into_list(self) -> (Vec<Finding>, u64) {
        let kept = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        (kept.first.into_values().collect(), kept.total)
    }
}
