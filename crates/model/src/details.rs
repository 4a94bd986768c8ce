//! What people say of an image: description, labels, properties, tags.
//!
//! The limits are those of the views that show them: Glance takes 128 properties and 128 tags with names of 255
//! characters, ZStack a description of 2,048.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::ImageFacts;

/// Most labels, properties, or tags of one image.
const ENTRIES_MAX: usize = 128;
/// Longest description, in characters.
const DESCRIPTION_CHARACTERS_MAX: usize = 2048;
/// Longest name of a property, and longest tag, in characters.
const NAME_CHARACTERS_MAX: usize = 255;
/// Longest key of a label, in characters.
const LABEL_KEY_CHARACTERS_MAX: usize = 63;
/// Longest value of a label, in characters.
const LABEL_VALUE_CHARACTERS_MAX: usize = 255;
/// Longest value of a property, in bytes.
const PROPERTY_VALUE_BYTES_MAX: usize = 64 << 10;

/// Most bytes of all properties of one image together, names and values: a whole image fits into one answer.
const PROPERTIES_BYTES_MAX: usize = 1 << 20;

/// What people say of an image, checked against the limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageDetails {
    /// Text for people, at most 2,048 characters.
    pub description: String,
    /// To find and group images by: keys of lower-case letters, digits, `.`, `_`, `/` and `-`, at most 63 characters.
    pub labels: BTreeMap<String, String>,
    /// Facts for programs, such as `os_distro`: names of at most 255 characters, values of at most 64 KiB.
    pub properties: BTreeMap<String, String>,
    /// Words, at most 255 characters each.
    pub tags: BTreeSet<String>,
    /// Refuses to be deleted.
    pub protected: bool,
    /// What the views say of it beside its bytes.
    pub facts: ImageFacts,
}

/// A detail that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidDetail {
    /// `description`, `labels`, `properties`, `tags`, or the name of one of [`ImageFacts`].
    pub field: &'static str,
    /// What is wrong, as a sentence without its beginning.
    pub problem: String,
}

impl ImageDetails {
    /// Refuses what goes past a limit or cannot be shown.
    pub fn check(&self) -> Result<(), InvalidDetail> {
        self.check_description()?;
        self.check_labels()?;
        self.check_properties()?;
        self.check_tags()?;
        self.facts.check()
    }

    fn check_description(&self) -> Result<(), InvalidDetail> {
        within("description", "a description", &self.description, 0, DESCRIPTION_CHARACTERS_MAX)?;
        no_nul("description", &self.description)
    }

    fn check_labels(&self) -> Result<(), InvalidDetail> {
        count("labels", self.labels.len())?;
        for (key, value) in &self.labels {
            within("labels", "a key", key, 1, LABEL_KEY_CHARACTERS_MAX)?;
            let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._/-".contains(c);
            if !key.chars().all(known) || !key.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                let problem = "a key has lower-case letters, digits, `.`, `_`, `/` and `-`, and begins with a \
                               letter or digit";
                return Err(invalid("labels", problem));
            }
            within("labels", "a value", value, 0, LABEL_VALUE_CHARACTERS_MAX)?;
            no_nul("labels", value)?;
        }
        Ok(())
    }

    fn check_properties(&self) -> Result<(), InvalidDetail> {
        count("properties", self.properties.len())?;
        let bytes = self.properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if bytes > PROPERTIES_BYTES_MAX {
            return Err(invalid("properties", "all of them together have at most 1,048,576 bytes"));
        }
        for (name, value) in &self.properties {
            within("properties", "a name", name, 1, NAME_CHARACTERS_MAX)?;
            no_nul("properties", name)?;
            no_nul("properties", value)?;
            if value.len() > PROPERTY_VALUE_BYTES_MAX {
                return Err(invalid("properties", "a value has at most 65,536 bytes"));
            }
        }
        Ok(())
    }

    fn check_tags(&self) -> Result<(), InvalidDetail> {
        count("tags", self.tags.len())?;
        for tag in &self.tags {
            within("tags", "a tag", tag, 1, NAME_CHARACTERS_MAX)?;
            no_nul("tags", tag)?;
        }
        Ok(())
    }
}

pub(crate) fn invalid(field: &'static str, problem: impl fmt::Display) -> InvalidDetail {
    InvalidDetail { field, problem: problem.to_string() }
}

fn count(field: &'static str, entries: usize) -> Result<(), InvalidDetail> {
    if entries > ENTRIES_MAX {
        return Err(invalid(field, format_args!("there are at most {ENTRIES_MAX}, not {entries}")));
    }
    Ok(())
}

pub(crate) fn within(
    field: &'static str,
    what: &str,
    text: &str,
    min: usize,
    max: usize,
) -> Result<(), InvalidDetail> {
    let characters = text.chars().count();
    if characters < min {
        return Err(invalid(field, format_args!("{what} is empty")));
    }
    if characters > max {
        return Err(invalid(field, format_args!("{what} has at most {max} characters, not {characters}")));
    }
    Ok(())
}

/// No database of text holds this character.
pub(crate) fn no_nul(field: &'static str, text: &str) -> Result<(), InvalidDetail> {
    if text.contains('\0') { Err(invalid(field, "holds a NUL character")) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn labels(key: &str, value: &str) -> ImageDetails {
        ImageDetails { labels: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..Default::default() }
    }

    fn properties(name: &str, value: &str) -> ImageDetails {
        ImageDetails {
            properties: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            ..Default::default()
        }
    }

    fn tags(tags: impl IntoIterator<Item = String>) -> ImageDetails {
        ImageDetails { tags: tags.into_iter().collect(), ..Default::default() }
    }

    #[test]
    fn what_people_say_is_taken() {
        ImageDetails::default().check().unwrap();
        labels("edgegallery/user-id", "").check().unwrap();
        properties("OS Distro", "Debian – 13\nwith two lines").check().unwrap();
        tags((0..128).map(|number| format!("tag {number}"))).check().unwrap();
        let description = "ä".repeat(2048);
        ImageDetails { description, ..Default::default() }.check().unwrap();
    }

    #[test]
    fn what_goes_past_a_limit_is_refused_by_its_field() {
        let refused = [
            (labels("", "a"), "labels"),
            (labels("Upper", "a"), "labels"),
            (labels("-dash", "a"), "labels"),
            (labels(&"k".repeat(64), "a"), "labels"),
            (labels("key", &"v".repeat(256)), "labels"),
            (labels("key", "\0"), "labels"),
            (properties("", "a"), "properties"),
            (properties(&"n".repeat(256), "a"), "properties"),
            (properties("name", &"v".repeat((64 << 10) + 1)), "properties"),
            (properties("nul\0", "a"), "properties"),
            (
                ImageDetails {
                    properties: (0..20).map(|n| (n.to_string(), "v".repeat(64 << 10))).collect(),
                    ..Default::default()
                },
                "properties",
            ),
            (tags((0..129).map(|number| number.to_string())), "tags"),
            (tags([String::new()]), "tags"),
            (tags(["t".repeat(256)]), "tags"),
            (ImageDetails { description: "d".repeat(2049), ..Default::default() }, "description"),
        ];
        for (details, field) in refused {
            assert_eq!(details.check().unwrap_err().field, field, "{details:?}");
        }
    }
}
