//! Killed, without power, on a failing medium, cancelled: the image is valid and complete.

use std::sync::Arc;

use imageops_image::check::{CheckOptions, CheckOutcome, check};
use imageops_image::format::Format;
use imageops_image::in_place::{Medium, punch};
use imageops_image::storage::Storage;
use imageops_image::{CancelToken, Control, ErrorKind, Phase, Progress};

use crate::disk::{Expected, TOOLS, junk_disk, punch_all, variants};
use crate::medium::{Operation, Recorder, applied};
use crate::peers::images;
use crate::proofs::Numbers;

/// Killed before any of its operations, in the order in which they were asked for.
#[test]
fn killed_at_any_write_the_image_is_valid_and_complete() {
    let test = "killed_at_any_write_the_image_is_valid_and_complete";
    if images(test, &TOOLS).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = junk_disk(scratch.path(), 1024);
    let mut states = 0;
    for (name, original, format) in variants(&disk, scratch.path()) {
        let expected = Expected::of(&original, format);
        let (report, log) = punch_all(&original, format);
        assert!(report.dropped_bytes > 4 << 20, "{name}: {report:?}");
        let mut state = original;
        let (mut since, mut asked) = (0, 0);
        for (number, operation) in log.iter().enumerate() {
            operation.apply(&mut state);
            // Holes come in hundreds and are all alike: every write, and a share of the holes.
            since += 1;
            if matches!(operation, Operation::Punch(_)) && since < log.len() / 80 && number + 1 < log.len() {
                continue;
            }
            since = 0;
            states += 1;
            let what = format!("{name}, after {} of {} operations", number + 1, log.len());
            expected.assert_holds(&state, &what);
            asked += 1;
            if asked % 8 == 0 || number + 1 == log.len() {
                expected.assert_peer_agrees(&state, scratch.path(), &what);
            }
        }
        if format == Format::Qcow2 {
            let storage: Arc<dyn Storage> = Arc::new(state);
            let report = check(storage, &CheckOptions::default(), &Control::default()).unwrap();
            assert_eq!(report.outcome, CheckOutcome::Consistent, "{name}: {:?}", report.findings);
        }
    }
    assert!(states > 200, "{states} states are too few");
}

/// The tests of crashes have an image that takes more than one batch.
fn has_batches(log: &[Operation]) -> bool {
    let flushes = log.iter().filter(|operation| matches!(operation, Operation::Flush)).count();
    flushes > 2
}

/// The power fails: what was not flushed may be on the medium or not, in any order, cut between sectors.
#[test]
fn when_the_power_fails_the_image_is_valid_and_complete() {
    let test = "when_the_power_fails_the_image_is_valid_and_complete";
    if images(test, &TOOLS).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = junk_disk(scratch.path(), 4096);
    let mut numbers = Numbers(3);
    let mut batches = false;
    for (name, original, format) in variants(&disk, scratch.path()) {
        let expected = Expected::of(&original, format);
        let (_, log) = punch_all(&original, format);
        batches |= has_batches(&log);
        let mut durable = original;
        for (epoch, operations) in log.split_inclusive(|one| matches!(one, Operation::Flush)).enumerate() {
            for round in 0..8 {
                let state = applied(&durable, operations, &mut numbers);
                let what = format!("{name}, power fails in round {round} of epoch {epoch}");
                expected.assert_holds(&state, &what);
                if round == 0 {
                    expected.assert_peer_agrees(&state, scratch.path(), &what);
                }
            }
            for operation in operations {
                operation.apply(&mut durable);
            }
        }
    }
    assert!(batches, "no image takes more than one batch");
}

/// The same by a medium that fails: the failure is told, and nothing is tried behind it.
#[test]
fn a_medium_that_fails_ends_it() {
    let test = "a_medium_that_fails_ends_it";
    if images(test, &TOOLS).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = junk_disk(scratch.path(), 4096);
    let chosen = ["raw", "v3", "zlib, 4k"];
    for (name, original, format) in variants(&disk, scratch.path()) {
        if !chosen.contains(&name.as_str()) {
            continue;
        }
        let expected = Expected::of(&original, format);
        let count = punch_all(&original, format).1.len();
        for stop in (0..count).step_by(count / 12 + 1) {
            let medium = Arc::new(Recorder::new(original.clone(), stop));
            let ended = punch(Arc::clone(&medium) as Arc<dyn Medium>, Some(format), &Control::default());
            assert_eq!(ended.unwrap_err().kind, ErrorKind::Io, "{name}, {stop}");
            assert_eq!(medium.log().len(), stop, "{name}");
            expected.assert_holds(&medium.bytes(), &format!("{name}, fails after {stop}"));
        }
    }
}

/// Everything is released in one batch in a small image; a caller who cancels must not leave half of one.
#[test]
fn cancelled_at_any_time_the_image_is_valid() {
    let test = "cancelled_at_any_time_the_image_is_valid";
    if images(test, &TOOLS).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = junk_disk(scratch.path(), 4096);
    for (name, original, format) in variants(&disk, scratch.path()) {
        let expected = Expected::of(&original, format);
        let cancel = CancelToken::default();
        let token = cancel.clone();
        let stop = move |progress: Progress| {
            if progress.phase == Phase::Punching {
                token.cancel();
            }
        };
        let medium = Arc::new(Recorder::new(original.clone(), usize::MAX));
        let ended = punch(Arc::clone(&medium) as Arc<dyn Medium>, Some(format), &Control::new(stop, cancel));
        assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled, "{name}");
        expected.assert_holds(&medium.bytes(), &name);
    }
}
