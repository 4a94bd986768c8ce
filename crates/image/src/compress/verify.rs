//! Reads the finished file back and compares it with what went in.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::feed::Feed;
use super::pipeline::Tables;
use super::proof::{Proof, is_zero};
use super::unit::UNIT_BYTES;
use crate::check::{CheckOptions, CheckOutcome, check};
use crate::control::Control;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::writer::CLUSTER_BYTES;
use crate::format::{self, Format};
use crate::progress::Meter;
use crate::reason;
use crate::storage::{FileStorage, Storage};

/// Counting references takes a byte for each cluster: past this size it would take more memory than all the rest, and
/// the byte-for-byte comparison of the tables has to do.
const COUNTED_BYTES_MAX: u64 = 1 << 40;

/// What the file must hold.
pub(crate) struct Expected<'a> {
    /// Proof of the guest's clusters.
    pub(crate) content: Proof,
    /// Every table, the header among them.
    pub(crate) tables: &'a Tables,
    pub(crate) file_bytes: u64,
    pub(crate) virtual_size_bytes: u64,
}

pub(crate) fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Verification, reason::OUTPUT_DIFFERS, message)
}

/// Opens `output` as any reader would and goes through all of it: every table byte for byte, every cluster inflated.
pub(crate) fn verify(
    output: &File,
    expected: &Expected<'_>,
    threads: usize,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(output.try_clone()?)?);
    if storage.size_bytes() != expected.file_bytes {
        return Err(failed(format!(
            "the output has {} bytes, not {}",
            storage.size_bytes(),
            expected.file_bytes
        )));
    }
    check_tables(&*storage, expected.tables, control)?;
    check_counts(&storage, threads, control)?;
    let image =
        format::open(storage, Some(Format::Qcow2)).map_err(|error| failed(format!("the output: {error}")))?;
    if image.disk.virtual_size_bytes() != expected.virtual_size_bytes {
        return Err(failed("the output's disk has another size"));
    }
    let content = read_content(&*image.disk, threads, meter, control)?;
    if content != expected.content {
        return Err(failed("the output reads back as something other than what went in"));
    }
    Ok(())
}

/// Every cluster is counted exactly as often as it is used.
fn check_counts(storage: &Arc<dyn Storage>, threads: usize, control: &Control) -> Result<()> {
    if storage.size_bytes() > COUNTED_BYTES_MAX {
        return Ok(());
    }
    // The check has its own idea of progress, which is not that of the whole operation.
    let quiet = Control::new(|_| {}, control.cancel_token().clone());
    let options = CheckOptions { md5: false, sha256: false, threads, format: Some(Format::Qcow2) };
    let report = check(Arc::clone(storage), &options, &quiet)?;
    match report.outcome {
        CheckOutcome::Consistent => Ok(()),
        outcome => Err(failed(format!("the output's reference counts are wrong: {outcome:?}"))),
    }
}

fn check_tables(storage: &dyn Storage, tables: &Tables, control: &Control) -> Result<()> {
    let mut proof = Proof::default();
    let mut cluster = vec![0; CLUSTER_BYTES as usize];
    for range in &tables.ranges {
        for place in range.clone().step_by(CLUSTER_BYTES as usize) {
            control.check_cancelled()?;
            if storage.read_at(&mut cluster, place)? != cluster.len() {
                return Err(failed("the output ends inside a table").at(place));
            }
            proof.add(place, &cluster);
        }
    }
    if proof == tables.proof {
        Ok(())
    } else {
        Err(failed("a table of the output does not read back as written"))
    }
}

/// Sums all clusters of a disk that was written here; what cannot be read of it fails the verification.
pub(crate) fn read_content(
    disk: &dyn Disk,
    threads: usize,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<Proof> {
    let feed = Mutex::new(Feed::new(disk));
    let result: Mutex<Result<Proof>> = Mutex::new(Ok(Proof::default()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mine = sum_units(disk, &feed, &result, meter, control);
                let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *result, mine) {
                    (Ok(sum), Ok(mine)) => sum.merge(mine),
                    (Ok(_), Err(error)) => *result = Err(error),
                    (Err(_), _) => {}
                }
            });
        }
    });
    result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Sums units until there are none left or another thread has failed.
fn sum_units(
    disk: &dyn Disk,
    feed: &Mutex<Feed<'_>>,
    result: &Mutex<Result<Proof>>,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<Proof> {
    let mut proof = Proof::default();
    let mut buffer = vec![0; UNIT_BYTES as usize];
    let unreadable = |error: Error| match error.kind {
        ErrorKind::Corrupt | ErrorKind::Invalid => failed(format!("the output cannot be read back: {error}")),
        _ => error,
    };
    loop {
        let unit = feed.lock().unwrap_or_else(PoisonError::into_inner).next().map_err(unreadable)?;
        let Some(unit) = unit else { return Ok(proof) };
        if result.lock().unwrap_or_else(PoisonError::into_inner).is_err() {
            return Ok(proof);
        }
        for cluster in (unit.range.start..unit.range.end).step_by(CLUSTER_BYTES as usize) {
            control.check_cancelled()?;
            let buffer = &mut buffer[..CLUSTER_BYTES as usize];
            disk.read_at(buffer, cluster).map_err(unreadable)?;
            if !is_zero(buffer) {
                proof.add(cluster / CLUSTER_BYTES, buffer);
            }
        }
        meter.add(crate::guest::ranges::total_bytes(&unit.stored));
    }
}
