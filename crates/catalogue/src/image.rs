//! An image, and where its bytes are.

use imageops_model::{
    CompanionKind, ImageDetails, ImageId, ImageState, JobFailure, JobId, Label, Micros, ReplicaState,
    StoreId, Tenant, UploadId,
};

/// A stored image, or the record of one to be.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageRow {
    /// Id.
    pub id: ImageId,
    /// Owner.
    pub tenant: Tenant,
    /// Label.
    pub label: Label,
    /// State.
    pub state: ImageState,
    /// Format by content, in the engine's spelling; empty while there are no bytes.
    pub format: String,
    /// Length of the stored file; 0 while there are no bytes.
    pub size_bytes: u64,
    /// Size that the guest sees.
    pub virtual_size_bytes: Option<u64>,
    /// Digest of the stored bytes, lower-case hexadecimal; empty while there are no bytes.
    pub md5: String,
    /// See `md5`.
    pub sha256: String,
    /// Digest of the stored bytes, lower-case hexadecimal, where it was taken.
    pub sha512: Option<String>,
    /// CRC-32 of the stored bytes, where it was taken.
    pub crc32: Option<u32>,
    /// Where the bytes are: the oldest copy first, at most one in each store.
    pub replicas: Vec<Replica>,
    /// Image that this one was made from.
    pub derived_from: Option<ImageId>,
    /// The image that this one stands beside, and goes with.
    pub companion: Option<Companion>,
    /// Last use of a cached conversion.
    pub use_time: Option<Micros>,
    /// What people say of it.
    pub details: ImageDetails,
    /// Whether its bytes are handed out.
    pub enabled: bool,
    /// Why it is in quarantine; stays while it lies in the trash.
    pub quarantine: Option<JobFailure>,
    /// Its newest check.
    pub check: Option<LastCheck>,
    /// Its newest slimming.
    pub slim: Option<LastSlim>,
    /// The open upload that fills it, in state uploading.
    pub upload: Option<UploadId>,
    /// Grows with every change of what is said here, but for checks, slimmings, uses and times of copies; 1 at first.
    pub revision: u64,
    /// When the record was made.
    pub create_time: Micros,
    /// When it last got a new revision.
    pub update_time: Micros,
    /// When it was deleted, in state trashed.
    pub trash_time: Option<Micros>,
    /// When it goes for good, in state trashed.
    pub purge_time: Option<Micros>,
}

impl ImageRow {
    /// The copy to read from when any will do.
    pub fn ready_replica(&self) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.state == ReplicaState::Ready)
    }
}

/// A copy of an image's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Store that holds it.
    pub store: StoreId,
    /// Key of the bytes in that store; other images of the tenant may name the same.
    pub blob: String,
    /// What it is.
    pub state: ReplicaState,
    /// When it was made.
    pub create_time: Micros,
    /// When its state last changed.
    pub update_time: Micros,
    /// When all of its bytes last had their digest, after they came.
    pub verify_time: Option<Micros>,
}

/// What a hidden image is to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// The other one; never a companion itself.
    pub of: ImageId,
    /// What it is.
    pub kind: CompanionKind,
    /// What it is found by, unique within the tenant.
    pub key: Option<String>,
}

/// The newest check of an image. While it runs, result, failure and time are those of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// The newest check job.
    pub job: JobId,
    /// Result as JSON; its form is the server's.
    pub result: Option<String>,
    /// Why there is none.
    pub failure: Option<JobFailure>,
    /// When a check last ended.
    pub time: Option<Micros>,
}

/// The newest slimming of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastSlim {
    /// The newest slimming job.
    pub job: JobId,
    /// The slim companion; while a newer one is made, the one before.
    pub image: Option<ImageId>,
    /// Why the newest job made none.
    pub failure: Option<JobFailure>,
    /// When a slimming last ended.
    pub time: Option<Micros>,
}
