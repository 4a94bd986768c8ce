//! States of a stored image.

use serde::{Deserialize, Serialize};

use crate::names::names;

/// Where a stored image is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageState {
    /// A record without bytes.
    Queued,
    /// Bytes are arriving.
    Uploading,
    /// Bytes are being fetched.
    Importing,
    /// All bytes are there, durable and verified.
    Active,
    /// The bytes never came whole.
    Failed,
    /// Deleted, can be restored.
    Trashed,
}

names!(ImageState {
    Queued => "queued",
    Uploading => "uploading",
    Importing => "importing",
    Active => "active",
    Failed => "failed",
    Trashed => "trashed",
});
