//! `inspect`: which format is it, what is in it, and is it safe to take?
//!
//! A look at headers and, within a budget, at tables; no name found in an image is ever resolved, opened or looked up.
//!
//! What a `valid` image has been shown to be: of one format alone, self-contained, within the limits, with all tables
//! inside the file and apart from each other, and with its data inside the file as far as [`TABLE_BYTES_MAX`] of tables
//! tell. Refcounts are not compared: that is the business of [`crate::check`], which turns the verdict to `corrupt`
//! when its figures show corruptions.

mod prefix;
mod qcow2;
mod report;
mod tables;

use std::sync::Arc;

pub use self::prefix::{PREFIX_BYTES, PrefixVerdict, inspect_prefix};
pub use self::report::{Inspection, LayoutSummary, Qcow2Summary, Reason, SnapshotSummary, Verdict};
pub use self::tables::TABLE_BYTES_MAX;
use crate::control::Control;
use crate::error::Result;
use crate::format::signature::{self, Found, FoundKind};
use crate::format::{self, Format};
use crate::guest;
use crate::reason;
use crate::storage::Storage;

/// Largest disk that is taken unless the caller says otherwise: 16 TiB.
pub const VIRTUAL_SIZE_BYTES_MAX: u64 = 16 << 40;

/// What an inspection goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectOptions {
    /// The format that the client declared; a content of another format is refused.
    pub declared_format: Option<Format>,
    /// Largest disk that is taken.
    pub virtual_size_max_bytes: u64,
    /// Look into the guest's disk, too, when the image is taken: partitions and file systems.
    pub layout: bool,
}

impl Default for InspectOptions {
    fn default() -> Self {
        Self { declared_format: None, virtual_size_max_bytes: VIRTUAL_SIZE_BYTES_MAX, layout: true }
    }
}

/// Inspects an image.
///
/// # Errors
///
/// Only when the file cannot be read: whatever is wrong with the image is a verdict.
pub fn inspect(storage: &Arc<dyn Storage>, options: &InspectOptions) -> Result<Inspection> {
    let found = signature::find(&**storage)?;
    let detected = found.first().map_or(Format::Raw, |found| found.format);
    let mut inspection = Inspection::new(options.declared_format.unwrap_or(detected), &**storage);
    if storage.size_bytes() == 0 {
        inspection.add(Verdict::Invalid, Reason::new(reason::INVALID_EMPTY, "the file is empty"));
    }
    judge_signatures(&found, options.declared_format, &mut inspection);
    match detected {
        Format::Qcow2 => qcow2::inspect(storage, &mut inspection)?,
        Format::Raw | Format::Iso if inspection.format == detected => {
            inspection.virtual_size_bytes = Some(storage.size_bytes().div_ceil(512).saturating_mul(512));
        }
        _ => {}
    }
    judge_virtual_size(options.virtual_size_max_bytes, &mut inspection);
    if options.layout && inspection.verdict == Verdict::Valid {
        inspection.layout = look_inside(storage, inspection.format)?;
    }
    Ok(inspection)
}

/// The partitions and file systems of an image that is taken; `None` when its data cannot be decoded.
fn look_inside(storage: &Arc<dyn Storage>, format: Format) -> Result<Option<LayoutSummary>> {
    let looked = format::open(Arc::clone(storage), Some(format))
        .and_then(|image| guest::scan(&*image.disk, &Control::default()));
    match looked {
        Ok(layout) => Ok(Some(LayoutSummary {
            table: layout.table(),
            parts: layout.parts().iter().map(|part| part.summary().clone()).collect(),
            kept: layout.kept().to_vec(),
        })),
        Err(error) if error.is_of_the_image() => Ok(None),
        Err(error) => Err(error),
    }
}

/// One format alone, the declared one, and one that is taken.
fn judge_signatures(found: &[Found], declared: Option<Format>, inspection: &mut Inspection) {
    let detected = found.first().map_or(Format::Raw, |found| found.format);
    if let Some(other) = found.iter().find(|found| found.format != detected) {
        let message = format!("the file is {} and {} at once", detected, other.format);
        inspection.add(Verdict::Unsafe, Reason::new(reason::UNSAFE_POLYGLOT, message).at(other.offset));
    }
    if let Some(descriptor) = found.iter().find(|found| found.kind == FoundKind::Descriptor) {
        let message = "the file is a description of a disk that lies in other files";
        inspection
            .add(Verdict::Unsafe, Reason::new(reason::UNSAFE_DESCRIPTOR, message).at(descriptor.offset));
    }
    if let Some(declared) = declared.filter(|declared| *declared != detected) {
        let message = format!("the image was declared as {declared} and is {detected}");
        inspection.add(Verdict::Invalid, Reason::new(reason::INVALID_FORMAT_MISMATCH, message));
    }
    let format = declared.unwrap_or(detected);
    if !format.is_readable() || !detected.is_readable() {
        let other = if format.is_readable() { detected } else { format };
        let message = format!("images of the format {other} are not taken");
        inspection.add(Verdict::Unsupported, Reason::new(reason::UNSUPPORTED_FORMAT, message));
    }
}

fn judge_virtual_size(max_bytes: u64, inspection: &mut Inspection) {
    if inspection.virtual_size_bytes.is_some_and(|size| size > max_bytes) {
        let reason =
            Reason::new(reason::UNSAFE_VIRTUAL_SIZE, format!("the disk is larger than {max_bytes} bytes"));
        let at_header = inspection.format == Format::Qcow2;
        inspection.add(Verdict::Unsafe, if at_header { reason.at_field(24) } else { reason });
    }
}
