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
    /// All bytes are there, but are never handed out: they were corrupt when they came, or no longer have their digest.
    Quarantined,
    /// The bytes never came whole.
    Failed,
    /// Deleted, can be restored.
    Trashed,
}

/// What can happen to a stored image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageEvent {
    /// An upload begins to fill the record.
    Upload,
    /// An import begins to fill it.
    Import,
    /// The upload or import brought all bytes.
    Fill,
    /// It ended without them.
    Empty,
    /// Its bytes are not to be trusted.
    Quarantine,
    /// They can be trusted again.
    Release,
    /// Someone deleted it: its bytes stay for a time.
    Trash,
    /// Someone wants it back.
    Restore,
    /// It goes for good, by the way of the trash; a record without bytes goes at once.
    Purge,
    /// It goes for good at once, whatever its state.
    Discard,
}

impl ImageState {
    /// The state after `event`; `None`: the record is gone. Deleting what is deleted, and restoring or releasing what is
    /// there, changes nothing. Why an image is in quarantine outlives the trash: who restores it, quarantines it again.
    pub fn after(self, event: ImageEvent) -> Result<Option<Self>, InvalidTransition> {
        match (self, event) {
            (Self::Queued, ImageEvent::Upload) => Ok(Some(Self::Uploading)),
            (Self::Queued, ImageEvent::Import) => Ok(Some(Self::Importing)),
            (Self::Uploading | Self::Importing, ImageEvent::Fill) => Ok(Some(Self::Active)),
            (Self::Uploading | Self::Importing, ImageEvent::Empty) => Ok(Some(Self::Queued)),
            (Self::Active | Self::Quarantined, ImageEvent::Quarantine) => Ok(Some(Self::Quarantined)),
            (Self::Active | Self::Quarantined, ImageEvent::Release) => Ok(Some(Self::Active)),
            (Self::Active | Self::Quarantined | Self::Trashed, ImageEvent::Trash) => Ok(Some(Self::Trashed)),
            (Self::Active | Self::Trashed, ImageEvent::Restore) => Ok(Some(Self::Active)),
            (Self::Quarantined, ImageEvent::Restore) => Ok(Some(Self::Quarantined)),
            (Self::Queued | Self::Trashed, ImageEvent::Purge) | (_, ImageEvent::Discard) => Ok(None),
            _ => Err(InvalidTransition),
        }
    }
}

names!(ImageState {
    Queued => "queued",
    Uploading => "uploading",
    Importing => "importing",
    Active => "active",
    Quarantined => "quarantined",
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
            for event in [ImageEvent::Trash, ImageEvent::Restore, ImageEvent::Quarantine] {
                assert_eq!(state.after(event), Err(InvalidTransition));
            }
        }
        assert_eq!(ImageState::Queued.after(ImageEvent::Purge), Ok(None));
        assert_eq!(ImageState::Uploading.after(ImageEvent::Purge), Err(InvalidTransition));
    }

    #[test]
    fn an_upload_or_import_fills_a_record_or_leaves_it_empty() {
        use ImageEvent::{Empty, Fill, Import, Upload};
        for (begin, state) in [(Upload, ImageState::Uploading), (Import, ImageState::Importing)] {
            assert_eq!(ImageState::Queued.after(begin), Ok(Some(state)));
            assert_eq!(state.after(Fill), Ok(Some(ImageState::Active)));
            assert_eq!(state.after(Empty), Ok(Some(ImageState::Queued)));
            for state in ImageState::ALL.iter().filter(|state| **state != ImageState::Queued) {
                assert_eq!(state.after(begin), Err(InvalidTransition), "{state:?}");
            }
        }
    }

    #[test]
    fn only_bytes_that_are_there_go_into_quarantine_and_come_back() {
        use ImageEvent::{Quarantine, Release, Restore, Trash};
        assert_eq!(ImageState::Active.after(Quarantine), Ok(Some(ImageState::Quarantined)));
        assert_eq!(ImageState::Quarantined.after(Release), Ok(Some(ImageState::Active)));
        assert_eq!(ImageState::Quarantined.after(Trash), Ok(Some(ImageState::Trashed)));
        assert_eq!(ImageState::Quarantined.after(Restore), Ok(Some(ImageState::Quarantined)));
        assert_eq!(ImageState::Trashed.after(Quarantine), Err(InvalidTransition));
        assert_eq!(ImageState::Trashed.after(Release), Err(InvalidTransition));
    }

    #[test]
    fn whatever_is_there_can_go_at_once() {
        for state in ImageState::ALL {
            assert_eq!(state.after(ImageEvent::Discard), Ok(None));
        }
    }
}
