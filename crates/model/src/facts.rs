//! What the views say of an image beside its bytes and its texts.

use serde::{Deserialize, Serialize};

use crate::details::{InvalidDetail, invalid, no_nul, within};
use crate::names::names;

/// Longest name of a format in Glance's vocabulary, in characters.
const FORMAT_CHARACTERS_MAX: usize = 20;
/// Longest platform, architecture, or type of a guest system, in characters.
const WORD_CHARACTERS_MAX: usize = 255;
/// Longest address, in characters.
const URL_CHARACTERS_MAX: usize = 1024;

/// What may be made from an image (ZStack).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaType {
    /// The root volume of a machine.
    RootVolumeTemplate,
    /// A further volume.
    DataVolumeTemplate,
    /// Nothing: it is an installation medium.
    Iso,
}

/// What the views say of an image beside its bytes, checked against their limits. Rows keep it: what came later is absent in
/// older ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageFacts {
    /// Left out of Glance's lists unless asked for.
    pub hidden: bool,
    /// Format of the disk in Glance's vocabulary; empty: not said.
    pub disk_format: String,
    /// Format of the container in Glance's vocabulary; empty: not said.
    pub container_format: String,
    /// Smallest disk that a machine needs for it.
    pub min_disk_gib: u32,
    /// Smallest memory that a machine needs for it.
    pub min_ram_mib: u32,
    /// What may be made from it.
    pub media_type: Option<MediaType>,
    /// Family of guest systems: `Linux`, `Windows`; empty: not said.
    pub platform: String,
    /// Processor: `x86_64`, `aarch64`; empty: not said.
    pub architecture: String,
    /// Guest system, free text.
    pub guest_os_type: String,
    /// For appliance machines only.
    pub system: bool,
    /// Whether the guest knows paravirtual devices; `None`: as its platform.
    pub virtio: Option<bool>,
    /// Where the bytes came from; empty: uploaded.
    pub origin_url: String,
}

impl ImageFacts {
    /// Refuses what goes past a limit or cannot be shown.
    pub fn check(&self) -> Result<(), InvalidDetail> {
        let texts = [
            ("disk_format", &self.disk_format, FORMAT_CHARACTERS_MAX),
            ("container_format", &self.container_format, FORMAT_CHARACTERS_MAX),
            ("platform", &self.platform, WORD_CHARACTERS_MAX),
            ("architecture", &self.architecture, WORD_CHARACTERS_MAX),
            ("guest_os_type", &self.guest_os_type, WORD_CHARACTERS_MAX),
            ("origin_url", &self.origin_url, URL_CHARACTERS_MAX),
        ];
        for (field, text, characters_max) in texts {
            within(field, "it", text, 0, characters_max)?;
            no_nul(field, text)?;
        }
        // Glance and ZStack have signed 32-bit numbers here.
        for (field, number) in [("min_disk_gib", self.min_disk_gib), ("min_ram_mib", self.min_ram_mib)] {
            if i32::try_from(number).is_err() {
                return Err(invalid(field, "is at most 2,147,483,647"));
            }
        }
        Ok(())
    }
}

names!(MediaType {
    RootVolumeTemplate => "root_volume_template",
    DataVolumeTemplate => "data_volume_template",
    Iso => "iso",
});

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ImageDetails;

    #[test]
    fn what_goes_past_a_limit_is_refused_by_its_field() {
        let facts = ImageFacts::default;
        let refused = [
            (ImageFacts { disk_format: "q".repeat(21), ..facts() }, "disk_format"),
            (ImageFacts { container_format: "b\0".to_owned(), ..facts() }, "container_format"),
            (ImageFacts { platform: "p".repeat(256), ..facts() }, "platform"),
            (ImageFacts { architecture: "a".repeat(256), ..facts() }, "architecture"),
            (ImageFacts { guest_os_type: "g".repeat(256), ..facts() }, "guest_os_type"),
            (ImageFacts { origin_url: "u".repeat(1025), ..facts() }, "origin_url"),
            (ImageFacts { min_disk_gib: u32::MAX, ..facts() }, "min_disk_gib"),
            (ImageFacts { min_ram_mib: 1 << 31, ..facts() }, "min_ram_mib"),
        ];
        for (facts, field) in refused {
            let details = ImageDetails { facts, ..ImageDetails::default() };
            assert_eq!(details.check().unwrap_err().field, field);
        }
        let longest = ImageFacts { origin_url: "ä".repeat(1024), min_disk_gib: (1 << 31) - 1, ..facts() };
        longest.check().unwrap();
    }

    #[test]
    fn details_of_an_older_row_have_no_facts() {
        let details: ImageDetails = serde_json::from_str(r#"{"description":"d"}"#).unwrap();
        assert_eq!(details.facts, ImageFacts::default());
        let facts = ImageFacts { media_type: Some(MediaType::Iso), virtio: Some(false), ..details.facts };
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<ImageFacts>(&text).unwrap(), facts);
    }
}
