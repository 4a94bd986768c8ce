//! Ids, digests, states and state machines: what every part of the service agrees on.
//!
//! No I/O, no clock, no randomness, no async: the state machines run in a seeded simulator. Times are [`Micros`] handed in
//! by the caller; random ids are made elsewhere and only carried here.

mod compression;
mod details;
mod id;
mod image;
mod job;
mod label;
mod names;
mod tenant;
mod time;
mod upload;

pub use compression::{CompressionChoice, Effort, ExtraChoice, NamedLevel};
pub use details::{ImageDetails, InvalidDetail};
pub use id::{ImageId, InvalidName, JobId, KeyId, StoreId, UploadId};
pub use image::{ImageEvent, ImageState};
pub use job::{
    CheckSpec, CompressSpec, EstimateSpec, InvalidTransition, JobEvent, JobFailure, JobKind, JobPhase,
    JobProgress, JobSpec, JobState, Source,
};
pub use label::{InvalidLabel, Label};
pub use tenant::{InvalidTenant, Scope, Tenant};
pub use time::Micros;
pub use upload::{UploadEvent, UploadState};
