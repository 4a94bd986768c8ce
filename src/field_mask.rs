//! `google.protobuf.FieldMask`, which `pbjson-types` lacks.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Names of members of a message.
///
/// In JSON one text: paths in lowerCamelCase with commas between (ProtoJSON).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct FieldMask {
    /// The members, in the spelling of the proto files.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

impl Serialize for FieldMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let paths: Vec<String> = self.paths.iter().map(|path| camel_case(path)).collect();
        serializer.serialize_str(&paths.join(","))
    }
}

impl<'de> Deserialize<'de> for FieldMask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('_') {
            return Err(D::Error::custom("a field mask names members in lowerCamelCase"));
        }
        Ok(Self { paths: text.split(',').filter(|path| !path.is_empty()).map(snake_case).collect() })
    }
}

fn camel_case(path: &str) -> String {
    let mut name = String::new();
    let mut upper = false;
    for letter in path.chars() {
        match letter {
            '_' => upper = true,
            letter => {
                name.push(if upper { letter.to_ascii_uppercase() } else { letter });
                upper = false;
            }
        }
    }
    name
}

fn snake_case(path: &str) -> String {
    let mut name = String::new();
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_one_text() {
        let mask = FieldMask { paths: vec!["display_name".to_owned(), "tags".to_owned()] };
        let text = serde_json::to_string(&mask).unwrap();
        assert_eq!(text, "\"displayName,tags\"");
        assert_eq!(serde_json::from_str::<FieldMask>(&text).unwrap(), mask);
        assert_eq!(serde_json::from_str::<FieldMask>("\"\"").unwrap(), FieldMask::default());
        assert_eq!(serde_json::from_str::<FieldMask>("\"*\"").unwrap().paths, ["*"]);
        assert!(serde_json::from_str::<FieldMask>("\"display_name\"").is_err());
        assert!(serde_json::from_str::<FieldMask>("[\"tags\"]").is_err());
    }
}
