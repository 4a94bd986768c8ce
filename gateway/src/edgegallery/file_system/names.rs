//! Names that clients of the file-system service send. None of them ever becomes a path.

use imageops::v1::Archive;

use crate::download::is_hidden;

/// What images may be called, case and all.
const EXTENSIONS: [&str; 4] = [".zip", ".qcow2", ".img", ".iso"];
/// Longest name of a file in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest name of a session in bytes.
const IDENTIFIER_BYTES_MAX: usize = 255;
/// Longest name of a user in characters.
const USER_CHARACTERS_MAX: usize = 255;
/// Most digits in the number of a chunk.
const PART_DIGITS_MAX: usize = 9;

/// Name of an image to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    /// The name.
    pub(super) text: String,
    /// What the name says of the bytes.
    pub(super) archive: Archive,
}

impl FileName {
    /// The name of an uploaded file: what follows the last separator, since some browsers send a whole path.
    pub(super) fn of_upload(sent: &str) -> Option<Self> {
        Self::new(sent.rsplit(['/', '\\']).next().unwrap_or(sent))
    }

    /// The name that a merge asks for; separators are refused.
    pub(super) fn of_merge(sent: &str) -> Option<Self> {
        if sent.contains(['/', '\\']) { None } else { Self::new(sent) }
    }

    fn new(name: &str) -> Option<Self> {
        let (stem, extension) = name.split_at(name.rfind('.')?);
        let usable = EXTENSIONS.contains(&extension)
            && name.len() <= NAME_BYTES_MAX
            && !stem.chars().all(|character| character == '.')
            && !name.chars().any(is_hidden);
        let archive = if extension == ".zip" { Archive::Zip } else { Archive::Unspecified };
        usable.then(|| Self { text: name.to_owned(), archive })
    }
}

/// Whether this can name a chunk session.
pub(super) fn is_identifier(text: &str) -> bool {
    (1..=IDENTIFIER_BYTES_MAX).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(['/', '\\'])
        && !text.chars().any(char::is_control)
}

/// Whether this can name who sent an image: nobody, or a label.
pub(super) fn is_user(text: &str) -> bool {
    text.chars().count() <= USER_CHARACTERS_MAX && !text.chars().any(is_hidden)
}

/// The number of a chunk in the name of its file, `7.part`.
pub(super) fn part_number(file_name: &str) -> Option<u32> {
    let digits = file_name.strip_suffix(".part")?;
    let counts = digits.len() <= PART_DIGITS_MAX
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0');
    if counts { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_have_an_extension_a_stem_and_a_bound() {
        let long = |bytes: usize| format!("{}.img", "n".repeat(bytes - 4));
        for (sent, want) in [
            ("disk.qcow2", Some("disk.qcow2")),
            ("a.b.iso", Some("a.b.iso")),
            ("C:\\images\\disk.img", Some("disk.img")),
            ("../../disk.img", Some("disk.img")),
            ("\u{6620}\u{50cf}.img", Some("\u{6620}\u{50cf}.img")),
            (&long(128), Some(&*long(128))),
            (&long(129), None),
            ("disk.vmdk", None),
            ("disk", None),
            ("disk.QCOW2", None),
            ("disk.img.gz", None),
            (".zip", None),
            (".img", None),
            ("..zip", None),
            ("...img", None),
            ("a/.zip", None),
            ("", None),
            ("a\r\n.img", None),
            ("a\u{0}.img", None),
            ("\u{202e}gmi.img", None),
        ] {
            assert_eq!(FileName::of_upload(sent).map(|name| name.text).as_deref(), want, "{sent:?}");
        }
        assert_eq!(FileName::of_upload("pack.zip").map(|name| name.archive), Some(Archive::Zip));
        assert_eq!(FileName::of_merge("a.img").map(|name| name.archive), Some(Archive::Unspecified));
        assert!(FileName::of_merge("a/b.img").is_none() && FileName::of_merge("a\\b.img").is_none());
    }

    #[test]
    fn sec_25_sessions_users_and_chunks_are_named_strictly() {
        for good in ["567017472-focal-server-cloudimg-amd64img", "s", "...", "a b", "\u{6620}"] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", ".", "..", "../..", "a/b", "a\\b", "a\u{0}", "a\n", &"x".repeat(256)] {
            assert!(!is_identifier(bad), "{bad:?}");
        }
        for good in ["", "u1", "a b/c\\d", &"\u{6620}".repeat(255)] {
            assert!(is_user(good), "{good}");
        }
        for bad in ["a\r\nb", "a\u{0}", "\u{1b}[2J", "\u{202e}1u", &"u".repeat(256)] {
            assert!(!is_user(bad), "{bad:?}");
        }
        for (name, want) in [("1.part", 1), ("10.part", 10), ("999999999.part", 999_999_999)] {
            assert_eq!(part_number(name), Some(want));
        }
        for bad in [
            "-1.part",
            "0.part",
            "01.part",
            "1000000000.part",
            "1e3.part",
            " 1.part",
            "1.part ",
            "1",
            ".part",
            "+1.part",
        ] {
            assert_eq!(part_number(bad), None, "{bad:?}");
        }
    }
}
