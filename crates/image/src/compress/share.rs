//! Clusters that are in the output already.

use aws_lc_rs::digest::{SHA256, digest};

use crate::format::qcow2::writer::Place;

/// Clusters that are remembered: 8 GiB of a guest, in 9 MiB of memory.
const SLOTS: usize = 1 << 17;

/// SHA-256 of a cluster's bytes as they are stored. A guest may choose its content so that weaker hashes meet.
pub(crate) type Digest = [u8; 32];

/// The digest of a cluster's bytes as they are stored. Streams and clusters that are stored as they are have different
/// lengths, so that neither is taken for the other.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Where clusters with a digest lie.
///
/// Each digest has one slot, and the newest cluster has it: what is found depends on the order of the clusters alone,
/// and so do the bytes of the output.
pub(crate) struct Index {
    slots: Vec<Option<(Digest, Place)>>,
}

impl Index {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { slots: vec![None; SLOTS] }
    }

    /// The place of a cluster with this digest.
    pub(crate) fn find(&mut self, digest: &Digest) -> Option<&mut Place> {
        match &mut self.slots[slot_of(digest)] {
            Some((known, place)) if known == digest => Some(place),
            _ => None,
        }
    }

    /// Remembers a place, and forgets the one that had its slot.
    pub(crate) fn insert(&mut self, digest: Digest, place: Place) {
        self.slots[slot_of(&digest)] = Some((digest, place));
    }
}

fn slot_of(digest: &Digest) -> usize {
    usize::from(digest[0]) << 16 & (SLOTS - 1) | usize::from(digest[1]) << 8 | usize::from(digest[2])
}
