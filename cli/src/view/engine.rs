//! From the reports of the engine.

use imageops_image::check::{ByteRange, CheckFigures, CheckOutcome, CheckReport, Finding as EngineFinding};
use imageops_image::compress::{CompressReport, DryRun, GapsReport, PartReport, VolumeReport};
use imageops_image::convert::ConvertReport;
use imageops_image::digest::Digests as EngineDigests;
use imageops_image::format::Format;
use imageops_image::guest::{ExtraSummary, Kept, PartSummary, VolumeSummary};
use imageops_image::inspect;

use super::{
    Check, Compressed, Converted, Digests, Estimate, Extra, Figures, Finding, Inspection, Outcome, Part,
    Qcow2, Reason, Verdict, Volume,
};
use crate::output::count;

impl From<inspect::Verdict> for Verdict {
    fn from(verdict: inspect::Verdict) -> Self {
        match verdict {
            inspect::Verdict::Valid => Self::Valid,
            inspect::Verdict::Corrupt => Self::Corrupt,
            inspect::Verdict::Invalid => Self::Invalid,
            inspect::Verdict::Unsafe => Self::Unsafe,
            inspect::Verdict::Unsupported => Self::Unsupported,
        }
    }
}

impl From<inspect::Reason> for Reason {
    fn from(reason: inspect::Reason) -> Self {
        Self { code: reason.code, message: reason.message, offset: reason.offset_bytes, field: reason.field }
    }
}

impl From<Kept> for Reason {
    fn from(kept: Kept) -> Self {
        let message = match kept.groups {
            0 => kept.message,
            groups => format!("{} ({})", kept.message, count(groups, "group")),
        };
        Self { code: kept.reason, message, ..Self::default() }
    }
}

impl From<EngineDigests> for Digests {
    fn from(digests: EngineDigests) -> Self {
        Self { md5: digests.md5, sha256: digests.sha256 }
    }
}

/// The word that the engine's own JSON has for one of its values.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl From<inspect::Qcow2Summary> for Qcow2 {
    fn from(summary: inspect::Qcow2Summary) -> Self {
        Self {
            version: summary.version,
            cluster_size: summary.cluster_size_bytes,
            refcount_bits: summary.refcount_bits,
            compression: word(summary.compression),
            extended_l2: summary.extended_l2,
            dirty: summary.dirty,
            corrupt: summary.corrupt,
            lazy_refcounts: summary.lazy_refcounts,
            encryption: summary.encryption.map_or_else(|| "none".to_owned(), word),
            snapshots: summary.snapshot_count.into(),
        }
    }
}

/// What is kept whole was not read: its free space is not 0 but not known.
fn free(bytes: u64, kept: &[Kept]) -> Option<u64> {
    let read = !kept.iter().any(|kept| kept.groups == 0);
    read.then_some(bytes)
}

/// The name of a content that is known.
fn file_system(content: String) -> Option<String> {
    Some(content).filter(|content| content != "unknown")
}

impl From<ExtraSummary> for Extra {
    fn from(extra: ExtraSummary) -> Self {
        let kept = extra.kept.into_iter().map(Reason::from).collect();
        Self { bytes: extra.bytes, dropped: None, kept }
    }
}

impl From<GapsReport> for Extra {
    fn from(report: GapsReport) -> Self {
        Self { dropped: Some(report.dropped_bytes), ..Self::from(report.summary) }
    }
}

impl From<PartSummary> for Part {
    fn from(part: PartSummary) -> Self {
        Self {
            index: part.index,
            offset: part.start_bytes,
            length: part.length_bytes,
            partition_type: part.type_id,
            file_system: file_system(part.content),
            free: free(part.free_bytes, &part.kept),
            dropped: None,
            kept: part.kept.into_iter().map(Reason::from).collect(),
            extra: part.extra.map(Extra::from),
            volumes: part.volumes.into_iter().map(Volume::from).collect(),
        }
    }
}

impl From<VolumeSummary> for Volume {
    fn from(volume: VolumeSummary) -> Self {
        Self {
            name: volume.name,
            length: volume.length_bytes,
            file_system: file_system(volume.content),
            label: volume.label,
            free: free(volume.free_bytes, &volume.kept),
            dropped: None,
            kept: volume.kept.into_iter().map(Reason::from).collect(),
            extra: volume.extra.map(Extra::from),
        }
    }
}

impl From<PartReport> for Part {
    fn from(report: PartReport) -> Self {
        let volumes = report.volumes.into_iter().map(Volume::from).collect();
        let part = Self::from(report.part);
        let extra = part.extra.map(|extra| Extra { dropped: Some(report.extra_dropped_bytes), ..extra });
        Self { dropped: Some(report.dropped_bytes), extra, volumes, ..part }
    }
}

impl From<VolumeReport> for Volume {
    fn from(report: VolumeReport) -> Self {
        let volume = Self::from(report.volume);
        let extra = volume.extra.map(|extra| Extra { dropped: Some(report.extra_dropped_bytes), ..extra });
        Self { dropped: Some(report.dropped_bytes), extra, ..volume }
    }
}

impl From<ConvertReport> for Converted {
    fn from(report: ConvertReport) -> Self {
        Self {
            source_format: report.source_format.to_string(),
            virtual_size: report.virtual_size_bytes,
            source_bytes: report.source_bytes,
            output_bytes: report.virtual_size_bytes,
            data_bytes: report.written_bytes,
            allocated_bytes: report.allocated_bytes,
            snapshots_left_out: report.snapshots_left_out,
            verified: report.verified,
            content_proof: report.content_proof,
        }
    }
}

impl From<inspect::Inspection> for Inspection {
    fn from(inspection: inspect::Inspection) -> Self {
        let (table, parts) =
            inspection.layout.map_or_else(Default::default, |layout| (layout.table, layout.parts));
        Self {
            verdict: Some(inspection.verdict.into()),
            format: Some(inspection.format.to_string()),
            virtual_size: inspection.virtual_size_bytes,
            reasons: inspection.reasons.into_iter().map(Reason::from).collect(),
            file_size: Some(inspection.file_size_bytes),
            allocated_size: Some(inspection.allocated_bytes),
            qcow2: inspection.qcow2.map(Qcow2::from),
            partition_table: table.map(word),
            parts: parts.into_iter().map(Part::from).collect(),
        }
    }
}

impl From<CheckFigures> for Figures {
    fn from(figures: CheckFigures) -> Self {
        Self {
            check_errors: figures.check_errors,
            image_end_offset: figures.image_end_offset,
            corruptions: figures.corruptions,
            leaks: figures.leaks,
            total_clusters: figures.total_clusters,
            allocated_clusters: figures.allocated_clusters,
            fragmented_clusters: figures.fragmented_clusters,
            compressed_clusters: figures.compressed_clusters,
        }
    }
}

impl From<EngineFinding> for Finding {
    fn from(finding: EngineFinding) -> Self {
        let guest: Option<&ByteRange> = finding.guest.first();
        Self {
            code: word(finding.kind).to_uppercase(),
            guest_offset: guest.map(|range| range.start_bytes),
            guest_length: guest.map_or(0, |range| range.length_bytes),
            offset: finding.host.map(|range| range.start_bytes),
            message: finding.message,
        }
    }
}

impl From<CheckReport> for Check {
    fn from(report: CheckReport) -> Self {
        Self {
            outcome: match report.outcome {
                CheckOutcome::Consistent => Outcome::Consistent,
                CheckOutcome::Corrupt => Outcome::Corrupt,
                CheckOutcome::Leaks => Outcome::Leaks,
                CheckOutcome::NotSupported => Outcome::NotSupported,
                CheckOutcome::Failed => Outcome::Failed,
            },
            figures: report.figures.map(Figures::from),
            failure: report.failure.map(Reason::from),
            findings: report.findings.into_iter().map(Finding::from).collect(),
            finding_count: report.findings_total,
            digests: report.digests.into(),
            inspection: Inspection {
                format: Some(report.format.to_string()),
                virtual_size: report.virtual_size_bytes,
                ..report.inspection.into()
            },
        }
    }
}

impl From<CompressReport> for Compressed {
    fn from(report: CompressReport) -> Self {
        Self {
            source_format: Some(report.source_format.to_string()),
            virtual_size: report.virtual_size_bytes,
            source_bytes: report.source_bytes,
            output_bytes: report.output_bytes,
            data_bytes: report.data_bytes,
            copied_bytes: report.copied_bytes,
            shared_bytes: report.shared_bytes,
            zero_bytes: report.zero_bytes,
            dropped_bytes: report.dropped_bytes,
            extra_dropped_bytes: Some(report.extra_dropped_bytes),
            gaps: report.gaps.map(Extra::from),
            parts: report.parts.into_iter().map(Part::from).collect(),
            kept: report.kept.into_iter().map(Reason::from).collect(),
            snapshots_left_out: report.snapshots_left_out,
            verified: report.verified,
            content_proof: report.content_proof,
            digests: None,
        }
    }
}

impl Estimate {
    pub(crate) fn new(format: Format, told: DryRun) -> Self {
        let estimate = told.estimate;
        Self {
            source_format: Some(format.to_string()),
            virtual_size: estimate.virtual_size_bytes,
            stored_bytes: estimate.stored_bytes,
            dropped_bytes: estimate.dropped_bytes,
            extra_dropped_bytes: Some(estimate.extra_dropped_bytes),
            gaps: estimate.gaps.map(Extra::from),
            kept_bytes: estimate.stored_bytes.saturating_sub(estimate.dropped_bytes),
            output_bytes_estimate: told.output_bytes_estimate,
            kept_clusters: told.kept_clusters,
            sampled_clusters: told.sampled_clusters,
            parts: estimate.parts.into_iter().map(Part::from).collect(),
            kept: estimate.kept.into_iter().map(Reason::from).collect(),
        }
    }
}
