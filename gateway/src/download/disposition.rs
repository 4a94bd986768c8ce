//! `Content-Disposition` of a download (RFC 6266, RFC 8187).

use std::fmt::Write as _;

use axum::http::HeaderValue;

/// Says that the answer is a file with this label as its name. Whatever the label holds, the header is one line, and the
/// name no path.
pub(super) fn attachment(label: &str) -> HeaderValue {
    let name = file_name(label);
    let plain = name.chars().all(|character| matches!(character, ' '..='~') && !matches!(character, '%'));
    let mut value = String::from("attachment; filename=\"");
    for character in name.chars() {
        match character {
            '"' => value.push_str("\\\""),
            // Browsers decode it; `filename*` has the real name.
            '%' => value.push('_'),
            ' '..='~' => value.push(character),
            _ => value.push('_'),
        }
    }
    value.push('"');
    if !plain {
        value.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            match byte {
                b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => value.push(char::from(byte)),
                b'!' | b'#' | b'$' | b'&' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~' => {
                    value.push(char::from(byte));
                }
                _ => write!(value, "%{byte:02X}").expect("writing into a String cannot fail"),
            }
        }
    }
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("attachment"))
}

/// The name of a file for this label: no path, and nothing that could break a header.
pub(super) fn file_name(label: &str) -> String {
    let harmless =
        |character| if matches!(character, '/' | '\\') || is_hidden(character) { '_' } else { character };
    let name: String = label.chars().map(harmless).collect();
    if name.chars().all(|character| matches!(character, '.' | ' ')) { "image".to_owned() } else { name }
}

/// Whether a character cannot be seen where it stands: control characters, and those that turn the text's direction.
pub(crate) fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_what_is_not_ascii_is_encoded() {
        for (label, want) in [
            ("disk.qcow2", "attachment; filename=\"disk.qcow2\""),
            ("a \"b\";c", "attachment; filename=\"a \\\"b\\\";c\""),
            ("é%.img", "attachment; filename=\"__.img\"; filename*=UTF-8''%C3%A9%25.img"),
            ("", "attachment; filename=\"image\""),
            ("..", "attachment; filename=\"image\""),
        ] {
            assert_eq!(attachment(label), want, "{label}");
        }
    }

    #[test]
    fn sec_25_hostile_labels_stay_in_one_header_and_name_no_path() {
        for label in
            ["../../etc/passwd", "a\r\nSet-Cookie: x=1", "a\u{0}b", "C:\\x", "\u{202e}gmi.exe", "a\u{7f}"]
        {
            let value = attachment(label);
            let text = value.to_str().unwrap_or_default();
            assert!(text.starts_with("attachment; filename=\""), "{label:?}");
            assert!(!text.contains(['/', '\r', '\n', '\0']) && !text.contains("\\x"), "{text}");
        }
    }
}
