//! Images, uploads and what the inspector says.

use imageops::v1;
use imageops_catalogue::{ImageRow, Replica, UploadRow};
use imageops_image::format::Format;
use imageops_image::format::qcow2::{Compression, Encryption};
use imageops_image::guest::{Kept, PartSummary, TableKind, VolumeSummary};
use imageops_image::inspect::{Inspection, Qcow2Summary, Reason, Verdict};
use imageops_model::{Archive, ImageState, JobFailure, ReplicaState, UploadState};

use super::facts::facts;
use super::timestamp;

/// Parts of a guest's disk, and volumes of a part, that an answer lists.
pub(super) const PARTS_MAX: usize = 256;

pub(crate) fn format(format: Format) -> v1::ImageFormat {
    use v1::ImageFormat;
    match format {
        Format::Raw => ImageFormat::Raw,
        Format::Qcow2 => ImageFormat::Qcow2,
        Format::Qcow1 => ImageFormat::Qcow,
        Format::Qed => ImageFormat::Qed,
        Format::Vmdk => ImageFormat::Vmdk,
        Format::Vhd => ImageFormat::Vhd,
        Format::Vhdx => ImageFormat::Vhdx,
        Format::Vdi => ImageFormat::Vdi,
        Format::Parallels => ImageFormat::Parallels,
        Format::Luks => ImageFormat::Luks,
        Format::Iso => ImageFormat::Iso,
        _ => ImageFormat::Other,
    }
}

/// A format as a row keeps it.
fn stored_format(name: &str) -> i32 {
    name.parse().map_or(v1::ImageFormat::Other, format).into()
}

/// An image.
pub(crate) fn image(row: &ImageRow) -> v1::Image {
    let state = match row.state {
        ImageState::Queued => v1::ImageState::Queued,
        ImageState::Uploading => v1::ImageState::Uploading,
        ImageState::Importing => v1::ImageState::Importing,
        ImageState::Active => v1::ImageState::Active,
        ImageState::Failed => v1::ImageState::Failed,
        ImageState::Trashed => v1::ImageState::Trashed,
        ImageState::Quarantined => v1::ImageState::Quarantined,
    };
    v1::Image {
        name: row.id.to_string(),
        display_name: row.label.to_string(),
        state: state.into(),
        format: stored_format(&row.format),
        size_bytes: row.size_bytes,
        virtual_size_bytes: row.virtual_size_bytes,
        digests: Some(v1::Digests {
            md5: row.md5.clone(),
            sha256: row.sha256.clone(),
            sha512: row.sha512.clone().unwrap_or_default(),
            crc32: row.crc32,
        }),
        derived_from: row.derived_from.map(|id| id.to_string()).unwrap_or_default(),
        create_time: Some(timestamp(row.create_time)),
        update_time: Some(timestamp(row.update_time)),
        etag: format!("{:x}", row.revision),
        description: row.details.description.clone(),
        labels: row.details.labels.clone().into_iter().collect(),
        properties: row.details.properties.clone().into_iter().collect(),
        tags: row.details.tags.iter().cloned().collect(),
        protected: row.details.protected,
        disabled: !row.enabled,
        delete_time: row.trash_time.map(timestamp),
        purge_time: row.purge_time.map(timestamp),
        replicas: row.replicas.iter().map(replica).collect(),
        companion_of: row.companion.as_ref().map(|companion| companion.of.to_string()).unwrap_or_default(),
        quarantine: row.quarantine.as_ref().map(failure),
        upload: row.upload.map(|id| id.to_string()).unwrap_or_default(),
        facts: Some(facts(&row.details.facts)),
    }
}

fn replica(replica: &Replica) -> v1::Replica {
    let state = match replica.state {
        ReplicaState::Arriving => v1::ReplicaState::Arriving,
        ReplicaState::Ready => v1::ReplicaState::Ready,
        ReplicaState::Trashed => v1::ReplicaState::Trashed,
        ReplicaState::Damaged => v1::ReplicaState::Damaged,
    };
    v1::Replica {
        store: replica.store.to_string(),
        state: state.into(),
        create_time: Some(timestamp(replica.create_time)),
        verify_time: replica.verify_time.map(timestamp),
    }
}

fn failure(failure: &JobFailure) -> v1::Reason {
    v1::Reason { code: failure.reason.clone(), message: failure.message.clone(), ..v1::Reason::default() }
}

/// An upload.
pub(crate) fn upload(row: &UploadRow) -> v1::Upload {
    let state = match row.state {
        UploadState::Open => v1::UploadState::Open,
        UploadState::Committed => v1::UploadState::Committed,
        UploadState::Aborted => v1::UploadState::Aborted,
        UploadState::Failed => v1::UploadState::Failed,
        UploadState::Stored => v1::UploadState::Stored,
    };
    v1::Upload {
        name: row.id.to_string(),
        state: state.into(),
        display_name: row.label.to_string(),
        declared_format: row.declared_format.as_deref().map(stored_format).unwrap_or_default(),
        size_bytes: row.size_bytes,
        durable_bytes: row.durable_bytes,
        image: row.image.map(|id| id.to_string()).unwrap_or_default(),
        error: row.failure.as_ref().map(failure),
        create_time: Some(timestamp(row.create_time)),
        update_time: Some(timestamp(row.update_time)),
        expire_time: Some(timestamp(row.expire_time)),
        session: row
            .part
            .as_ref()
            .map(|part| &part.session)
            .or(row.composes.as_ref())
            .cloned()
            .unwrap_or_default(),
        part: row.part.as_ref().map_or(0, |part| part.number),
        store: row.store.map(|id| id.to_string()).unwrap_or_default(),
        archive: match row.archive {
            Some(Archive::Zip) => v1::Archive::Zip.into(),
            Some(Archive::Gzip) => v1::Archive::Gzip.into(),
            Some(Archive::Xz) => v1::Archive::Xz.into(),
            Some(Archive::Zstd) => v1::Archive::Zstd.into(),
            None => v1::Archive::Unspecified.into(),
        },
    }
}

/// What the inspector says.
pub(crate) fn inspection(inspection: Inspection) -> v1::Inspection {
    let verdict = match inspection.verdict {
        Verdict::Valid => v1::Verdict::Valid,
        Verdict::Corrupt => v1::Verdict::Corrupt,
        Verdict::Invalid => v1::Verdict::Invalid,
        Verdict::Unsafe => v1::Verdict::Unsafe,
        Verdict::Unsupported => v1::Verdict::Unsupported,
    };
    let layout = inspection.layout;
    v1::Inspection {
        verdict: verdict.into(),
        reasons: inspection.reasons.into_iter().map(reason).collect(),
        format: format(inspection.format).into(),
        virtual_size_bytes: inspection.virtual_size_bytes,
        file_size_bytes: inspection.file_size_bytes,
        allocated_bytes: inspection.allocated_bytes,
        qcow2: inspection.qcow2.map(qcow2),
        partition_table: layout.as_ref().map(|layout| table(layout.table)).unwrap_or_default(),
        parts: layout.iter().flat_map(|layout| layout.parts.iter().take(PARTS_MAX)).map(part).collect(),
        kept: layout.iter().flat_map(|layout| layout.kept.iter()).map(kept).collect(),
    }
}

pub(super) fn table(table: Option<TableKind>) -> String {
    match table {
        Some(TableKind::Gpt) => "gpt".to_owned(),
        Some(TableKind::Mbr) => "mbr".to_owned(),
        None => String::new(),
    }
}

pub(super) fn reason(reason: Reason) -> v1::Reason {
    v1::Reason {
        code: reason.code,
        message: reason.message,
        offset_bytes: reason.offset_bytes,
        field: reason.field.unwrap_or_default(),
    }
}

pub(super) fn kept(kept: &Kept) -> v1::Reason {
    v1::Reason { code: kept.reason.clone(), message: kept.message.clone(), ..v1::Reason::default() }
}

/// The reason that is about all of something: one without groups.
fn whole(kept: &[Kept]) -> Option<&Kept> {
    kept.iter().find(|kept| kept.groups == 0)
}

/// What is inside, as the contract says it.
fn file_system(content: &str) -> String {
    if content == "unknown" { String::new() } else { content.to_owned() }
}

pub(super) fn part(part: &PartSummary) -> v1::GuestPart {
    let whole = whole(&part.kept);
    v1::GuestPart {
        index: part.index,
        offset_bytes: part.start_bytes,
        length_bytes: part.length_bytes,
        partition_type: part.type_id.clone().unwrap_or_default(),
        file_system: file_system(&part.content),
        free_bytes: whole.is_none().then_some(part.free_bytes),
        kept: whole.map(kept),
        label: part.label.clone().unwrap_or_default(),
        partition_name: part.name.clone().unwrap_or_default(),
        volumes: part.volumes.iter().take(PARTS_MAX).map(volume).collect(),
    }
}

pub(super) fn volume(volume: &VolumeSummary) -> v1::GuestVolume {
    let whole = whole(&volume.kept);
    v1::GuestVolume {
        volume_name: volume.name.clone(),
        length_bytes: volume.length_bytes,
        file_system: file_system(&volume.content),
        free_bytes: whole.is_none().then_some(volume.free_bytes),
        kept: whole.map(kept),
        label: volume.label.clone().unwrap_or_default(),
    }
}

fn qcow2(summary: Qcow2Summary) -> v1::Qcow2Summary {
    v1::Qcow2Summary {
        version: summary.version,
        cluster_size_bytes: u32::try_from(summary.cluster_size_bytes).unwrap_or(u32::MAX),
        refcount_bits: summary.refcount_bits,
        compression: match summary.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        }
        .to_owned(),
        extended_l2: summary.extended_l2,
        dirty: summary.dirty,
        corrupt: summary.corrupt,
        lazy_refcounts: summary.lazy_refcounts,
        encryption: match summary.encryption {
            None => "none",
            Some(Encryption::Aes) => "aes",
            Some(Encryption::Luks) => "luks",
        }
        .to_owned(),
        snapshots: summary
            .snapshots
            .into_iter()
            .map(|snapshot| v1::Snapshot {
                id: snapshot.id,
                display_name: snapshot.name,
                vm_state_size_bytes: snapshot.vm_state_size_bytes,
            })
            .collect(),
        snapshot_count: summary.snapshot_count,
    }
}
