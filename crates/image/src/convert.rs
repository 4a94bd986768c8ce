//! Convert: the guest's disk as a raw file, with holes for what is not stored.
//!
//! [`convert_to_raw`] is the way out of a container. The way into qcow2 is [`crate::compress`] with
//! [`drop_free`](crate::compress::CompressOptions::drop_free) off: it, too, writes what the guest can see and nothing
//! else. Free space of the guest is kept here: the output compares equal byte for byte.

mod write;

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compress::feed::Feed;
use crate::compress::flush::Flush;
use crate::compress::{options, verify};
use crate::control::{Control, Phase};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Format};
use crate::guest::ranges;
use crate::progress::Meter;
use crate::reason;
use crate::storage::{FileStorage, Storage};

/// Where the phases end in the whole operation: the tables are quickly read, and reading back needs no decoder.
const PLANNED: f64 = 0.01;
const CONVERTED: f64 = 0.75;

/// What to do, and within which limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConvertOptions {
    /// Threads that read and decode; 0 takes one for each core. The output does not depend on it.
    pub threads: usize,
    /// Read the finished file back and compare it with what went in.
    pub verify: bool,
    /// Stop with [`ErrorKind::OutputLimit`] once more bytes than this would be written. Holes count nothing.
    pub output_limit_bytes: Option<u64>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { threads: 0, verify: true, output_limit_bytes: None }
    }
}

/// The result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConvertReport {
    /// The format that the source was read as.
    pub source_format: Format,
    /// Size of the disk that the guest sees, which is the length of the output.
    pub virtual_size_bytes: u64,
    /// Bytes that the source occupies on its medium.
    pub source_bytes: u64,
    /// Guest bytes that the source stores, compressed or not.
    pub stored_bytes: u64,
    /// Of these, what was written; all else is holes.
    pub written_bytes: u64,
    /// Bytes that the output occupies on its medium, as the file system tells by now.
    pub allocated_bytes: u64,
    /// Internal snapshots of the source, which the output does not have.
    pub snapshots_left_out: u64,
    /// As that of a compression: equal for two outputs of the same content.
    pub content_proof: String,
    /// Whether the finished file was read back and compared.
    pub verified: bool,
}

/// Writes the disk of the image in `source` into `output`, an empty file open for reading and writing.
///
/// A `format` is taken at its word, else it is told from the content. On failure the output is not complete; its
/// removal is the caller's. Memory: 1 MiB and a decoder for each thread.
///
/// # Errors
///
/// Of any [`ErrorKind`]; what the image itself is refused for has the kinds and reasons of [`format::open`].
pub fn convert_to_raw(
    source: Arc<dyn Storage>,
    format: Option<Format>,
    output: &File,
    options: &ConvertOptions,
    control: &Control,
) -> Result<ConvertReport> {
    let before = source.fingerprint()?;
    Meter::new(control, Phase::Planning, 0, 0.0, PLANNED);
    let image = format::open_whole(Arc::clone(&source), format)?;
    let disk = &*image.disk;
    let stored_bytes = stored_bytes(disk, control)?;
    make_room(output, disk.virtual_size_bytes())?;

    let threads = options::thread_count(options.threads);
    let end = if options.verify { CONVERTED } else { 1.0 };
    let meter = Meter::new(control, Phase::Converting, stored_bytes, PLANNED, end);
    let limit_bytes = options.output_limit_bytes.unwrap_or(u64::MAX);
    let written = write::run(disk, output, threads, limit_bytes, &meter, control)?;
    meter.finish();
    if source.fingerprint()? != before {
        let message = "the source changed while it was read";
        return Err(Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message));
    }
    if options.verify {
        let meter = Meter::new(control, Phase::Verifying, written.bytes, CONVERTED, 1.0);
        let flush = Flush::start(output)?;
        read_back(output, disk.virtual_size_bytes(), &written, threads, &meter, control)?;
        flush.finish()?;
        meter.finish();
    }
    Ok(ConvertReport {
        source_format: image.format,
        virtual_size_bytes: disk.virtual_size_bytes(),
        source_bytes: source.allocated_bytes(),
        stored_bytes,
        written_bytes: written.bytes,
        allocated_bytes: output.metadata()?.blocks().saturating_mul(512),
        snapshots_left_out: image.qcow2.as_ref().map_or(0, |image| image.header().snapshot_count.into()),
        content_proof: written.proof.to_string(),
        verified: options.verify,
    })
}

/// Walks the extents of `disk`.
fn stored_bytes(disk: &dyn Disk, control: &Control) -> Result<u64> {
    let mut feed = Feed::new(disk);
    let mut stored_bytes = 0;
    while let Some(unit) = feed.next()? {
        control.check_cancelled()?;
        stored_bytes += ranges::total_bytes(&unit.stored);
    }
    Ok(stored_bytes)
}

/// Makes `output` one hole of the length of the disk.
fn make_room(output: &File, virtual_size_bytes: u64) -> Result<()> {
    output.set_len(0)?;
    let too_large = || {
        let message = "the disk is larger than a file can be on the target's file system";
        Error::new(ErrorKind::Unsupported, reason::OUTPUT_DISK_TOO_LARGE, message)
    };
    if i64::try_from(virtual_size_bytes).is_err() {
        return Err(too_large());
    }
    output.set_len(virtual_size_bytes).map_err(|error| match error.kind() {
        std::io::ErrorKind::FileTooLarge => too_large(),
        _ => error.into(),
    })
}

/// Opens `output` as any reader would and compares all of it with what was written.
fn read_back(
    output: &File,
    virtual_size_bytes: u64,
    written: &write::Written,
    threads: usize,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(output.try_clone()?)?);
    if storage.size_bytes() != virtual_size_bytes {
        let bytes = storage.size_bytes();
        return Err(verify::failed(format!("the output has {bytes} bytes, not {virtual_size_bytes}")));
    }
    let image = format::open(storage, Some(Format::Raw))?;
    if verify::read_content(&*image.disk, threads, meter, control)? != written.proof {
        return Err(verify::failed("the output reads back as something other than what went in"));
    }
    Ok(())
}
