//! What is asked of images: lists and changes.

use std::collections::{BTreeMap, BTreeSet};

use imageops_model::{CompanionKind, ImageDetails, ImageFacts, ImageState, Label, MediaType};
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
    /// Hidden ones, or those that are not; `None`: both.
    pub hidden: Option<bool>,
    /// Companions of this kind, and nothing else; `None`: no companions.
    pub companions: Option<CompanionKind>,
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
    /// See [`ImageFacts`].
    pub facts: FactsChange,
}

/// What of the facts of an image is to be changed; what is `None` stays. For each field see [`ImageFacts`].
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each is the field of the same name")]
pub struct FactsChange {
    pub hidden: Option<bool>,
    pub disk_format: Option<String>,
    pub container_format: Option<String>,
    pub min_disk_gib: Option<u32>,
    pub min_ram_mib: Option<u32>,
    pub media_type: Option<Option<MediaType>>,
    pub platform: Option<String>,
    pub architecture: Option<String>,
    pub guest_os_type: Option<String>,
    pub system: Option<bool>,
    pub virtio: Option<Option<bool>>,
    pub origin_url: Option<String>,
}

impl FactsChange {
    fn apply(self, before: ImageFacts) -> ImageFacts {
        ImageFacts {
            hidden: self.hidden.unwrap_or(before.hidden),
            disk_format: self.disk_format.unwrap_or(before.disk_format),
            container_format: self.container_format.unwrap_or(before.container_format),
            min_disk_gib: self.min_disk_gib.unwrap_or(before.min_disk_gib),
            min_ram_mib: self.min_ram_mib.unwrap_or(before.min_ram_mib),
            media_type: self.media_type.unwrap_or(before.media_type),
            platform: self.platform.unwrap_or(before.platform),
            architecture: self.architecture.unwrap_or(before.architecture),
            guest_os_type: self.guest_os_type.unwrap_or(before.guest_os_type),
            system: self.system.unwrap_or(before.system),
            virtio: self.virtio.unwrap_or(before.virtio),
            origin_url: self.origin_url.unwrap_or(before.origin_url),
        }
    }
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
                facts: self.facts.apply(before.facts),
            },
            enabled: self.enabled.unwrap_or(row.enabled),
            ..row.clone()
        }
    }
}
