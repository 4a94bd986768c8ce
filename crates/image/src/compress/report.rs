//! What a compression came to.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{CompressOptions, Compression, Written};
use crate::format::{Format, Image};
use crate::guest::{ExtraSummary, Gaps, Kept, Layout, Part, PartSummary, TableKind, VolumeSummary, ranges};
use crate::storage::Storage;

/// What a compression would read and leave out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estimate {
    /// Size of the disk that the guest sees.
    pub virtual_size_bytes: u64,
    /// Guest bytes that the source stores, compressed or not.
    pub stored_bytes: u64,
    /// Of these, what is dropped: what the guest has freed, and the extra gains that were asked for.
    pub dropped_bytes: u64,
    /// Of these, the extra gains.
    #[serde(default)]
    pub extra_dropped_bytes: u64,
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

/// The gaps between partitions and what was left out of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapsReport {
    /// What they come to, and why one was kept.
    #[serde(flatten)]
    pub summary: ExtraSummary,
    /// Bytes that the source stores there and that are left out.
    pub dropped_bytes: u64,
}

impl GapsReport {
    pub(crate) fn new(gaps: &Gaps) -> Self {
        Self { summary: gaps.summary().clone(), dropped_bytes: 0 }
    }
}

/// One part of the disk and what was left out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartReport {
    /// The part, what is in it, and the reasons for what was left alone; without its volumes, which are below.
    #[serde(flatten)]
    pub part: PartSummary,
    /// Bytes that the source stores there and that are left out.
    pub dropped_bytes: u64,
    /// Of these, the extra gains.
    #[serde(default)]
    pub extra_dropped_bytes: u64,
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
    /// Bytes that the source stores there, in this part, and that are left out.
    pub dropped_bytes: u64,
    /// Of these, the extra gains.
    #[serde(default)]
    pub extra_dropped_bytes: u64,
}

impl PartReport {
    pub(crate) fn new(part: &Part) -> Self {
        let mut part = part.summary().clone();
        let volumes = std::mem::take(&mut part.volumes).into_iter();
        let volumes = volumes.map(|volume| VolumeReport { volume, dropped_bytes: 0, extra_dropped_bytes: 0 });
        Self { part, dropped_bytes: 0, extra_dropped_bytes: 0, volumes: volumes.collect() }
    }

    /// Counts stored ranges of `part`, ascending, that are left out, here and with the volumes that they lie in. Returns
    /// how much of them is an extra gain.
    pub(crate) fn count_dropped(&mut self, part: &Part, dropped: &[Range<u64>]) -> u64 {
        let (Some(first), Some(last)) = (dropped.first(), dropped.last()) else { return 0 };
        let window = first.start..last.end;
        let (mut extra, mut extra_dropped) = (Vec::new(), Vec::new());
        part.extra_within(window.clone(), &mut extra);
        ranges::intersect(dropped, &extra, &mut extra_dropped);
        let extra_bytes = ranges::total_bytes(&extra_dropped);
        self.dropped_bytes += ranges::total_bytes(dropped);
        self.extra_dropped_bytes += extra_bytes;
        if !self.volumes.is_empty() {
            let mut pieces = Vec::new();
            part.volumes_within(window, &mut pieces);
            for (volume, piece) in pieces {
                self.volumes[volume].dropped_bytes += ranges::overlap_bytes(dropped, &piece);
                self.volumes[volume].extra_dropped_bytes += ranges::overlap_bytes(&extra_dropped, &piece);
            }
        }
        extra_bytes
    }
}

impl Estimate {
    pub(super) fn new(virtual_size_bytes: u64, layout: Option<&Layout>) -> Self {
        let parts = layout.map_or(&[][..], Layout::parts).iter();
        Self {
            virtual_size_bytes,
            stored_bytes: 0,
            dropped_bytes: 0,
            extra_dropped_bytes: 0,
            table: layout.and_then(Layout::table),
            kept: layout.map(|layout| layout.kept().to_vec()).unwrap_or_default(),
            parts: parts.map(PartReport::new).collect(),
            gaps: layout.and_then(Layout::gaps).map(GapsReport::new),
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
    /// Bytes that the source stores and that were left out: what the guest has freed, and the extra gains that were
    /// asked for.
    pub dropped_bytes: u64,
    /// Of these, the extra gains.
    #[serde(default)]
    pub extra_dropped_bytes: u64,
    /// The partition table, when there is one and the guest's free space was asked for.
    pub table: Option<TableKind>,
    /// Why the disk as a whole was left alone, when it was.
    pub kept: Vec<Kept>,
    /// Each partition, or the disk itself; empty when the guest's free space was not asked for.
    pub parts: Vec<PartReport>,
    /// The gaps between partitions, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaps: Option<GapsReport>,
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
        dropped_bytes: estimate.dropped_bytes,
        extra_dropped_bytes: estimate.extra_dropped_bytes,
        table: layout.and_then(Layout::table),
        kept: estimate.kept,
        parts: estimate.parts,
        gaps: estimate.gaps,
        snapshots_left_out: image.qcow2.as_ref().map_or(0, |image| image.header().snapshot_count.into()),
        content_proof: written.proof.to_string(),
        verified: options.verify,
    }
}
