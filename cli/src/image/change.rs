//! What `imageops image set` changes.

use imageops::FieldMask;
use imageops::v1::Image;

use super::args::SetArgs;
use crate::exit::Failure;

impl SetArgs {
    /// The image as it is to be, and the members in which it differs.
    pub(crate) fn apply(&self, before: Image) -> Result<(Image, FieldMask), Failure> {
        let mut image = before;
        let mut mask = FieldMask::default();
        let mut changes = |member: &str, is: bool| {
            if is {
                mask.paths.push(member.to_owned());
            }
        };
        changes("display_name", self.name.is_some());
        changes("description", self.description.is_some());
        changes("labels", !(self.label.is_empty() && self.remove_label.is_empty()));
        changes("properties", !(self.property.is_empty() && self.remove_property.is_empty()));
        changes("tags", !(self.tag.is_empty() && self.remove_tag.is_empty()));
        changes("protected", self.protected.is_some());
        changes("disabled", self.disabled.is_some());
        if mask.paths.is_empty() {
            return Err(Failure::new("nothing is to be changed").advise("say what, for instance --name NAME"));
        }

        image.display_name = self.name.clone().unwrap_or(image.display_name);
        image.description = self.description.clone().unwrap_or(image.description);
        image.labels.extend(self.label.iter().cloned());
        image.labels.retain(|key, _| !self.remove_label.contains(key));
        image.properties.extend(self.property.iter().cloned());
        image.properties.retain(|name, _| !self.remove_property.contains(name));
        image.tags.extend(self.tag.iter().cloned());
        image.tags.retain(|tag| !self.remove_tag.contains(tag));
        image.protected = self.protected.unwrap_or(image.protected);
        image.disabled = self.disabled.unwrap_or(image.disabled);
        Ok((image, mask))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::image::ImageCommand;

    fn set(arguments: &[&str]) -> SetArgs {
        let line = ["imageops", "image", "set", "x"].iter().chain(arguments);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Image(ImageCommand::Set(arguments)) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = Image {
            display_name: "a".to_owned(),
            etag: "5".to_owned(),
            labels: [("team".to_owned(), "a".to_owned()), ("old".to_owned(), String::new())].into(),
            tags: vec!["golden".to_owned()],
            ..Image::default()
        };
        let arguments = set(&["--label", "stage=test=2", "--remove-label", "old", "--protected", "true"]);
        let (image, mask) = arguments.apply(before).unwrap();
        assert_eq!(mask.paths, ["labels", "protected"]);
        let labels = [("team".to_owned(), "a".to_owned()), ("stage".to_owned(), "test=2".to_owned())];
        assert_eq!(image.labels, labels.into());
        assert_eq!((image.display_name.as_str(), image.etag.as_str(), image.protected), ("a", "5", true));
        assert_eq!(image.tags, ["golden"]);
        assert!(set(&[]).apply(Image::default()).is_err());
        let wrong = ["imageops", "image", "set", "x", "--label", "team"];
        assert!(Cli::try_parse_from(wrong).is_err());
    }
}
