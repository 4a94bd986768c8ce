//! Results of jobs.

use std::collections::BTreeSet;

use imageops::v1;
use imageops_image::check::{CheckOutcome, CheckReport, Finding, FindingKind};
use imageops_image::compress::{GapsReport, PartReport, VolumeReport};
use imageops_image::digest::Digests;
use imageops_image::guest::{ExtraSummary, Kept};
use imageops_model::ImageId;

use super::images;
use crate::worker::{
    CompressOutcome, ConvertOutcome, CopyOutcome, DrainOutcome, EstimateOutcome, ImportOutcome, ScrubOutcome,
};

pub(super) fn check(report: CheckReport) -> v1::CheckResult {
    let outcome = match report.outcome {
        CheckOutcome::Consistent => v1::CheckOutcome::Consistent,
        CheckOutcome::Corrupt => v1::CheckOutcome::Corrupt,
        CheckOutcome::Leaks => v1::CheckOutcome::Leaks,
        CheckOutcome::NotSupported => v1::CheckOutcome::NotSupported,
        CheckOutcome::Failed => v1::CheckOutcome::Failed,
    };
    v1::CheckResult {
        outcome: outcome.into(),
        figures: report.figures.map(|figures| v1::CheckFigures {
            check_errors: figures.check_errors,
            corruptions: figures.corruptions,
            leaks: figures.leaks,
            total_clusters: figures.total_clusters,
            allocated_clusters: figures.allocated_clusters,
            fragmented_clusters: figures.fragmented_clusters,
            compressed_clusters: figures.compressed_clusters,
            image_end_offset_bytes: figures.image_end_offset,
        }),
        failure: report.failure.map(images::reason),
        findings: report.findings.into_iter().map(finding).collect(),
        finding_count: report.findings_total,
        digests: Some(digests(report.digests)),
        inspection: Some(images::inspection(report.inspection)),
    }
}

fn finding(finding: Finding) -> v1::Finding {
    let guest = finding.guest.first();
    v1::Finding {
        code: finding_code(finding.kind),
        guest_offset_bytes: guest.map(|range| range.start_bytes),
        guest_length_bytes: guest.map(|range| range.length_bytes).unwrap_or_default(),
        offset_bytes: finding.host.map(|range| range.start_bytes),
        message: finding.message,
    }
}

/// The engine's name of a finding, in the contract's spelling of codes.
fn finding_code(kind: FindingKind) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|name| name.as_str().map(str::to_ascii_uppercase))
        .unwrap_or_else(|| "OTHER".to_owned())
}

fn digests(digests: Digests) -> v1::Digests {
    v1::Digests {
        md5: digests.md5.unwrap_or_default(),
        sha256: digests.sha256.unwrap_or_default(),
        sha512: digests.sha512.unwrap_or_default(),
        crc32: digests.crc32,
    }
}

pub(super) fn compress(outcome: CompressOutcome) -> v1::CompressResult {
    let CompressOutcome { report, output_file, output_image, digests: made } = outcome;
    v1::CompressResult {
        output_file: output_file.unwrap_or_default(),
        output_image: output_image.map(|id| id.to_string()).unwrap_or_default(),
        source_format: images::format(report.source_format).into(),
        virtual_size_bytes: report.virtual_size_bytes,
        source_bytes: report.source_bytes,
        output_bytes: report.output_bytes,
        data_bytes: report.data_bytes,
        zero_bytes: report.zero_bytes,
        dropped_bytes: report.dropped_bytes,
        parts: report.parts.iter().map(part).collect(),
        snapshots_left_out: u32::try_from(report.snapshots_left_out).unwrap_or(u32::MAX),
        verified: report.verified,
        content_proof: report.content_proof,
        digests: made.map(digests),
        kept: report.kept.iter().map(images::kept).collect(),
        copied_bytes: report.copied_bytes,
        shared_bytes: report.shared_bytes,
        extra_dropped_bytes: report.extra_dropped_bytes,
        gaps: report.gaps.as_ref().map(gaps),
    }
}

pub(super) fn estimate(outcome: EstimateOutcome) -> v1::CompressionEstimate {
    let EstimateOutcome { source_format, told } = outcome;
    let estimate = told.estimate;
    v1::CompressionEstimate {
        source_format: images::format(source_format).into(),
        virtual_size_bytes: estimate.virtual_size_bytes,
        stored_bytes: estimate.stored_bytes,
        dropped_bytes: estimate.dropped_bytes,
        estimated_output_bytes: told.output_bytes_estimate,
        kept_clusters: told.kept_clusters,
        sampled_clusters: told.sampled_clusters,
        parts: estimate.parts.iter().map(part).collect(),
        kept: estimate.kept.iter().map(images::kept).collect(),
        partition_table: images::table(estimate.table),
        extra_dropped_bytes: estimate.extra_dropped_bytes,
        gaps: estimate.gaps.as_ref().map(gaps),
    }
}

pub(super) fn convert(outcome: ConvertOutcome) -> v1::ConvertResult {
    let ConvertOutcome { written, output_file, output_image, digests: made } = outcome;
    v1::ConvertResult {
        output_file: output_file.unwrap_or_default(),
        output_image: output_image.map(|id| id.to_string()).unwrap_or_default(),
        source_format: images::format(written.source_format).into(),
        format: images::format(written.format).into(),
        virtual_size_bytes: written.virtual_size_bytes,
        output_bytes: written.output_bytes,
        allocated_bytes: written.allocated_bytes,
        verified: written.verified,
        digests: made.map(digests),
    }
}

pub(super) fn copy(outcome: &CopyOutcome) -> v1::CopyResult {
    v1::CopyResult { copied_bytes: outcome.copied_bytes }
}

pub(super) fn scrub(outcome: ScrubOutcome) -> v1::ScrubResult {
    v1::ScrubResult {
        verified_blobs: outcome.verified_blobs,
        verified_bytes: outcome.verified_bytes,
        damaged_images: names(outcome.damaged_images),
    }
}

pub(super) fn import(outcome: ImportOutcome) -> v1::ImportResult {
    v1::ImportResult {
        image: outcome.image.to_string(),
        fetched_bytes: outcome.fetched_bytes,
        check_job: outcome.check_job.map(|id| id.to_string()).unwrap_or_default(),
    }
}

pub(super) fn drain(outcome: DrainOutcome) -> v1::DrainResult {
    v1::DrainResult {
        moved_images: outcome.moved_images,
        copied_bytes: outcome.copied_bytes,
        kept_images: names(outcome.kept_images),
    }
}

fn names(images: BTreeSet<ImageId>) -> Vec<String> {
    images.into_iter().map(|id| id.to_string()).collect()
}

fn part(report: &PartReport) -> v1::CompressedPart {
    let (kept_pieces, kept_piece_count) = kept_pieces(&report.part.kept);
    v1::CompressedPart {
        part: Some(images::part(&report.part)),
        dropped_bytes: report.dropped_bytes,
        kept_pieces,
        kept_piece_count,
        volumes: report.volumes.iter().take(images::PARTS_MAX).map(volume).collect(),
        extra_dropped_bytes: report.extra_dropped_bytes,
        extra: report.part.extra.as_ref().map(extra),
    }
}

fn volume(report: &VolumeReport) -> v1::CompressedVolume {
    let (kept_pieces, kept_piece_count) = kept_pieces(&report.volume.kept);
    v1::CompressedVolume {
        volume: Some(images::volume(&report.volume)),
        dropped_bytes: report.dropped_bytes,
        kept_pieces,
        kept_piece_count,
        extra_dropped_bytes: report.extra_dropped_bytes,
        extra: report.volume.extra.as_ref().map(extra),
    }
}

fn gaps(report: &GapsReport) -> v1::CompressedGaps {
    v1::CompressedGaps { extra: Some(extra(&report.summary)), dropped_bytes: report.dropped_bytes }
}

fn extra(summary: &ExtraSummary) -> v1::ExtraFigures {
    v1::ExtraFigures { bytes: summary.bytes, kept: summary.kept.iter().map(kept_extra).collect() }
}

/// Why a gain was refused. There is no count beside it: the sentence tells of how many groups.
fn kept_extra(kept: &Kept) -> v1::Reason {
    let reason = images::kept(kept);
    let message = match kept.groups {
        0 => reason.message,
        1 => format!("{} (1 group)", reason.message),
        groups => format!("{} ({groups} groups)", reason.message),
    };
    v1::Reason { message, ..reason }
}

/// Why pieces were kept, and how many.
fn kept_pieces(kept: &[Kept]) -> (Vec<v1::Reason>, u64) {
    let pieces = || kept.iter().filter(|kept| kept.groups > 0);
    (pieces().map(images::kept).collect(), pieces().map(|kept| kept.groups).sum())
}
