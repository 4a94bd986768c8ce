//! The catalogue: images, uploads, jobs, stores, quotas and keys, in an SQL database.
//!
//! [`Catalogue`] is the one door; [`sqlite`] and [`postgres`] stand behind it, and both pass the same suite. It knows
//! nothing of bytes, stores, protobuf or HTTP, and has no clock and no randomness: moments and ids are handed in.
//! Every row belongs to a tenant, and every query names it: rows of another tenant answer like rows that do not exist.

#![allow(
    clippy::duplicate_mod,
    reason = "`sqlite` and `postgres` each have the steps of `src/sql`, compiled for their own connection"
)]

mod catalogue;
mod error;
mod image;
mod images;
mod jobs;
mod keys;
pub mod legacy;
mod lists;
pub mod postgres;
mod rows;
mod search;
pub mod sqlite;
mod stores;
#[cfg(test)]
mod suite;
mod turn;
mod uploads;
mod usage;

pub use catalogue::Catalogue;
pub use error::{Error, Result};
pub use image::{Companion, ImageRow, LastCheck, LastSlim, Replica};
pub use images::{FactsChange, ImageChange, ImageCursor, ImageFilter, ImageOrder, ImagePage, SortKey};
pub use jobs::{Heartbeat, JobCounts, JobOutcome, JobRow, Join, Lease, NewJob, RequestKey};
pub use keys::{KeyProof, KeyRow};
pub use lists::{Created, Cursor, Page};
pub use postgres::PostgresCatalogue;
pub use sqlite::SqliteCatalogue;
pub use stores::{BlobToVerify, Conversions, Damage, StoreChange, StoreRow, StoreUsage};
pub use uploads::{Committed, UploadPart, UploadRow};
pub use usage::{Quota, Usage};
