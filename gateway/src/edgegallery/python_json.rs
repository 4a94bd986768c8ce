//! JSON in the form of the legacy service: sorted keys, no spaces, ASCII only, a line feed at the end.

use std::fmt::Write as _;

use serde_json::Value;

/// Writes `value` in that form.
pub(super) fn to_line(value: &Value) -> String {
    let mut line = String::with_capacity(256);
    write_value(&mut line, value);
    line.push('\n');
    line
}

fn write_value(line: &mut String, value: &Value) {
    match value {
        Value::Null => line.push_str("null"),
        Value::Bool(flag) => line.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => line.push_str(&number.to_string()),
        Value::String(text) => write_string(line, text),
        Value::Array(items) => {
            line.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    line.push(',');
                }
                write_value(line, item);
            }
            line.push(']');
        }
        Value::Object(members) => {
            // Sorted here: whether `serde_json` keeps its maps sorted depends on features that others may switch on.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            line.push('{');
            for (index, (key, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    line.push(',');
                }
                write_string(line, key);
                line.push(':');
                write_value(line, member);
            }
            line.push('}');
        }
    }
}

fn write_string(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            ' '..='\u{7f}' => line.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(line, "\\u{unit:04x}").expect("writing into a String cannot fail");
                }
            }
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_spaced() {
        let value = json!({"status": 0, "msg": "Compress In Progress\n", "requestId": "x"});
        assert_eq!(
            to_line(&value),
            "{\"msg\":\"Compress In Progress\\n\",\"requestId\":\"x\",\"status\":0}\n"
        );
        let nested = json!({"b": {"d": null, "c": [1, 0.5, true]}, "a": "-"});
        assert_eq!(to_line(&nested), "{\"a\":\"-\",\"b\":{\"c\":[1,0.5,true],\"d\":null}}\n");
    }

    #[test]
    fn what_is_not_ascii_is_escaped_as_utf_16() {
        let value = json!("é 映 \u{1f4be} \u{1} \u{7f} \u{80} \"\\/\t\r\u{8}\u{c}");
        assert_eq!(
            to_line(&value),
            "\"\\u00e9 \\u6620 \\ud83d\\udcbe \\u0001 \u{7f} \\u0080 \\\"\\\\/\\t\\r\\b\\f\"\n"
        );
    }
}
