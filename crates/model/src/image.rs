//! States of a stored image.

use serde::{Deserialize, Serialize};

use crate::job::InvalidTransition;
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

/// What can happen to a stored image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageEvent {
    /// Someone deleted it: its bytes stay for a time.
    Trash,
    /// Someone wants it back.
    Restore,
    /// It goes for good.
    Purge,
}

impl ImageState {
    /// The state after `event`; `None`: the record is gone. Deleting what is deleted, and restoring what is there, changes
    /// nothing. Only what is in the trash can be purged.
    pub fn after(self, event: ImageEvent) -> Result<Option<Self>, InvalidTransition> {
        match (self, event) {
            (Self::Active | Self::Trashed, ImageEvent::Trash) => Ok(Some(Self::Trashed)),
            (Self::Active | Self::Trashed, ImageEvent::Restore) => Ok(Some(Self::Active)),
            (Self::Trashed, ImageEvent::Purge) => Ok(None),
            _ => Err(InvalidTransition),
        }
    }
}

names!(ImageState {
    Queued => "queued",
    Uploading => "uploading",
    Importing => "importing",
    Active => "active",
    Failed => "failed",
    Trashed => "trashed",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_through_the_trash() {
        use ImageEvent::{Purge, Restore, Trash};
        assert_eq!(ImageState::Active.after(Purge), Err(InvalidTransition));
        for (event, state) in [(Trash, Some(ImageState::Trashed)), (Restore, Some(ImageState::Active))] {
            assert_eq!(ImageState::Active.after(event), Ok(state));
            assert_eq!(ImageState::Trashed.after(event), Ok(state));
        }
        assert_eq!(ImageState::Trashed.after(Purge), Ok(None));
    }

    #[test]
    fn what_has_no_bytes_is_not_kept_in_the_trash() {
        for state in [ImageState::Queued, ImageState::Uploading, ImageState::Importing, ImageState::Failed] {
            for event in [ImageEvent::Trash, ImageEvent::Restore, ImageEvent::Purge] {
                assert_eq!(state.after(event), Err(InvalidTransition));
            }
        }
    }
}
