//! In place: what the guest has freed is given back without writing the image anew.
//!
//! [`punch_file`] takes an open raw or qcow2 image. In a raw one, free space becomes holes. In a qcow2 one, clusters that
//! are free as a whole leave the tables, and their room in the file becomes holes; so does free space inside plain
//! clusters that stay. Nothing that the guest uses is written, moved or read back.
//!
//! **Killed anywhere, the image is valid and complete.** For a raw image every order of its holes will do. For qcow2 the
//! order is, for each batch of clusters (`batch`):
//!
//! 1. the entries leave their L2 tables; each lies in one sector, so a write that is cut off leaves whole entries;
//! 2. flush: from here on no table on the medium names the clusters of the batch;
//! 3. their reference counts are lowered, and those that are used by nothing become holes.
//!
//! A crash in 1 or 2 leaves clusters that are counted and not used, a crash in 3 the same for some of them: leaks, which
//! cost room and nothing else, and which `qemu-img check -r leaks` gives back. Between counts and holes no flush is
//! needed: nothing names those clusters any more, and a hole in a cluster that still is counted is a leak, too. The
//! counts of a batch may reach the medium after the entries of the next one, since these are about other clusters. At
//! the end everything is flushed before the lock is let go.
//!
//! Where what this relies on does not hold, the image is refused or left alone: the image is checked before (each count
//! is the number of references), nobody else has it open with a lock, and only clusters with exactly one user are
//! released. A cluster with the mark of that (bit 63) is named by one entry of one L2 table; L2 tables and plain clusters
//! without it are left alone, and in an image that has such ones compressed clusters, too: lowering a count to one would
//! have to set the mark of whoever is left.

mod batch;
mod counts;
mod lock;
mod medium;
mod plan;
mod qcow2;
mod raw;

use std::fs::File;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::medium::{FileMedium, Medium};
use self::plan::Plan;
use crate::check::{CheckOptions, CheckOutcome, check};
use crate::compress::{GapsReport, PartReport};
use crate::control::{Control, Phase};
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::{Autoclear, Incompatible};
use crate::format::{self, Format, Image, Qcow2};
use crate::guest::{self, ExtraGains, Kept, TableKind};
use crate::progress::Meter;
use crate::reason;
use crate::storage::Storage;

/// Where the phases end in the whole operation.
const PLANNED: f64 = 0.2;
const PUNCHED: f64 = 0.95;

/// What was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InPlaceReport {
    /// The format that the image was read as.
    pub source_format: Format,
    /// Size of the disk that the guest sees.
    pub virtual_size_bytes: u64,
    /// Bytes that the file occupied on its medium before, and after.
    pub before_bytes: u64,
    /// See `before_bytes`.
    pub after_bytes: u64,
    /// Guest bytes that were stored and free, and are not stored any more.
    pub dropped_bytes: u64,
    /// Of these, the extra gains that were asked for.
    #[serde(default)]
    pub extra_dropped_bytes: u64,
    /// Guest bytes that are stored and free still, since they share a compressed cluster or a block of the file with
    /// something used, or their cluster with another one.
    pub left_bytes: u64,
    /// The partition table, when there is one.
    pub table: Option<TableKind>,
    /// Why the disk as a whole was left alone, when it was.
    pub kept: Vec<Kept>,
    /// Each partition, or the disk itself, in the order of the disk.
    pub parts: Vec<PartReport>,
    /// The gaps between partitions, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaps: Option<GapsReport>,
}

/// Gives back what the guest in an image file has freed. The file is open for reading and writing; while this works, it
/// is locked against everyone who asks (`flock`, and the byte locks of QEMU and libvirt).
///
/// No other image may have it as a backing file: what is free in here may be used there.
///
/// # Errors
///
/// Of any [`ErrorKind`]. What is refused is refused before anything is changed. When reading or writing fails, or the
/// caller cancels, the image is valid and complete, and may have leaked clusters.
pub fn punch_file(file: File, format: Option<Format>, control: &Control) -> Result<InPlaceReport> {
    punch_file_with(file, format, ExtraGains::default(), control)
}

/// The same, and gives back what no guest reads any more.
///
/// # Errors
///
/// Those of [`punch_file`].
pub fn punch_file_with(
    file: File,
    format: Option<Format>,
    extra: ExtraGains,
    control: &Control,
) -> Result<InPlaceReport> {
    lock::lock(&file)?;
    let medium = Arc::new(FileMedium::new(file)?);
    medium.check_holes()?;
    // What somebody wrote a moment ago has no place on the medium yet.
    medium.flush()?;
    let before_bytes = medium.allocated_bytes();
    let report = punch_with(Arc::clone(&medium) as Arc<dyn Medium>, format, extra, control)?;
    Ok(InPlaceReport { before_bytes, after_bytes: medium.allocated_bytes(), ..report })
}

/// The same on any medium, which nobody else uses meanwhile.
///
/// # Errors
///
/// Those of [`punch_file`].
pub fn punch(medium: Arc<dyn Medium>, format: Option<Format>, control: &Control) -> Result<InPlaceReport> {
    punch_with(medium, format, ExtraGains::default(), control)
}

fn punch_with(
    medium: Arc<dyn Medium>,
    format: Option<Format>,
    extra: ExtraGains,
    control: &Control,
) -> Result<InPlaceReport> {
    Meter::new(control, Phase::Planning, 0, 0.0, PLANNED);
    let storage: Arc<dyn Storage> = Arc::clone(&medium) as Arc<dyn Storage>;
    let before = storage.fingerprint()?;
    let image = format::open(Arc::clone(&storage), format)?;
    if let Some(qcow2) = &image.qcow2 {
        refuse(qcow2)?;
        check_clean(&storage, control)?;
    }
    let layout = guest::scan_with(&*image.disk, extra, control)?;
    let mut plan = Plan::new(&*image.disk, &layout);
    if storage.fingerprint()? != before {
        let message = "the image changed while it was looked at";
        return Err(Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message));
    }
    let meter = Meter::new(control, Phase::Punching, image.disk.virtual_size_bytes(), PLANNED, PUNCHED);
    match &image.qcow2 {
        Some(qcow2) => {
            qcow2::punch(qcow2, &*medium, &mut plan, &meter, control)?;
            let message =
                "the image is damaged: its tables do not fit any more after free space was given back";
            if checked(&storage, control)? != CheckOutcome::Consistent {
                return Err(Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message));
            }
        }
        None => raw::punch(&image, &*medium, &mut plan, &meter, control)?,
    }
    meter.finish();
    Meter::new(control, Phase::Punching, 0, 1.0, 1.0);
    Ok(report(&image, &layout, &plan))
}

fn report(image: &Image, layout: &guest::Layout, plan: &Plan<'_>) -> InPlaceReport {
    InPlaceReport {
        source_format: image.format,
        virtual_size_bytes: image.disk.virtual_size_bytes(),
        before_bytes: 0,
        after_bytes: 0,
        dropped_bytes: plan.dropped_bytes(),
        extra_dropped_bytes: plan.extra_dropped_bytes(),
        left_bytes: plan.left_bytes(),
        table: layout.table(),
        kept: layout.kept().to_vec(),
        parts: plan.parts().to_vec(),
        gaps: plan.gaps().cloned(),
    }
}

/// Refuses what cannot be changed in place without losing something. What reaches outside the file and what is
/// encrypted was refused when it was opened.
fn refuse(image: &Qcow2) -> Result<()> {
    let header = image.header();
    let refuse = |kind, reason, message: &str| Err(Error::new(kind, reason, message));
    if header.incompatible.has(Incompatible::DIRTY) {
        let message = "the image was not closed cleanly, and its reference counts may lag";
        return refuse(ErrorKind::Corrupt, reason::CORRUPT_DIRTY, message);
    }
    if header.incompatible.has(Incompatible::CORRUPT) {
        return refuse(ErrorKind::Corrupt, reason::CORRUPT_MARKED, "the image is marked as damaged");
    }
    if header.snapshot_count > 0 {
        let message = "the image has internal snapshots, in which other space is free";
        return refuse(ErrorKind::Unsupported, reason::IN_PLACE_SNAPSHOTS, message);
    }
    if header.extensions.bitmaps.is_some() {
        let message = "the image has bitmaps of what changed, which would become wrong";
        return refuse(ErrorKind::Unsupported, reason::IN_PLACE_BITMAPS, message);
    }
    // A writer that does not know such a bit has to clear it, and would take away what it stands for.
    if header.autoclear.has(!Autoclear::KNOWN) {
        let message = "the image has a feature that is not known, and that a change would switch off";
        return refuse(ErrorKind::Unsupported, reason::IN_PLACE_UNKNOWN_FEATURE, message);
    }
    Ok(())
}

/// All that follows relies on counts that are the number of references.
fn check_clean(storage: &Arc<dyn Storage>, control: &Control) -> Result<()> {
    let message = match checked(storage, control)? {
        CheckOutcome::Consistent => return Ok(()),
        CheckOutcome::Leaks => "the image has leaked clusters, which `qemu-img check -r leaks` gives back",
        _ => "the tables of the image contradict each other",
    };
    Err(Error::new(ErrorKind::Corrupt, reason::IN_PLACE_NOT_CLEAN, message))
}

fn checked(storage: &Arc<dyn Storage>, control: &Control) -> Result<CheckOutcome> {
    // The check has its own idea of progress, which is not that of the whole operation.
    let quiet = Control::new(|_| {}, control.cancel_token().clone());
    let options =
        CheckOptions { md5: false, sha256: false, format: Some(Format::Qcow2), ..Default::default() };
    Ok(check(Arc::clone(storage), &options, &quiet)?.outcome)
}
