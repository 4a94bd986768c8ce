//! Ids, digests, states and state machines: what every part of the service agrees on.
//!
//! No I/O, no clock, no randomness, no async: the state machines run in a seeded simulator. Times are [`Micros`] handed in
//! by the caller; random ids are made elsewhere and only carried here.

mod compression;
mod details;
mod facts;
mod id;
mod image;
mod job;
mod label;
mod names;
mod store;
mod tenant;
mod time;
mod upload;

pub use compression::{CompressionChoice, Effort, ExtraChoice, NamedLevel};
pub use details::{ImageDetails, InvalidDetail};
pub use facts::{ImageFacts, MediaType};
pub use id::{ImageId, InvalidName, JobId, KeyId, StoreId, UploadId};
pub use image::{ImageEvent, ImageState};
pub use job::{
    CheckSpec, CompressSpec, ConvertSpec, CopySpec, DrainSpec, EstimateSpec, ImportSpec, InvalidTransition,
    JobEvent, JobFailure, JobKind, JobPhase, JobProgress, JobSpec, JobState, Lane, ScrubSpec, Source,
    SourceUrl,
};
pub use label::{InvalidLabel, Label};
pub use store::{CompanionKind, ReplicaState, StoreKind, StoreState};
pub use tenant::{InvalidTenant, Scope, Tenant};
pub use time::Micros;
pub use upload::{Archive, UploadEvent, UploadState, UploadWishes};
