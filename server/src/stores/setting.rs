//! Stores as an operator writes them: `NAME=PLACE`, one form for flags, environment and file.
//!
//! ```text
//! fast=/srv/nvme/images                                   a directory
//! slow=/srv/disks/images?weight=-5&limit_bytes=1099511627776
//! cold=s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-1&path_style=true
//! ```

use std::fmt;
use std::str::FromStr;

use imageops_model::StoreKind;
use serde::{Deserialize, Serialize};

/// Longest name of a store.
const NAME_BYTES_MAX: usize = 63;

/// A store that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreSetting {
    /// The operator's short name.
    pub name: String,
    /// Where it is.
    pub kind: StoreKind,
    /// See [`imageops_catalogue::StoreRow`].
    pub weight: i32,
    /// See [`imageops_catalogue::StoreRow`].
    pub limit_bytes: Option<u64>,
    /// As it was written.
    text: String,
}

impl StoreSetting {
    /// A store that was described otherwise than in a text.
    pub fn new(name: String, kind: StoreKind, weight: i32, limit_bytes: Option<u64>) -> Self {
        Self { name, kind, weight, limit_bytes, text: String::new() }
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidStoreSetting(String);

fn invalid<T>(message: impl fmt::Display) -> Result<T, InvalidStoreSetting> {
    Err(InvalidStoreSetting(message.to_string()))
}

/// Whether a text can be a store's name: 1 to 63 lower-case letters, digits, `.`, `_` and `-`, not beginning with a dash.
pub fn is_store_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(known) && !name.starts_with('-')
}

/// Whether a store of this kind can be held to a number of bytes.
pub fn has_limit(kind: &StoreKind) -> bool {
    matches!(kind, StoreKind::Directory { .. })
}

impl FromStr for StoreSetting {
    type Err = InvalidStoreSetting;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, place)) = text.split_once('=') else {
            return invalid("a store is written NAME=PLACE, for instance fast=/srv/nvme/images");
        };
        if !is_store_name(name) {
            return invalid(
                "the name of a store has 1 to 63 lower-case letters, digits, `.`, `_` and `-`, and begins with no dash",
            );
        }
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        let mut options = Options::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            options.set(pair)?;
        }
        let kind = options.kind(place)?;
        if options.limit_bytes.is_some() && !has_limit(&kind) {
            return invalid("limit_bytes belongs to a directory; a bucket is limited where it lies");
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            weight: options.weight,
            limit_bytes: options.limit_bytes,
            text: text.to_owned(),
        })
    }
}

/// What stands behind the question mark.
#[derive(Default)]
struct Options {
    weight: i32,
    limit_bytes: Option<u64>,
    endpoint: Option<String>,
    region: Option<String>,
    path_style: Option<bool>,
    allow_http: Option<bool>,
}

impl Options {
    fn set(&mut self, pair: &str) -> Result<(), InvalidStoreSetting> {
        fn number<T: FromStr>(name: &str, value: &str) -> Result<T, InvalidStoreSetting> {
            value.parse().or_else(|_| invalid(format_args!("{name}={value} is no value that can be")))
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "weight" => self.weight = number(name, value)?,
            "limit_bytes" => self.limit_bytes = Some(number(name, value)?),
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "region" => self.region = Some(value.to_owned()),
            "path_style" => self.path_style = Some(number(name, value)?),
            "allow_http" => self.allow_http = Some(number(name, value)?),
            _ => {
                return invalid(format_args!(
                    "{name:?} is no option of a store: there are weight, limit_bytes, and with a bucket endpoint, region, \
                     path_style, allow_http"
                ));
            }
        }
        Ok(())
    }

    fn kind(&self, place: &str) -> Result<StoreKind, InvalidStoreSetting> {
        let Some(rest) = place.strip_prefix("s3://") else {
            if !place.starts_with('/') {
                return invalid("the directory of a store is an absolute path; a bucket begins with s3://");
            }
            if self.endpoint.is_some()
                || self.region.is_some()
                || self.path_style.is_some()
                || self.allow_http.is_some()
            {
                return invalid("endpoint, region, path_style and allow_http belong to a bucket");
            }
            return Ok(StoreKind::Directory { path: place.to_owned() });
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return invalid("a bucket is written s3://BUCKET/PREFIX");
        }
        Ok(StoreKind::Bucket {
            endpoint: self.endpoint.clone().unwrap_or_default(),
            region: self.region.clone().unwrap_or_else(|| "us-east-1".to_owned()),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            // What servers beside Amazon's expect.
            path_style: self.path_style.unwrap_or(self.endpoint.is_some()),
            allow_http: self.allow_http.unwrap_or(false),
        })
    }
}

impl TryFrom<String> for StoreSetting {
    type Error = InvalidStoreSetting;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<StoreSetting> for String {
    fn from(setting: StoreSetting) -> Self {
        setting.text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn directories_and_buckets_are_read() {
        let fast: StoreSetting = "fast=/mnt/a=b?weight=10&limit_bytes=5".parse().unwrap();
        assert_eq!((fast.name.as_str(), fast.weight, fast.limit_bytes), ("fast", 10, Some(5)));
        assert_eq!(fast.kind, StoreKind::Directory { path: "/mnt/a=b".to_owned() });
        let cold: StoreSetting =
            "cold=s3://images/a/b?endpoint=https://s3.example.org&weight=-1".parse().unwrap();
        let StoreKind::Bucket { endpoint, region, bucket, prefix, path_style, allow_http } =
            cold.kind.clone()
        else {
            panic!("{cold:?}");
        };
        assert_eq!((endpoint.as_str(), region.as_str()), ("https://s3.example.org", "us-east-1"));
        assert_eq!(
            (bucket.as_str(), prefix.as_str(), path_style, allow_http),
            ("images", "a/b", true, false)
        );
        assert_eq!(String::from(cold.clone()).parse(), Ok(cold));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("fast", "NAME=PLACE"),
            ("Fast=/a", "lower-case"),
            ("=/a", "lower-case"),
            ("-a=/a", "no dash"),
            ("a=relative", "absolute"),
            ("a=/a?colour=red", "no option"),
            ("a=/a?weight=heavy", "weight=heavy"),
            ("a=/a?region=x", "belong to a bucket"),
            ("a=s3://", "s3://BUCKET"),
            ("a=s3://b?limit_bytes=1", "belongs to a directory"),
        ] {
            let error = text.parse::<StoreSetting>().unwrap_err();
            assert!(error.to_string().contains(said), "{text}: {error}");
        }
    }
}
