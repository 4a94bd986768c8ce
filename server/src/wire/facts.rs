//! What an image is to those who run machines from it.

use imageops::v1;
use imageops_catalogue::FactsChange;
use imageops_model::{ImageFacts, MediaType};

use crate::failure::{Failure, Result};

pub(super) fn facts(facts: &ImageFacts) -> v1::ImageFacts {
    let media_type = match facts.media_type {
        None => v1::MediaType::Unspecified,
        Some(MediaType::RootVolumeTemplate) => v1::MediaType::RootVolumeTemplate,
        Some(MediaType::DataVolumeTemplate) => v1::MediaType::DataVolumeTemplate,
        Some(MediaType::Iso) => v1::MediaType::Iso,
    };
    v1::ImageFacts {
        hidden: facts.hidden,
        disk_format: facts.disk_format.clone(),
        container_format: facts.container_format.clone(),
        min_disk_gib: facts.min_disk_gib,
        min_ram_mib: facts.min_ram_mib,
        media_type: media_type.into(),
        platform: facts.platform.clone(),
        architecture: facts.architecture.clone(),
        guest_os_type: facts.guest_os_type.clone(),
        system: facts.system,
        virtio: facts.virtio,
        origin_url: facts.origin_url.clone(),
    }
}

/// Their limits are checked with the other details.
pub(super) fn read_facts(facts: v1::ImageFacts) -> Result<ImageFacts> {
    let media_type = match v1::MediaType::try_from(facts.media_type) {
        Ok(v1::MediaType::Unspecified) => None,
        Ok(v1::MediaType::RootVolumeTemplate) => Some(MediaType::RootVolumeTemplate),
        Ok(v1::MediaType::DataVolumeTemplate) => Some(MediaType::DataVolumeTemplate),
        Ok(v1::MediaType::Iso) => Some(MediaType::Iso),
        Err(_) => return Err(Failure::invalid("facts.media_type", "is no known type")),
    };
    Ok(ImageFacts {
        hidden: facts.hidden,
        disk_format: facts.disk_format,
        container_format: facts.container_format,
        min_disk_gib: facts.min_disk_gib,
        min_ram_mib: facts.min_ram_mib,
        media_type,
        platform: facts.platform,
        architecture: facts.architecture,
        guest_os_type: facts.guest_os_type,
        system: facts.system,
        virtio: facts.virtio,
        origin_url: facts.origin_url,
    })
}

/// Those members of the facts that the paths of a mask name: `facts` names all of them.
pub(super) fn facts_change(facts: ImageFacts, paths: &[&str]) -> FactsChange {
    let all = paths.contains(&"facts");
    let named = |member: &str| all || paths.iter().any(|path| path.strip_prefix("facts.") == Some(member));
    FactsChange {
        hidden: named("hidden").then_some(facts.hidden),
        disk_format: named("disk_format").then_some(facts.disk_format),
        container_format: named("container_format").then_some(facts.container_format),
        min_disk_gib: named("min_disk_gib").then_some(facts.min_disk_gib),
        min_ram_mib: named("min_ram_mib").then_some(facts.min_ram_mib),
        media_type: named("media_type").then_some(facts.media_type),
        platform: named("platform").then_some(facts.platform),
        architecture: named("architecture").then_some(facts.architecture),
        guest_os_type: named("guest_os_type").then_some(facts.guest_os_type),
        system: named("system").then_some(facts.system),
        virtio: named("virtio").then_some(facts.virtio),
        origin_url: named("origin_url").then_some(facts.origin_url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_member_and_the_whole_names_all() {
        let facts = ImageFacts { min_disk_gib: 7, hidden: true, ..ImageFacts::default() };
        let one = facts_change(facts.clone(), &["facts.min_disk_gib", "tags"]);
        assert_eq!(one, FactsChange { min_disk_gib: Some(7), ..FactsChange::default() });
        let all = facts_change(facts, &["facts"]);
        assert_eq!((all.hidden, all.virtio, all.platform), (Some(true), Some(None), Some(String::new())));
        assert_eq!(facts_change(ImageFacts::default(), &["tags"]), FactsChange::default());
    }
}
