//! Compress: what the guest uses, in compressed qcow2, verified.
//!
//! [`compress`] opens the source, asks [`crate::guest`] what the guest has freed, packs the rest with all threads and
//! reads the finished file back. It writes into a file that the caller made, best an [`crate::output::OutputFile`],
//! which appears under its name only when everything went well.

mod copy;
mod encoder;
pub(crate) mod feed;
pub(crate) mod flush;
pub(crate) mod options;
mod pipeline;
pub(crate) mod proof;
mod report;
mod sample;
mod share;
pub(crate) mod unit;
pub(crate) mod verify;

use std::fs::File;
use std::sync::Arc;

use self::copy::Copier;
use self::encoder::Encoder;
use self::feed::Feed;
use self::flush::Flush;
pub use self::options::{CompressOptions, Compression, Level, Recompress, Window};
pub use self::report::{CompressReport, Estimate, GapsReport, PartReport, VolumeReport};
pub use self::sample::{DryRun, dry_run};
use self::unit::Worker;
use crate::control::{Control, Phase};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::writer::{CompressionType, Finished, Writer};
use crate::format::{self, Format, Image};
use crate::guest::{self, Layout, ranges};
use crate::progress::Meter;
use crate::reason;
use crate::storage::Storage;

/// Where the phases end in the whole operation, measured on a guest of mixed files.
const PLANNED: f64 = 0.01;
const COMPRESSED: f64 = 0.85;

/// Tells what [`compress`] would read and leave out, without compressing anything.
pub fn estimate(image: &Image, drop_free: bool, control: &Control) -> Result<Estimate> {
    let options = CompressOptions { drop_free, ..CompressOptions::default() };
    let layout = scan(&*image.disk, &options, control)?;
    plan(&*image.disk, layout.as_ref(), control)
}

/// Looks into the guest, unless nothing is to be dropped.
fn scan(disk: &dyn Disk, options: &CompressOptions, control: &Control) -> Result<Option<Layout>> {
    options.drop_free.then(|| guest::scan_with(disk, options.extra, control)).transpose()
}

/// Walks the extents of `disk` and what is free in them.
fn plan(disk: &dyn Disk, layout: Option<&Layout>, control: &Control) -> Result<Estimate> {
    let mut estimate = Estimate::new(disk.virtual_size_bytes(), layout);
    let mut feed = Feed::new(disk);
    let (mut free, mut dropped) = (Vec::new(), Vec::new());
    while let Some(unit) = feed.next()? {
        control.check_cancelled()?;
        estimate.stored_bytes += ranges::total_bytes(&unit.stored);
        for (part, report) in layout.map_or(&[][..], Layout::parts).iter().zip(&mut estimate.parts) {
            free.clear();
            part.free_within(disk, unit.range.clone(), &mut free)?;
            ranges::intersect(&free, &unit.stored, &mut dropped);
            estimate.dropped_bytes += ranges::total_bytes(&dropped);
            estimate.extra_dropped_bytes += report.count_dropped(part, &dropped);
        }
        if let (Some(gaps), Some(report)) = (layout.and_then(Layout::gaps), &mut estimate.gaps) {
            free.clear();
            gaps.within(&unit.range, &mut free);
            ranges::intersect(&free, &unit.stored, &mut dropped);
            let bytes = ranges::total_bytes(&dropped);
            report.dropped_bytes += bytes;
            estimate.dropped_bytes += bytes;
            estimate.extra_dropped_bytes += bytes;
        }
    }
    Ok(estimate)
}

/// Compresses the image in `source` into `output`, an empty file open for reading and writing.
///
/// A `format` is taken at its word, else it is told from the content. On failure the output holds no valid image; its
/// removal is the caller's.
///
/// # Errors
///
/// Of any [`ErrorKind`]; what the image itself is refused for has the kinds and reasons of [`format::open`].
pub fn compress(
    source: Arc<dyn Storage>,
    format: Option<Format>,
    output: &File,
    options: &CompressOptions,
    control: &Control,
) -> Result<CompressReport> {
    options.check()?;
    let before = source.fingerprint()?;
    Meter::new(control, Phase::Planning, 0, 0.0, PLANNED);
    let image = format::open_whole(Arc::clone(&source), format)?;
    let layout = scan(&*image.disk, options, control)?;
    let estimate = plan(&*image.disk, layout.as_ref(), control)?;

    let written = write(&image, layout.as_ref(), &estimate, output, options, control)?;
    if source.fingerprint()? != before {
        let message = "the source changed while it was read";
        return Err(Error::new(ErrorKind::Changed, reason::SOURCE_CHANGED, message));
    }
    if options.verify {
        let meter = Meter::new(control, Phase::Verifying, written.figures.data_bytes, COMPRESSED, 1.0);
        let expected = verify::Expected {
            content: written.proof,
            tables: &written.tables,
            file_bytes: written.file_bytes,
            virtual_size_bytes: written.virtual_size_bytes,
        };
        let flush = Flush::start(output)?;
        verify::verify(output, &expected, options.thread_count(), &meter, control)?;
        flush.finish()?;
    }
    Ok(report::build(&image, &*source, layout.as_ref(), estimate, &written, options))
}

/// A file that was written in full.
struct Written {
    figures: unit::Figures,
    proof: proof::Proof,
    tables: pipeline::Tables,
    file_bytes: u64,
    virtual_size_bytes: u64,
}

fn write(
    image: &Image,
    layout: Option<&Layout>,
    estimate: &Estimate,
    output: &File,
    options: &CompressOptions,
    control: &Control,
) -> Result<Written> {
    let compression = match options.compression {
        Compression::Zlib => CompressionType::Zlib,
        Compression::Zstd => CompressionType::Zstd,
    };
    let limit_bytes = options.output_limit_bytes.unwrap_or(i64::MAX as u64);
    let writer = Writer::new(image.disk.virtual_size_bytes(), compression, limit_bytes)?;
    let virtual_size_bytes = writer.virtual_size_bytes();
    let disk = &*image.disk;
    let workers = (0..options.thread_count())
        .map(|_| {
            let copier = Copier::new(image.qcow2.as_deref(), options)?;
            let worker = Worker::new(disk, layout, control, Encoder::new(options)?, copier);
            Ok(worker.sharing(options.share_identical))
        })
        .collect::<Result<Vec<_>>>()?;

    output.set_len(0)?;
    let end = if options.verify { COMPRESSED } else { 1.0 };
    let meter = Meter::new(control, Phase::Compressing, estimate.stored_bytes, PLANNED, end);
    let share = options.share_identical.then(share::Index::new);
    let pipeline::Outcome { writer, figures, proof, mut tables, .. } =
        pipeline::run(Feed::new(disk), workers, writer, share, output, &meter)?;
    let Finished { writes, header, file_bytes } = writer.finish()?;
    for write in &writes {
        control.check_cancelled()?;
        tables.write(output, write)?;
    }
    output.set_len(file_bytes)?;
    tables.write(output, &header)?;
    Ok(Written { figures, proof, tables, file_bytes, virtual_size_bytes })
}

#[cfg(test)]
mod tests;
