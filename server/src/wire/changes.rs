//! What clients ask of the records of images: lists and changes.

use std::collections::HashMap;

use imageops::{FieldMask, v1};
use imageops_catalogue::{ImageChange, ImageOrder};
use imageops_model::{ImageDetails, ImageId, ImageState, InvalidName, Label};

use super::facts::{facts_change, read_facts};
use super::requests::{read_all, read_format};
use crate::failure::{Failure, Result};

/// The members of an image that can be changed, in the spelling of the contract.
const CHANGEABLE: [&str; 20] = [
    "display_name",
    "description",
    "labels",
    "properties",
    "tags",
    "protected",
    "disabled",
    "facts",
    "facts.hidden",
    "facts.disk_format",
    "facts.container_format",
    "facts.min_disk_gib",
    "facts.min_ram_mib",
    "facts.media_type",
    "facts.platform",
    "facts.architecture",
    "facts.guest_os_type",
    "facts.system",
    "facts.virtio",
    "facts.origin_url",
];

pub(crate) fn read_image_order(value: i32) -> Result<ImageOrder> {
    Ok(match v1::ImageOrder::try_from(value).map_err(|_| Failure::invalid("order", "is no known order"))? {
        v1::ImageOrder::Unspecified | v1::ImageOrder::Newest => ImageOrder::Newest,
        v1::ImageOrder::Oldest => ImageOrder::Oldest,
        v1::ImageOrder::DisplayName => ImageOrder::Label,
        v1::ImageOrder::DisplayNameDesc => ImageOrder::LabelReversed,
        v1::ImageOrder::Largest => ImageOrder::Largest,
        v1::ImageOrder::Smallest => ImageOrder::Smallest,
    })
}

pub(crate) fn read_image_states(values: &[i32]) -> Result<Vec<ImageState>> {
    read_all("states", values, |value| {
        Some(match v1::ImageState::try_from(value).ok()? {
            v1::ImageState::Unspecified => return None,
            v1::ImageState::Queued => ImageState::Queued,
            v1::ImageState::Uploading => ImageState::Uploading,
            v1::ImageState::Importing => ImageState::Importing,
            v1::ImageState::Active => ImageState::Active,
            v1::ImageState::Failed => ImageState::Failed,
            v1::ImageState::Trashed => ImageState::Trashed,
            v1::ImageState::Quarantined => ImageState::Quarantined,
        })
    })
}

/// Formats as rows spell them.
pub(crate) fn read_formats(values: &[i32]) -> Result<Vec<String>> {
    read_all("formats", values, |value| {
        let format = read_format("formats", value).ok().flatten()?;
        Some(format.as_str().to_owned())
    })
}

/// The revision that an etag stands for; `None` when any will do.
pub(crate) fn read_etag(etag: &str) -> Result<Option<u64>> {
    if etag.is_empty() {
        return Ok(None);
    }
    match u64::from_str_radix(etag, 16) {
        Ok(revision) => Ok(Some(revision)),
        // Never ours, so certainly not the newest.
        Err(_) => Ok(Some(0)),
    }
}

/// The change that a request asks for.
pub(crate) fn read_image_change(image: v1::Image, mask: Option<FieldMask>) -> Result<ImageChange> {
    let paths = changed_members(&image, mask.unwrap_or_default())?;
    let changed = |name: &str| paths.contains(&name);
    let details = details(&image)?;
    details.check().map_err(|error| Failure::invalid(image_member(error.field), error.problem))?;
    let label = Label::new(image.display_name)
        .map_err(|error| Failure::invalid("image.display_name", error.to_string()))?;
    Ok(ImageChange {
        label: changed("display_name").then_some(label),
        description: changed("description").then_some(details.description),
        labels: changed("labels").then_some(details.labels),
        properties: changed("properties").then_some(details.properties),
        tags: changed("tags").then_some(details.tags),
        protected: changed("protected").then_some(details.protected),
        facts: facts_change(details.facts, &paths),
        enabled: changed("disabled").then_some(!image.disabled),
    })
}

/// The members to change: those that the mask names, or without a mask those that are not empty.
fn changed_members(image: &v1::Image, mask: FieldMask) -> Result<Vec<&'static str>> {
    if mask.paths.iter().any(|path| path == "*") {
        return Ok(CHANGEABLE.to_vec());
    }
    if mask.paths.is_empty() {
        let filled = [
            !image.display_name.is_empty(),
            !image.description.is_empty(),
            !image.labels.is_empty(),
            !image.properties.is_empty(),
            !image.tags.is_empty(),
            image.protected,
            image.disabled,
            image.facts.is_some(),
        ];
        return Ok(CHANGEABLE.into_iter().zip(filled).filter(|(_, is)| *is).map(|(name, _)| name).collect());
    }
    mask.paths
        .iter()
        .map(|path| {
            CHANGEABLE.into_iter().find(|name| name == path).ok_or_else(|| {
                let message = format!("{path:?} cannot be changed; what can: {}", CHANGEABLE.join(", "));
                Failure::invalid("update_mask", message)
            })
        })
        .collect()
}

fn details(image: &v1::Image) -> Result<ImageDetails> {
    let sorted = |texts: &HashMap<String, String>| texts.clone().into_iter().collect();
    Ok(ImageDetails {
        description: image.description.clone(),
        labels: sorted(&image.labels),
        properties: sorted(&image.properties),
        tags: image.tags.iter().cloned().collect(),
        protected: image.protected,
        facts: read_facts(image.facts.clone().unwrap_or_default())?,
    })
}

/// What is said of the record of an image to be, with the id that the client wants; refused where more is said.
pub(crate) fn read_record(image: v1::Image) -> Result<(Option<ImageId>, Label, ImageDetails)> {
    let id = match image.name.as_str() {
        "" => None,
        name => Some(
            name.parse().map_err(|error: InvalidName| Failure::invalid("image.name", error.to_string()))?,
        ),
    };
    let details = details(&image)?;
    details.check().map_err(|error| Failure::invalid(image_member(error.field), error.problem))?;
    let label = Label::new(image.display_name.clone())
        .map_err(|error| Failure::invalid("image.display_name", error.to_string()))?;
    let said = v1::Image {
        name: image.name.clone(),
        display_name: image.display_name.clone(),
        description: image.description.clone(),
        labels: image.labels.clone(),
        properties: image.properties.clone(),
        tags: image.tags.clone(),
        protected: image.protected,
        facts: image.facts.clone(),
        ..v1::Image::default()
    };
    if said != image {
        let message =
            "only what people say of an image can be given; its bytes, digests and states are the server's";
        return Err(Failure::invalid("image", message));
    }
    Ok((id, label, details))
}

/// What is said of an image while it is uploaded.
pub(crate) fn read_upload_details(metadata: &v1::UploadMetadata) -> Result<ImageDetails> {
    let sorted = |texts: &HashMap<String, String>| texts.clone().into_iter().collect();
    let details = ImageDetails {
        description: metadata.description.clone(),
        labels: sorted(&metadata.labels),
        properties: sorted(&metadata.properties),
        tags: metadata.tags.iter().cloned().collect(),
        protected: false,
        facts: read_facts(metadata.facts.clone().unwrap_or_default())?,
    };
    let field = |field: &str| match field {
        "description" => "metadata.description",
        "labels" => "metadata.labels",
        "properties" => "metadata.properties",
        "tags" => "metadata.tags",
        _ => "metadata.facts",
    };
    details.check().map_err(|error| Failure::invalid(field(error.field), error.problem))?;
    Ok(details)
}

fn image_member(field: &str) -> &'static str {
    match field {
        "description" => "image.description",
        "labels" => "image.labels",
        "properties" => "image.properties",
        "tags" => "image.tags",
        _ => "image.facts",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn image() -> v1::Image {
        v1::Image { display_name: "disk".to_owned(), tags: vec!["golden".to_owned()], ..v1::Image::default() }
    }

    fn mask(paths: &[&str]) -> Option<FieldMask> {
        Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
    }

    #[test]
    fn a_mask_says_what_changes() {
        let change = read_image_change(image(), mask(&["labels", "protected"])).unwrap();
        assert_eq!((change.labels, change.protected), (Some([].into()), Some(false)));
        assert_eq!((change.label, change.tags), (None, None));
        let all = read_image_change(image(), mask(&["*"])).unwrap();
        assert_eq!((all.enabled, all.description), (Some(true), Some(String::new())));
        let error = read_image_change(image(), mask(&["size_bytes"])).unwrap_err();
        assert!(error.message.contains("size_bytes"), "{error:?}");
    }

    #[test]
    fn sec_27_a_record_takes_nothing_that_is_the_servers() {
        let (id, label, details) = read_record(image()).unwrap();
        assert_eq!((id, label.as_str(), details.tags.len()), (None, "disk", 1));
        let named = v1::Image { name: format!("images/{}", uuid::Uuid::from_u128(7)), ..image() };
        assert!(read_record(named).unwrap().0.is_some());
        for refused in [
            v1::Image { name: "disk".to_owned(), ..image() },
            v1::Image { state: 4, ..image() },
            v1::Image { size_bytes: 1, ..image() },
            v1::Image { digests: Some(v1::Digests::default()), ..image() },
            v1::Image { replicas: vec![v1::Replica::default()], ..image() },
            v1::Image { disabled: true, ..image() },
            v1::Image { tags: vec![String::new()], ..image() },
        ] {
            assert!(read_record(refused.clone()).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn without_a_mask_what_is_filled_changes() {
        let change = read_image_change(image(), None).unwrap();
        assert_eq!(change.label, Some(Label::new("disk").unwrap()));
        assert_eq!(change.tags, Some(["golden".to_owned()].into()));
        assert_eq!((change.labels, change.enabled, change.protected), (None, None, None));
        assert_eq!(read_image_change(v1::Image::default(), mask(&[])).unwrap(), ImageChange::default());
    }

    #[test]
    fn an_etag_that_is_not_ours_is_never_the_newest() {
        assert_eq!(read_etag(""), Ok(None));
        assert_eq!(read_etag("1f"), Ok(Some(31)));
        assert_eq!(read_etag("*"), Ok(Some(0)));
    }
}
