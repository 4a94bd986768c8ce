//! Labels: the names that clients give.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that a client gave to something: at most 255 characters, no control characters, no bidirectional overrides
/// (SEC-25). Never part of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Label(String);

/// A string that cannot be a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// More than 255 characters.
    #[error("a label has at most 255 characters")]
    TooLong,
    /// A control character or a bidirectional override.
    #[error("a label has no control characters and no bidirectional overrides")]
    ControlCharacter,
}

impl Label {
    /// Most characters of a label.
    pub const CHARACTERS_MAX: usize = 255;

    /// Checks and takes a name; the empty one means "none".
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidLabel> {
        let text = text.into();
        if text.chars().count() > Self::CHARACTERS_MAX {
            return Err(InvalidLabel::TooLong);
        }
        // U+202A..U+202E and U+2066..U+2069 reorder what is shown around them.
        if text
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
        {
            return Err(InvalidLabel::ControlCharacter);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_labels_are_refused() {
        assert_eq!(Label::new("a\nb"), Err(InvalidLabel::ControlCharacter));
        assert_eq!(Label::new("a\u{202e}b"), Err(InvalidLabel::ControlCharacter));
        assert_eq!(Label::new("\0"), Err(InvalidLabel::ControlCharacter));
        assert_eq!(Label::new("ä".repeat(256)), Err(InvalidLabel::TooLong));
        assert!(Label::new("ä".repeat(255)).is_ok());
        assert!(Label::new("../../etc/passwd").is_ok(), "a label is never a path");
    }
}
