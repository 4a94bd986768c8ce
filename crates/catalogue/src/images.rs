//! What is asked of images: lists and changes.

use std::collections::{BTreeMap, BTreeSet};

use imageops_model::{ImageDetails, ImageState, Label};
use uuid::Uuid;

use crate::ImageRow;

/// Which images are wanted; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageFilter {
    /// In one of these states; none: in all but the trash.
    pub states: Vec<ImageState>,
    /// Of one of these formats, in the engine's spelling; none: of all.
    pub formats: Vec<String>,
    /// With exactly this label.
    pub label: Option<Label>,
    /// With all of these labels, key and value.
    pub labels: BTreeMap<String, String>,
    /// With all of these tags.
    pub tags: BTreeSet<String>,
}

/// The order of a list; rows that are equal in it follow their id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageOrder {
    /// By creation time, descending.
    #[default]
    Newest,
    /// By creation time, ascending.
    Oldest,
    /// By label, ascending, by the bytes of its UTF-8.
    Label,
    /// By label, descending.
    LabelReversed,
    /// By stored size, descending.
    Largest,
    /// By stored size, ascending.
    Smallest,
}

/// A page of a list of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImagePage {
    /// The order.
    pub order: ImageOrder,
    /// At most so many, 1 to 1,001.
    pub limit: u32,
    /// Only rows behind this one; its key must be of the order's kind.
    pub after: Option<ImageCursor>,
}

/// The place of an image in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCursor {
    /// What the list is ordered by.
    pub key: SortKey,
    /// Id of the row.
    pub id: Uuid,
}

/// A value that a list is ordered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SortKey {
    /// A time in microseconds, or a size in bytes.
    Number(i64),
    /// A label.
    Text(String),
}

impl ImageOrder {
    /// The place of a row in this order.
    pub fn cursor(self, row: &ImageRow) -> ImageCursor {
        let key = match self {
            Self::Newest | Self::Oldest => SortKey::Number(row.create_time.0),
            Self::Label | Self::LabelReversed => SortKey::Text(row.label.as_str().to_owned()),
            // A size that a row holds fits.
            Self::Largest | Self::Smallest => {
                SortKey::Number(i64::try_from(row.size_bytes).unwrap_or(i64::MAX))
            }
        };
        ImageCursor { key, id: row.id.0 }
    }
}

/// What of an image is to be changed; what is `None` stays. A map or set replaces the one before whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageChange {
    /// Its label.
    pub label: Option<Label>,
    /// See [`ImageDetails`].
    pub description: Option<String>,
    /// See [`ImageDetails`].
    pub labels: Option<BTreeMap<String, String>>,
    /// See [`ImageDetails`].
    pub properties: Option<BTreeMap<String, String>>,
    /// See [`ImageDetails`].
    pub tags: Option<BTreeSet<String>>,
    /// See [`ImageDetails`].
    pub protected: Option<bool>,
    /// Whether its bytes are handed out.
    pub enabled: Option<bool>,
}

impl ImageChange {
    /// The row as it would be.
    pub(crate) fn apply(self, row: &ImageRow) -> ImageRow {
        let before = row.details.clone();
        ImageRow {
            label: self.label.unwrap_or_else(|| row.label.clone()),
            details: ImageDetails {
                description: self.description.unwrap_or(before.description),
                labels: self.labels.unwrap_or(before.labels),
                properties: self.properties.unwrap_or(before.properties),
                tags: self.tags.unwrap_or(before.tags),
                protected: self.protected.unwrap_or(before.protected),
            },
            enabled: self.enabled.unwrap_or(row.enabled),
            ..row.clone()
        }
    }
}
