//! What keeps the whole disk, wherever on it it lies.

use super::{Kept, Part, VolumeSummary};
use crate::reason;

/// Each reason, and the sentence for all that would have been dropped.
///
/// A hibernated system goes on where it was, with what it has in its memory: the file systems that it had mounted, some
/// of which bear no mark of that on the disk (Btrfs), and swap space beside the one that it lies in. A hash tree of
/// dm-verity vouches for every block of another partition, and does not say which: a free block that is zeroed cannot
/// be read any more, and by default of some guests reading it restarts them.
const REASONS: [(&str, &str); 2] = [
    (reason::KEPT_HIBERNATED, "a hibernated system lies on the same disk, and may have this in use"),
    (
        reason::KEPT_VERIFIED,
        "a hash tree on the same disk may vouch for every block of this, the free ones too",
    ),
];

/// Whether this reason is one.
pub(super) fn is_kept_by(code: &str) -> bool {
    REASONS.iter().any(|(reason, _)| *reason == code)
}

/// Keeps all of `parts` where one of them says so; the sentence that says why.
pub(super) fn keep(parts: &mut [Part]) -> Option<&'static str> {
    let mut why = None;
    for (code, message) in REASONS {
        let says = |kept: &[Kept]| kept.iter().any(|kept| kept.reason == code);
        let found = |part: &Part| {
            let summary = &part.summary;
            says(&summary.kept) || summary.volumes.iter().any(|volume| says(&volume.kept))
        };
        if parts.iter().any(found) {
            keep_all(parts, &Kept::whole(code, message));
            why = why.or(Some(message));
        }
    }
    why
}

fn keep_all(parts: &mut [Part], why: &Kept) {
    for part in parts.iter_mut().filter(|part| part.free.is_some()) {
        part.free = None;
        part.summary.free_bytes = 0;
        part.summary.kept = vec![why.clone()];
        part.summary.extra = None;
        let read = |volume: &&mut VolumeSummary| !volume.kept.iter().any(|kept| kept.groups == 0);
        for volume in part.summary.volumes.iter_mut().filter(read) {
            volume.free_bytes = 0;
            volume.kept = vec![why.clone()];
            volume.extra = None;
        }
    }
}
