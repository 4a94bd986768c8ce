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
            (Self::Open, UploadEvent::Abort) => Ok(Self::Aborted),
            (Self::Aborted | Self::Failed, UploadEvent::Abort) => Ok(self),
            (Self::Open, UploadEvent::Refuse) => Ok(Self::Failed),
            _ => Err(InvalidTransition),
        }
    }

    /// Whether the upload takes no more bytes.
    pub fn is_final(self) -> bool {
        self != Self::Open
    }
}

names!(UploadState {
    Open => "open",
    Committed => "committed",
    Aborted => "aborted",
    Failed => "failed",
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_event() -> impl Strategy<Value = UploadEvent> {
        prop_oneof![
            Just(UploadEvent::Extend),
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
                    Err(InvalidTransition) => prop_assert!(state.is_final()),
                }
            }
        }
    }

    #[test]
    fn a_refused_upload_stays_refused_when_given_up() {
        assert_eq!(UploadState::Failed.after(UploadEvent::Abort), Ok(UploadState::Failed));
        assert_eq!(UploadState::Aborted.after(UploadEvent::Abort), Ok(UploadState::Aborted));
        assert_eq!(UploadState::Committed.after(UploadEvent::Abort), Err(InvalidTransition));
    }
}
