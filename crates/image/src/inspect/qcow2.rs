//! The inspection of a qcow2 image.

use std::sync::Arc;

use crate::error::Result;
use crate::format::qcow2::{Autoclear, COMPATIBLE_LAZY_REFCOUNTS, Header, Incompatible, read_snapshots};
use crate::inspect::report::{Inspection, Qcow2Summary, Reason, SnapshotSummary, Verdict};
use crate::inspect::tables;
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Most snapshots that a summary lists.
const SNAPSHOTS_LISTED: usize = 256;
/// Longest id or name of a snapshot that a summary shows, in characters.
const TEXT_CHARACTERS_MAX: usize = 256;
/// Bytes that hold every mark which makes an image unsafe by itself.
pub(crate) const MARKS_BYTES: usize = 104;

/// Inspects an image whose magic is that of qcow2.
pub(crate) fn inspect(storage: &Arc<dyn Storage>, inspection: &mut Inspection) -> Result<()> {
    let mut marks = [0u8; MARKS_BYTES];
    read_zero_filled(&**storage, &mut marks, 0)?;
    judge_marks(&marks, inspection);
    let Some(header) = or_verdict(Header::parse(&**storage), inspection)? else { return Ok(()) };
    inspection.virtual_size_bytes = Some(header.virtual_size_bytes());
    judge_header(&header, inspection);
    let mut summary = summarize(&header);
    let snapshots = read_snapshots(&**storage, &header, |snapshot| {
        if summary.snapshots.len() < SNAPSHOTS_LISTED {
            summary.snapshots.push(SnapshotSummary {
                id: shorten(&snapshot.id),
                name: shorten(&snapshot.name),
                taken_seconds: snapshot.taken_seconds,
                vm_state_size_bytes: snapshot.vm_state_size_bytes,
                disk_size_bytes: snapshot.disk_size_bytes,
            });
        }
        Ok(())
    });
    inspection.qcow2 = Some(summary);
    if or_verdict(snapshots, inspection)?.is_some() {
        let looked = tables::look(storage, &header, inspection);
        or_verdict(looked, inspection)?;
    }
    Ok(())
}

/// Turns an error of the image into a verdict; one of reading it stays an error.
fn or_verdict<T>(result: Result<T>, inspection: &mut Inspection) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_of_the_image() => {
            inspection.add_error(&error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The marks that make an image unsafe whatever else its header holds, looked at before anything is interpreted. Each
/// alone is enough: readers differ in which of them they go by.
pub(crate) fn judge_marks(bytes: &[u8; MARKS_BYTES], inspection: &mut Inspection) {
    let nonzero = |from: usize, to: usize| bytes[from..to].iter().any(|byte| *byte != 0);
    if nonzero(8, 20) {
        let message = "the image names a backing file";
        let at = if nonzero(8, 16) { 8 } else { 16 };
        inspection.add(Verdict::Unsafe, Reason::new(reason::UNSAFE_BACKING_FILE, message).at_field(at));
    }
    // A version 2 header ends at byte 72, and an extension may start there. When none does, nothing but zeros has any
    // business there, and a reader that takes the file for version 3 would obey the bits.
    let has_extension = bytes[7] == 2 && nonzero(72, 76);
    if has_extension {
        return;
    }
    let message = "the image keeps its data in another file";
    if bytes[79] & Incompatible::DATA_FILE as u8 != 0 {
        inspection.add(Verdict::Unsafe, Reason::new(reason::UNSAFE_DATA_FILE, message).at_field(72));
    }
    if bytes[95] & Autoclear::RAW_EXTERNAL as u8 != 0 {
        inspection.add(Verdict::Unsafe, Reason::new(reason::UNSAFE_DATA_FILE, message).at_field(88));
    }
}

/// What a header that holds may still not say.
pub(crate) fn judge_header(header: &Header, inspection: &mut Inspection) {
    if let Some(at) = header.extensions.data_file_at {
        let message = "the image names an external data file";
        inspection.add(Verdict::Unsafe, Reason::new(reason::UNSAFE_DATA_FILE, message).at(at));
    }
    if header.encryption.is_some() {
        let message = "the image is encrypted";
        inspection
            .add(Verdict::Unsupported, Reason::new(reason::UNSUPPORTED_ENCRYPTION, message).at_field(32));
    }
    if header.refcount_table_clusters == 0 {
        let message = "the image has no refcount table";
        inspection.add(Verdict::Invalid, Reason::new(reason::INVALID_REFCOUNT_TABLE, message).at_field(56));
    }
    if header.incompatible.has(Incompatible::DIRTY) {
        let message = "the image was not closed, so its refcounts may be wrong";
        inspection.add(Verdict::Corrupt, Reason::new(reason::CORRUPT_DIRTY, message).at_field(72));
    }
    if header.incompatible.has(Incompatible::CORRUPT) {
        let message = "the image is marked as damaged";
        inspection.add(Verdict::Corrupt, Reason::new(reason::CORRUPT_MARKED, message).at_field(72));
    }
}

fn summarize(header: &Header) -> Qcow2Summary {
    Qcow2Summary {
        version: header.version,
        cluster_size_bytes: header.cluster_bytes(),
        refcount_bits: 1 << header.refcount_order,
        compression: header.compression,
        extended_l2: header.has_subclusters(),
        lazy_refcounts: header.compatible & COMPATIBLE_LAZY_REFCOUNTS != 0,
        dirty: header.incompatible.has(Incompatible::DIRTY),
        corrupt: header.incompatible.has(Incompatible::CORRUPT),
        encryption: header.encryption,
        snapshot_count: header.snapshot_count,
        snapshots: Vec::new(),
        bitmap_count: header.extensions.bitmaps.map_or(0, |(count, _)| count),
        unknown_compatible_features: header.compatible & !COMPATIBLE_LAZY_REFCOUNTS,
        unknown_autoclear_features: header.autoclear.0 & !Autoclear::KNOWN,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS_MAX).collect()
}
