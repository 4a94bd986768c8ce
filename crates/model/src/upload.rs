//! States of an upload.

use serde::{Deserialize, Serialize};

use crate::job::InvalidTransition;

/// Where an upload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// Takes bytes.
    Open,
    /// Became an image.
    Committed,
    /// Given up on request, or expired.
    Aborted,
    /// Refused: the bytes were unsafe, invalid, or not those that were promised.
    Failed,
}

/// What can happen to an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UploadEvent {
    /// Bytes became durable.
    Extend,
    /// The image was made.
    Commit,
    /// Someone gave it up, or its time was over.
    Abort,
    /// The bytes were refused.
    Refuse,
}

impl UploadState {
    /// The state after `event`. Aborting what is aborted or failed changes nothing.
    pub fn after(self, event: UploadEvent) -> Result<Self, InvalidTransition> {
        match (self, event) {
            (Self::Open, UploadEvent::Extend) => Ok(Self::Open),
            (Self::Open, UploadEvent::Commit) => Ok(Self::Committed),
            (Self::Open | Self::Aborted | Self::Failed, UploadEvent::Abort) => Ok(Self::Aborted),
            (Self::Open, UploadEvent::Refuse) => Ok(Self::Failed),
            _ => Err(InvalidTransition),
        }
    }

    /// Whether the upload takes no more bytes.
    pub fn is_final(self) -> bool {
        self != Self::Open
    }
}
