//! `check`: are the tables of an image consistent, what are its digests, and is it safe?
//!
//! The figures of a qcow2 image are those of `qemu-img check`, figure for figure. Beyond them a report says which
//! bytes of the guest a corruption hits. The digests are taken beside the walk: the file is read once for them.

mod compare;
mod finding;
mod qcow2;
mod refcounts;
mod references;
mod table;
mod walk;

use std::sync::Arc;
use std::thread;

use serde::{Deserialize, Serialize};

use self::finding::Findings;
pub use self::finding::{ByteRange, FINDINGS_MAX, Finding, FindingKind};
use crate::control::{Control, Phase};
use crate::digest::{self, Digests};
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::Header;
use crate::format::{self, Format};
use crate::inspect::{InspectOptions, Inspection, Reason, Verdict, inspect};
use crate::progress::Meter;
use crate::reason;
use crate::storage::Storage;

/// More threads than this only wait for the same memory.
const THREADS_MAX: usize = 16;

/// What to check and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Take the MD5 of the file.
    pub md5: bool,
    /// Take the SHA-256 of the file.
    pub sha256: bool,
    /// Threads that walk tables; 0 takes one for each core. The digests have their own. The report does not depend on it.
    pub threads: usize,
    /// The format, when it was decided before; else the content decides.
    pub format: Option<Format>,
}

impl Default for CheckOptions {
    /// Both digests, a thread for each core, format by content.
    fn default() -> Self {
        Self { md5: true, sha256: true, threads: 0, format: None }
    }
}

impl CheckOptions {
    fn thread_count(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if self.threads == 0 { cores() } else { self.threads };
        threads.min(THREADS_MAX)
    }
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// Nothing is wrong.
    Consistent,
    /// Corruptions: data can be wrong, or become so.
    Corrupt,
    /// Leaks alone: space is lost, nothing else.
    Leaks,
    /// The format has no check, or none that the engine does.
    NotSupported,
    /// The image could not be opened, or its check could not be finished.
    Failed,
}

impl CheckOutcome {
    /// The exit status that `qemu-img check` has for it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Consistent => 0,
            Self::Failed => 1,
            Self::Corrupt => 2,
            Self::Leaks => 3,
            Self::NotSupported => 63,
        }
    }
}

/// The figures of `qemu-img check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckFigures {
    /// Errors of the check itself: what could not be looked at.
    pub check_errors: u64,
    /// Corruptions found.
    pub corruptions: u64,
    /// Clusters that are marked as used and are not.
    pub leaks: u64,
    /// Clusters of the guest's disk.
    pub total_clusters: u64,
    /// Guest clusters for which data are stored.
    pub allocated_clusters: u64,
    /// Allocated clusters that do not follow their predecessor in the file.
    pub fragmented_clusters: u64,
    /// Allocated clusters that are compressed.
    pub compressed_clusters: u64,
    /// Where the last used cluster of the file ends, in bytes.
    pub image_end_offset: u64,
}

impl CheckFigures {
    /// The members that `qemu-img check --output json` has for these figures, in its words: all that are not 0, and
    /// `check-errors` always. Its `filename` and `format` are the caller's to add.
    pub fn json_members(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("image-end-offset", self.image_end_offset),
            ("total-clusters", self.total_clusters),
            ("check-errors", self.check_errors),
            ("corruptions", self.corruptions),
            ("leaks", self.leaks),
            ("allocated-clusters", self.allocated_clusters),
            ("fragmented-clusters", self.fragmented_clusters),
            ("compressed-clusters", self.compressed_clusters),
        ];
        all.into_iter().filter(|(name, value)| *value != 0 || *name == "check-errors").collect()
    }

    fn outcome(&self) -> CheckOutcome {
        match (self.check_errors, self.corruptions, self.leaks) {
            (0, 0, 0) => CheckOutcome::Consistent,
            (0, 0, _) => CheckOutcome::Leaks,
            (0, _, _) => CheckOutcome::Corrupt,
            _ => CheckOutcome::Failed,
        }
    }
}

/// Everything that a check tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// The format that was checked.
    pub format: Format,
    /// Length of the file.
    pub file_size_bytes: u64,
    /// Bytes that the file occupies on its medium.
    pub allocated_bytes: u64,
    /// Size of the disk that the guest sees, when it could be read.
    pub virtual_size_bytes: Option<u64>,
    /// How the check came out.
    pub outcome: CheckOutcome,
    /// The figures, when the check came to its end.
    pub figures: Option<CheckFigures>,
    /// Why the image could not be opened or the check not be finished.
    pub failure: Option<Reason>,
    /// What was found, the first [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// How many findings there were. Neighbouring clusters with the same trouble are one finding.
    pub findings_total: u64,
    /// Digests of the file.
    pub digests: Digests,
    /// Whether the image is safe; `corrupt`, too, when the figures say so.
    pub inspection: Inspection,
}

/// Checks an image: structure, digests and safety.
///
/// No file but `storage` is read: the figures are those of the file itself, whatever other files it names.
///
/// # Errors
///
/// Only when the file cannot be read, changes meanwhile, or the caller cancels. A broken image is a report.
pub fn check(storage: Arc<dyn Storage>, options: &CheckOptions, control: &Control) -> Result<CheckReport> {
    let before = storage.fingerprint()?;
    let format = match options.format {
        Some(format) => format,
        None => format::detect(&*storage)?,
    };
    let selection = digest::Selection { md5: options.md5, sha256: options.sha256, ..Default::default() };
    let (digests, report) = thread::scope(|scope| {
        let digests = (!selection.is_empty())
            .then(|| scope.spawn(|| digest::digest_storage(&*storage, selection, control)));
        let report = check_structure(&storage, format, options, control);
        let failed = |_| Err(Error::new(ErrorKind::Io, reason::IO, "the digest thread failed"));
        let digests =
            digests.map_or_else(|| Ok(Digests::default()), |thread| thread.join().unwrap_or_else(failed));
        (digests, report)
    });
    let mut report = report?;
    report.digests = digests?;
    if storage.fingerprint()? != before {
        let message = "the file changed while it was checked";
        return Err(Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message));
    }
    Ok(report)
}

/// The part of a check that needs no digest.
fn check_structure(
    storage: &Arc<dyn Storage>,
    format: Format,
    options: &CheckOptions,
    control: &Control,
) -> Result<CheckReport> {
    let inspection = inspect(
        storage,
        &InspectOptions { declared_format: options.format, layout: false, ..Default::default() },
    )?;
    let mut report = CheckReport {
        format,
        file_size_bytes: storage.size_bytes(),
        allocated_bytes: storage.allocated_bytes(),
        virtual_size_bytes: inspection.virtual_size_bytes,
        outcome: CheckOutcome::NotSupported,
        figures: None,
        failure: None,
        findings: Vec::new(),
        findings_total: 0,
        digests: Digests::default(),
        inspection,
    };
    if format == Format::Qcow2 {
        check_qcow2(storage, options, control, &mut report)?;
    } else if !options.md5 && !options.sha256 {
        Meter::new(control, Phase::Checking, report.file_size_bytes, 0.0, 1.0).finish();
    }
    if report.figures.as_ref().is_some_and(|figures| figures.corruptions > 0) {
        report
            .inspection
            .add(Verdict::Corrupt, Reason::new(reason::CORRUPT_TABLES, "the check found corruptions"));
    }
    Ok(report)
}

fn check_qcow2(
    storage: &Arc<dyn Storage>,
    options: &CheckOptions,
    control: &Control,
    report: &mut CheckReport,
) -> Result<()> {
    let findings = Findings::default();
    let checked = Header::parse(&**storage).and_then(|header| {
        report.virtual_size_bytes = Some(header.virtual_size_bytes());
        let reports = !options.md5 && !options.sha256;
        let manner = qcow2::Manner { threads: options.thread_count(), control, reports };
        qcow2::check(storage, &header, manner, &findings).map(|sums| (header, sums))
    });
    (report.findings, report.findings_total) = findings.into_list();
    match checked {
        Ok((header, sums)) => {
            let figures = CheckFigures {
                check_errors: sums.check_errors,
                corruptions: sums.corruptions,
                leaks: sums.leaks,
                total_clusters: header.virtual_size_bytes().div_ceil(header.cluster_bytes()),
                allocated_clusters: sums.allocated_clusters,
                fragmented_clusters: sums.fragmented_clusters,
                compressed_clusters: sums.compressed_clusters,
                image_end_offset: sums.image_end_offset,
            };
            report.outcome = figures.outcome();
            report.figures = Some(figures);
            let too_low = |finding: &Finding| finding.kind == FindingKind::RefcountTooLow;
            if report.findings.iter().any(too_low)
                && let Ok(disk) = format::Qcow2::open(Arc::clone(storage))
            {
                qcow2::locate(&disk, &mut report.findings, control)?;
            }
            Ok(())
        }
        Err(error) if error.is_of_the_image() => {
            report.outcome = CheckOutcome::Failed;
            report.failure = Some(Reason::from(&error));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;
    use crate::control::CancelToken;
    use crate::storage::FileStorage;

    /// The fractions that a check without digests reports.
    fn told(storage: Arc<dyn Storage>) -> Vec<f64> {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        let control = Control::new(
            move |progress| list.lock().unwrap().push(progress.fraction),
            CancelToken::default(),
        );
        let options = CheckOptions { md5: false, sha256: false, ..Default::default() };
        check(storage, &options, &control).unwrap();
        told.lock().unwrap().clone()
    }

    #[test]
    fn the_walk_tells_how_far_it_is() {
        // Disks of no content but of many L2 tables: half of a cluster each 512 MiB.
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(40 << 29).unwrap();
        for table in 0..40_u64 {
            std::os::unix::fs::FileExt::write_all_at(&disk, &[7; 32 << 10], table << 29).unwrap();
        }
        let output = tempfile::tempfile().unwrap();
        let disk = Arc::new(FileStorage::new(disk).unwrap());
        let options = crate::compress::CompressOptions::default();
        crate::compress::compress(disk, Some(Format::Raw), &output, &options, &Control::default()).unwrap();
        let told_of = told(Arc::new(FileStorage::new(output).unwrap()));
        assert!(told_of.len() > 3 && told_of.is_sorted(), "{told_of:?}");
        assert_eq!((told_of.first(), told_of.last()), (Some(&0.0), Some(&1.0)));
        assert_eq!(told(Arc::new(vec![1; 1000])), [0.0, 1.0]);
    }
}
