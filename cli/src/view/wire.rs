//! From the messages of `imageops.v1`.

use imageops::v1;

use super::{
    Check, Compressed, Digests, Estimate, Extra, Figures, Finding, Inspection, Outcome, Part, Qcow2, Reason,
    Verdict, Volume,
};

/// An empty string of the contract stands for an absent value.
fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The name that qemu-img has for a format.
fn format_name(format: v1::ImageFormat) -> Option<String> {
    let name = match format {
        v1::ImageFormat::Unspecified => return None,
        v1::ImageFormat::Raw => "raw",
        v1::ImageFormat::Qcow2 => "qcow2",
        v1::ImageFormat::Qcow => "qcow",
        v1::ImageFormat::Qed => "qed",
        v1::ImageFormat::Vmdk => "vmdk",
        v1::ImageFormat::Vhd => "vpc",
        v1::ImageFormat::Vhdx => "vhdx",
        v1::ImageFormat::Vdi => "vdi",
        v1::ImageFormat::Parallels => "parallels",
        v1::ImageFormat::Luks => "luks",
        v1::ImageFormat::Iso => "iso",
        v1::ImageFormat::Other => "other",
    };
    Some(name.to_owned())
}

impl Verdict {
    fn of(verdict: v1::Verdict) -> Option<Self> {
        match verdict {
            v1::Verdict::Unspecified => None,
            v1::Verdict::Valid => Some(Self::Valid),
            v1::Verdict::Corrupt => Some(Self::Corrupt),
            v1::Verdict::Invalid => Some(Self::Invalid),
            v1::Verdict::Unsafe => Some(Self::Unsafe),
            v1::Verdict::Unsupported => Some(Self::Unsupported),
        }
    }
}

impl From<v1::Reason> for Reason {
    fn from(reason: v1::Reason) -> Self {
        Self {
            code: reason.code,
            message: reason.message,
            offset: reason.offset_bytes,
            field: text(reason.field),
        }
    }
}

impl From<v1::Digests> for Digests {
    fn from(digests: v1::Digests) -> Self {
        Self { md5: text(digests.md5), sha256: text(digests.sha256) }
    }
}

impl From<v1::Qcow2Summary> for Qcow2 {
    fn from(summary: v1::Qcow2Summary) -> Self {
        Self {
            version: summary.version,
            cluster_size: summary.cluster_size_bytes.into(),
            refcount_bits: summary.refcount_bits,
            compression: summary.compression,
            extended_l2: summary.extended_l2,
            dirty: summary.dirty,
            corrupt: summary.corrupt,
            lazy_refcounts: summary.lazy_refcounts,
            encryption: summary.encryption,
            snapshots: summary.snapshot_count.into(),
        }
    }
}

impl From<v1::GuestPart> for Part {
    fn from(part: v1::GuestPart) -> Self {
        Self {
            index: part.index,
            offset: part.offset_bytes,
            length: part.length_bytes,
            partition_type: text(part.partition_type),
            file_system: text(part.file_system),
            free: part.free_bytes,
            dropped: None,
            kept: part.kept.into_iter().map(Reason::from).collect(),
            extra: None,
            volumes: part.volumes.into_iter().map(Volume::from).collect(),
        }
    }
}

impl From<v1::GuestVolume> for Volume {
    fn from(volume: v1::GuestVolume) -> Self {
        Self {
            name: volume.volume_name,
            length: volume.length_bytes,
            file_system: text(volume.file_system),
            label: text(volume.label),
            free: volume.free_bytes,
            dropped: None,
            kept: volume.kept.into_iter().map(Reason::from).collect(),
            extra: None,
        }
    }
}

impl Extra {
    fn of(figures: v1::ExtraFigures, dropped_bytes: u64) -> Self {
        let kept = figures.kept.into_iter().map(Reason::from).collect();
        Self { bytes: figures.bytes, dropped: Some(dropped_bytes), kept }
    }
}

impl From<v1::CompressedGaps> for Extra {
    fn from(gaps: v1::CompressedGaps) -> Self {
        Self::of(gaps.extra.unwrap_or_default(), gaps.dropped_bytes)
    }
}

impl From<v1::CompressedPart> for Part {
    fn from(compressed: v1::CompressedPart) -> Self {
        let mut part = Self::from(compressed.part.unwrap_or_default());
        part.dropped = Some(compressed.dropped_bytes);
        part.kept.extend(compressed.kept_pieces.into_iter().map(Reason::from));
        part.extra = compressed.extra.map(|extra| Extra::of(extra, compressed.extra_dropped_bytes));
        part.volumes = compressed.volumes.into_iter().map(Volume::from).collect();
        part
    }
}

impl From<v1::CompressedVolume> for Volume {
    fn from(compressed: v1::CompressedVolume) -> Self {
        let mut volume = Self::from(compressed.volume.unwrap_or_default());
        volume.dropped = Some(compressed.dropped_bytes);
        volume.extra = compressed.extra.map(|extra| Extra::of(extra, compressed.extra_dropped_bytes));
        volume.kept.extend(compressed.kept_pieces.into_iter().map(Reason::from));
        volume
    }
}

impl From<v1::Inspection> for Inspection {
    fn from(inspection: v1::Inspection) -> Self {
        Self {
            verdict: Verdict::of(inspection.verdict()),
            format: format_name(inspection.format()),
            virtual_size: inspection.virtual_size_bytes,
            reasons: inspection.reasons.into_iter().map(Reason::from).collect(),
            file_size: Some(inspection.file_size_bytes),
            allocated_size: Some(inspection.allocated_bytes),
            qcow2: inspection.qcow2.map(Qcow2::from),
            partition_table: text(inspection.partition_table),
            parts: inspection.parts.into_iter().map(Part::from).collect(),
        }
    }
}

impl From<v1::CheckFigures> for Figures {
    fn from(figures: v1::CheckFigures) -> Self {
        Self {
            check_errors: figures.check_errors,
            image_end_offset: figures.image_end_offset_bytes,
            corruptions: figures.corruptions,
            leaks: figures.leaks,
            total_clusters: figures.total_clusters,
            allocated_clusters: figures.allocated_clusters,
            fragmented_clusters: figures.fragmented_clusters,
            compressed_clusters: figures.compressed_clusters,
        }
    }
}

impl From<v1::Finding> for Finding {
    fn from(finding: v1::Finding) -> Self {
        Self {
            code: finding.code,
            message: finding.message,
            guest_offset: finding.guest_offset_bytes,
            guest_length: finding.guest_length_bytes,
            offset: finding.offset_bytes,
        }
    }
}

impl From<v1::CheckResult> for Check {
    fn from(result: v1::CheckResult) -> Self {
        let outcome = match result.outcome() {
            v1::CheckOutcome::Consistent => Outcome::Consistent,
            v1::CheckOutcome::Corrupt => Outcome::Corrupt,
            v1::CheckOutcome::Leaks => Outcome::Leaks,
            v1::CheckOutcome::NotSupported => Outcome::NotSupported,
            v1::CheckOutcome::Failed | v1::CheckOutcome::Unspecified => Outcome::Failed,
        };
        Self {
            outcome,
            figures: result.figures.map(Figures::from),
            failure: result.failure.map(Reason::from),
            findings: result.findings.into_iter().map(Finding::from).collect(),
            finding_count: result.finding_count,
            digests: result.digests.map(Digests::from).unwrap_or_default(),
            inspection: result.inspection.map(Inspection::from).unwrap_or_default(),
        }
    }
}

impl Compressed {
    /// The result; with `has_extra` the job was asked to drop more than free space.
    pub(crate) fn of(result: v1::CompressResult, has_extra: bool) -> Self {
        Self {
            source_format: format_name(result.source_format()),
            virtual_size: result.virtual_size_bytes,
            source_bytes: result.source_bytes,
            output_bytes: result.output_bytes,
            data_bytes: result.data_bytes,
            copied_bytes: result.copied_bytes,
            shared_bytes: result.shared_bytes,
            zero_bytes: result.zero_bytes,
            dropped_bytes: result.dropped_bytes,
            extra_dropped_bytes: has_extra.then_some(result.extra_dropped_bytes),
            gaps: result.gaps.map(Extra::from),
            parts: result.parts.into_iter().map(Part::from).collect(),
            kept: result.kept.into_iter().map(Reason::from).collect(),
            snapshots_left_out: result.snapshots_left_out.into(),
            verified: result.verified,
            content_proof: result.content_proof,
            digests: result.digests.map(Digests::from).filter(|digests| *digests != Digests::default()),
        }
    }
}

impl Estimate {
    /// As [`Compressed::of`].
    pub(crate) fn of(told: v1::CompressionEstimate, has_extra: bool) -> Self {
        Self {
            source_format: format_name(told.source_format()),
            virtual_size: told.virtual_size_bytes,
            stored_bytes: told.stored_bytes,
            dropped_bytes: told.dropped_bytes,
            extra_dropped_bytes: has_extra.then_some(told.extra_dropped_bytes),
            gaps: told.gaps.map(Extra::from),
            kept_bytes: told.stored_bytes.saturating_sub(told.dropped_bytes),
            output_bytes_estimate: told.estimated_output_bytes,
            kept_clusters: told.kept_clusters,
            sampled_clusters: told.sampled_clusters,
            parts: told.parts.into_iter().map(Part::from).collect(),
            kept: told.kept.into_iter().map(Reason::from).collect(),
        }
    }
}
