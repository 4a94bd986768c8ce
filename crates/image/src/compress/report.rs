//! What a compression came to.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{CompressOptions, Compression, Written};
use crate::format::{Format, Image};
use crate::guest::{Kept, Layout, Part, PartSummary, TableKind, VolumeSummary};
use crate::storage::Storage;

/// What a compression would read and leave out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Size of the disk that the guest sees.
    pub virtual_size_bytes: u64,
    /// Guest bytes that the source stores, compressed or not.
    pub stored_bytes: u64,
    /// Of these, what the guest has freed.
    pub dropped_bytes: u64,
    /// The partition table, when there is one.
    pub table: Option<TableKind>,
    /// Why the disk as a whole was left alone, when it was.
    pub kept: Vec<Kept>,
    /// Each partition, or the disk itself, in the order of the disk.
    pub parts: Vec<PartReport>,
}

/// One part of the disk and what was left out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    /// The part, what is in it, and the reasons for what was left alone; without its volumes, which are below.
    #[serde(flatten)]
    pub part: PartSummary,
    /// Bytes that the source stores there and the guest has freed.
    pub dropped_bytes: u64,
    /// The logical volumes, when it is a physical volume of LVM2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeReport>,
}

/// One logical volume and what was left out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReport {
    /// The volume, what is in it, and the reasons for what was left alone.
    #[serde(flatten)]
    pub volume: VolumeSummary,
    /// Bytes that the source stores there, in this part, and the guest has freed.
    pub dropped_bytes: u64,
}

impl PartReport {
    pub(crate) fn new(part: &Part) -> Self {
        let mut part = part.summary().clone();
        let volumes = std::mem::take(&mut part.volumes).into_iter();
        let volumes = volumes.map(|volume| VolumeReport { volume, dropped_bytes: 0 }).collect();
        Self { part, dropped_bytes: 0, volumes }
    }

    /// Counts a stored range of `part` that is left out, here and with the volumes that it lies in.
    pub(crate) fn count_dropped(&mut self, part: &Part, range: Range<u64>) {
        self.dropped_bytes += range.end - range.start;
        if self.volumes.is_empty() {
            return;
        }
        let mut pieces = Vec::new();
        part.volumes_within(range, &mut pieces);
        for (volume, piece) in pieces {
            self.volumes[volume].dropped_bytes += piece.end - piece.start;
        }
    }
}

impl Estimate {
    pub(super) fn new(virtual_size_bytes: u64, layout: Option<&Layout>) -> Self {
        let parts = layout.map_or(&[][..], Layout::parts).iter();
        Self {
            virtual_size_bytes,
            stored_bytes: 0,
            dropped_bytes: 0,
            table: layout.and_then(Layout::table),
            kept: layout.map(|layout| layout.kept().to_vec()).unwrap_or_default(),
            parts: parts.map(PartReport::new).collect(),
        }
    }
}

/// The result of a compression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CompressReport {
    /// The format that the source was read as.
    pub source_format: Format,
    /// How the output is compressed.
    pub compression: Compression,
    /// The effort that was used.
    pub level: u8,
    /// Size of the disk that the guest sees.
    pub virtual_size_bytes: u64,
    /// Bytes that the source occupies on its medium.
    pub source_bytes: u64,
    /// Length of the output.
    pub output_bytes: u64,
    /// Guest bytes of the clusters in the output.
    pub data_bytes: u64,
    /// Of these, what was compressed in the source and was copied as it is.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Of these, what shares the bytes of an earlier cluster of the output.
    #[serde(default)]
    pub shared_bytes: u64,
    /// Bytes that the source stores in clusters in which all that the guest keeps is zero.
    pub zero_bytes: u64,
    /// Bytes that the source stores and the guest has freed.
    pub dropped_bytes: u64,
    /// The partition table, when there is one and the guest's free space was asked for.
    pub table: Option<TableKind>,
    /// Why the disk as a whole was left alone, when it was.
    pub kept: Vec<Kept>,
    /// Each partition, or the disk itself; empty when the guest's free space was not asked for.
    pub parts: Vec<PartReport>,
    /// Internal snapshots of the source, which the output does not have.
    pub snapshots_left_out: u64,
    /// Sum over the guest's clusters that hold something: equal for two outputs of the same kept content.
    pub content_proof: String,
    /// Whether the finished file was read back and compared.
    pub verified: bool,
}

pub(super) fn build(
    image: &Image,
    source: &dyn Storage,
    layout: Option<&Layout>,
    estimate: Estimate,
    written: &Written,
    options: &CompressOptions,
) -> CompressReport {
    CompressReport {
        source_format: image.format,
        compression: options.compression,
        level: options.level_number(),
        virtual_size_bytes: written.virtual_size_bytes,
        source_bytes: source.allocated_bytes(),
        output_bytes: written.file_bytes,
        data_bytes: written.figures.data_bytes,
        copied_bytes: written.figures.copied_bytes,
        shared_bytes: written.figures.shared_bytes,
        zero_bytes: written.figures.zero_bytes,
        dropped_bytes: written.figures.dropped_bytes,
        table: layout.and_then(Layout::table),
        kept: estimate.kept,
        parts: estimate.parts,
        snapshots_left_out: image.qcow2.as_ref().map_or(0, |image| image.header().snapshot_count.into()),
        content_proof: written.proof.to_string(),
        verified: options.verify,
    }
}
