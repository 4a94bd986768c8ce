//! States of an upload.

use serde::{Deserialize, Serialize};

use crate::job::InvalidTransition;
use crate::names::names;

/// Where an upload is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// Takes bytes.
    Open,
    /// Whole, as a part of something larger; waits to be composed.
    Stored,
    /// Became an image, or a part of one.
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
    /// The part is whole.
    Store,
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
            (Self::Open, UploadEvent::Store) => Ok(Self::Stored),
            (Self::Open | Self::Stored, UploadEvent::Commit) => Ok(Self::Committed),
            (Self::Open | Self::Stored, UploadEvent::Abort) => Ok(Self::Aborted),
            (Self::Aborted | Self::Failed, UploadEvent::Abort) => Ok(self),
            (Self::Open, UploadEvent::Refuse) => Ok(Self::Failed),
            _ => Err(InvalidTransition),
        }
    }

    /// Whether the upload has ended: its staged bytes are no longer wanted.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Open | Self::Stored)
    }
}

/// What the bytes of an upload are wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Archive {
    /// A zip file with the image in it.
    Zip,
    /// Packed by gzip.
    Gzip,
    /// Packed by xz.
    Xz,
    /// Packed by zstd.
    Zstd,
}

/// What the client of an upload asks for beside the image. Rows keep it: what came later is absent in older ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UploadWishes {
    /// Takes an image whose structures contradict each other, into quarantine.
    pub accept_corrupt: bool,
    /// Whether a check follows; `None`: as the server is configured.
    pub check: Option<bool>,
    /// Whether SHA-512 is taken as well.
    pub sha512: bool,
    /// It is a part whose place is told behind its bytes.
    pub becomes_part: bool,
    /// Its bytes are fetched by a job, and by nobody else.
    pub import: bool,
    /// SHA-512 that the bytes must have, in lower-case hexadecimal.
    pub expected_sha512: Option<String>,
    /// CRC-32 that the bytes must have.
    pub expected_crc32: Option<u32>,
}

mod state_names {
    use super::{UploadState, names};

    names!(UploadState {
        Open => "open",
        Stored => "stored",
        Committed => "committed",
        Aborted => "aborted",
        Failed => "failed",
    });
}

mod archive_names {
    use super::{Archive, names};

    names!(Archive {
        Zip => "zip",
        Gzip => "gzip",
        Xz => "xz",
        Zstd => "zstd",
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_event() -> impl Strategy<Value = UploadEvent> {
        prop_oneof![
            Just(UploadEvent::Extend),
            Just(UploadEvent::Store),
            Just(UploadEvent::Commit),
            Just(UploadEvent::Abort),
            Just(UploadEvent::Refuse),
        ]
    }

    proptest! {
        #[test]
        fn an_upload_ends_once(events in prop::collection::vec(any_event(), 0..40)) {
            let mut state = UploadState::Open;
            for event in events {
                match state.after(event) {
                    Ok(next) => {
                        prop_assert!(!state.is_final() || next == state, "left {state:?} by {event:?}");
                        state = next;
                    }
                    Err(InvalidTransition) => prop_assert!(state != UploadState::Open),
                }
            }
        }
    }

    #[test]
    fn a_part_waits_until_it_is_composed_or_given_up() {
        assert_eq!(UploadState::Open.after(UploadEvent::Store), Ok(UploadState::Stored));
        for event in [UploadEvent::Extend, UploadEvent::Store, UploadEvent::Refuse] {
            assert_eq!(UploadState::Stored.after(event), Err(InvalidTransition));
        }
        assert_eq!(UploadState::Stored.after(UploadEvent::Commit), Ok(UploadState::Committed));
        assert_eq!(UploadState::Stored.after(UploadEvent::Abort), Ok(UploadState::Aborted));
        assert!(!UploadState::Stored.is_final());
    }

    #[test]
    fn wishes_of_an_older_row_are_none() {
        assert_eq!(serde_json::from_str::<UploadWishes>("{}").ok(), Some(UploadWishes::default()));
    }

    #[test]
    fn a_refused_upload_stays_refused_when_given_up() {
        assert_eq!(UploadState::Failed.after(UploadEvent::Abort), Ok(UploadState::Failed));
        assert_eq!(UploadState::Aborted.after(UploadEvent::Abort), Ok(UploadState::Aborted));
        assert_eq!(UploadState::Committed.after(UploadEvent::Abort), Err(InvalidTransition));
    }
}
