//! qcow2 files, and files of which the format is not known.

use std::sync::Arc;

use imageops_image::Control;
use imageops_image::check::{CheckOptions, CheckOutcome, check};
use imageops_image::format::{self, Format};
use imageops_image::inspect::{self, InspectOptions, PREFIX_BYTES, PrefixVerdict, Verdict};
use imageops_image::storage::Storage;

use super::{Limits, open, within};

const LIMITS: Limits = Limits { memory_bytes: 160 << 20, reads: 1 << 20, bytes_read: 2 << 30 };
const EXTENTS_MAX: usize = 4096;
const READ_BYTES_MAX: u64 = 8 << 20;
const PIECE_BYTES: u64 = 64 << 10;

/// Opens a qcow2 file and reads what it stores.
pub fn qcow2_read(input: &[u8]) {
    let image = open(input);
    let storage = Arc::clone(&image) as Arc<dyn Storage>;
    within(&LIMITS, &image, || {
        let Ok(opened) = format::open(storage, Some(Format::Qcow2)) else { return };
        let disk = &*opened.disk;
        let (mut place, mut budget) = (0, READ_BYTES_MAX);
        for _ in 0..EXTENTS_MAX {
            let Ok(Some(extent)) = disk.extent_at(place) else { break };
            assert_eq!(extent.range.start, place);
            assert!(place < extent.range.end && extent.range.end <= disk.virtual_size_bytes());
            let length = (extent.range.end - place).min(PIECE_BYTES);
            let mut buffer = vec![1; length as usize];
            let read = disk.read_at(&mut buffer, place);
            if !extent.kind.is_stored() {
                assert!(read.is_ok() && buffer.iter().all(|byte| *byte == 0), "a hole reads as zeros");
            }
            budget = budget.saturating_sub(length);
            if budget == 0 {
                break;
            }
            place = extent.range.end;
        }
    });
}

/// Checks a qcow2 file; the report does not depend on the number of threads.
pub fn qcow2_check(input: &[u8]) {
    let image = open(input);
    let run = |threads| {
        let storage = Arc::clone(&image) as Arc<dyn Storage>;
        let options = CheckOptions { md5: false, sha256: false, threads, format: Some(Format::Qcow2) };
        check(storage, &options, &Control::default()).expect("an image in memory can be read")
    };
    let report = within(&LIMITS, &image, || run(1));
    assert_eq!(format!("{report:?}"), format!("{:?}", run(2)));
    if report.outcome == CheckOutcome::Consistent {
        let storage = Arc::clone(&image) as Arc<dyn Storage>;
        assert!(format::open(storage, Some(Format::Qcow2)).is_ok(), "what is consistent can be opened");
    }
}

/// Inspects a file, and its first part as if it were all that is there yet.
pub fn inspect(input: &[u8]) {
    let image = open(input);
    let storage = Arc::clone(&image) as Arc<dyn Storage>;
    let inspection = within(&LIMITS, &image, || inspect::inspect(&storage, &InspectOptions::default()));
    let inspection = inspection.expect("whatever is wrong with an image is a verdict");
    assert_eq!(inspection.verdict == Verdict::Valid, inspection.reasons.is_empty());
    let prefix = image.take(0, image.size_bytes.min(PREFIX_BYTES as u64) as usize);
    for known_size in [None, Some(image.size_bytes)] {
        let verdict = inspect::inspect_prefix(&prefix, known_size, None);
        let is_refused = verdict != PrefixVerdict::Undecided;
        assert!(!is_refused || inspection.verdict != Verdict::Valid, "{verdict:?}, and then it is taken");
    }
}
