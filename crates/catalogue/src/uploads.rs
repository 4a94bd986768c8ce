//! Uploads and their parts.

use imageops_model::{
    Archive, ImageDetails, ImageId, JobFailure, Label, Micros, StoreId, Tenant, UploadId, UploadState,
    UploadWishes,
};

use crate::{ImageRow, JobRow};

/// An upload.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadRow {
    /// Id: the client's `request_id`.
    pub id: UploadId,
    /// Owner.
    pub tenant: Tenant,
    /// State.
    pub state: UploadState,
    /// Label of the image to be.
    pub label: Label,
    /// What is said of the image to be.
    pub details: ImageDetails,
    /// Format that the client declared, in the engine's spelling.
    pub declared_format: Option<String>,
    /// Length that the client declared.
    pub size_bytes: Option<u64>,
    /// Digests that the client promised, lower-case hexadecimal.
    pub expected_md5: Option<String>,
    /// See `expected_md5`.
    pub expected_sha256: Option<String>,
    /// Store that the bytes go to; `None`: the default one.
    pub store: Option<StoreId>,
    /// What it is a part of.
    pub part: Option<UploadPart>,
    /// Session whose parts it joins.
    pub composes: Option<String>,
    /// The image record that it fills; `None`: it makes one.
    pub record: Option<ImageId>,
    /// What the bytes are wrapped in.
    pub archive: Option<Archive>,
    /// What the client asks for beside the image.
    pub wishes: UploadWishes,
    /// Bytes from the start that are durable.
    pub durable_bytes: u64,
    /// Bytes of the quota that it holds, those of the parts that it joins not counted; the catalogue's own figure.
    pub reserved_bytes: u64,
    /// The image, once committed.
    pub image: Option<ImageId>,
    /// Stable code, sentence for people: why it failed.
    pub failure: Option<JobFailure>,
    /// When it began.
    pub create_time: Micros,
    /// When it last changed, mostly: when bytes last became durable.
    pub update_time: Micros,
    /// When it is given up.
    pub expire_time: Micros,
}

impl UploadRow {
    /// Whether its bytes are those of a part, whose place may still have to be told.
    pub fn is_part(&self) -> bool {
        self.part.is_some() || self.wishes.becomes_part
    }
}

/// The place of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPart {
    /// The client's name of what it is a part of, unique within the tenant.
    pub session: String,
    /// Its number; parts are joined in the order of their numbers.
    pub number: u32,
}

/// What came of an upload.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The upload, committed.
    pub upload: UploadRow,
    /// The image.
    pub image: ImageRow,
    /// The check that was queued with it.
    pub check_job: Option<JobRow>,
    /// Parts whose staged bytes can go.
    pub discard: Vec<UploadId>,
}
