//! JSON of requests, read strictly: bounded depth and no key twice. `serde_json` alone would let the last of two equal
//! keys win, so that two readers of one body could disagree about what it asks for.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of arrays and objects.
const DEPTH_MAX: usize = 64;

/// Whether a content type announces JSON: any `…/json` or `…+json`, whatever its parameters.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// The bytes behind a byte order mark, which some clients write and the legacy service skipped.
pub(crate) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Refuses what is no JSON, nests too deep, or has a key twice.
pub(crate) fn check(body: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    Strict { depth_left: DEPTH_MAX }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads any value and keeps nothing of it but the keys of the objects that are open.
#[derive(Clone, Copy)]
struct Strict {
    depth_left: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth_left =
            self.depth_left.checked_sub(1).ok_or_else(|| E::custom("nested deeper than 64 levels"))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = HashSet::new();
        while let Some(key) = members.next_key::<String>()? {
            if !seen.insert(key) {
                return Err(A::Error::custom("a key is there twice"));
            }
            members.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_types_are_known_by_their_ending() {
        for yes in
            ["application/json", "text/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"]
        {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["", "text/plain", "json", "application/jsonp", "application/x-www-form-urlencoded"] {
            assert!(!is_json(no), "{no}");
        }
    }

    #[test]
    fn equal_keys_deep_nesting_and_rubbish_are_refused() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for good in ["{}", r#"{"a":1,"b":{"a":[null,true,-1,1.5,"x"]}}"#, "3", &nested(64)] {
            check(good.as_bytes()).unwrap();
        }
        for bad in
            ["", "{bad", r#"{"a":1,"a":2}"#, r#"{"x":[{"b":1,"\u0062":1}]}"#, "{} {}", "[1,]", &nested(65)]
        {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
