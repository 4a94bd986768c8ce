//! Where an S3 store is, and the key to it.

use std::fmt;

use crate::{Error, Result};

const PREFIX_BYTES_MAX: usize = 256;

/// Settings of an S3 store.
#[derive(Clone)]
pub struct S3Settings {
    /// Address of the server, such as `https://s3.example.org`; empty for that of the region at AWS.
    pub endpoint: String,
    /// Region that requests are signed for; servers without regions take `us-east-1`.
    pub region: String,
    /// Bucket, which must exist.
    pub bucket: String,
    /// What the keys of all objects begin with, so that stores can share a bucket; may be empty.
    pub prefix: String,
    /// Name of the access key.
    pub access_key: String,
    /// Secret of the access key.
    pub secret_key: String,
    /// Whether an address without TLS is allowed: bytes and requests can be read on the way.
    pub allow_http: bool,
    /// Whether the bucket stands in the path of requests and not in the server's name.
    pub path_style: bool,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("S3Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("allow_http", &self.allow_http)
            .field("path_style", &self.path_style)
            .finish_non_exhaustive()
    }
}

impl S3Settings {
    /// [`Error::Unusable`] with the setting that cannot be used.
    pub(super) fn check(&self) -> Result<()> {
        let is_secure = self.endpoint.is_empty() || self.endpoint.starts_with("https://");
        let is_allowed_plain = self.allow_http && self.endpoint.starts_with("http://");
        if !is_secure && !is_allowed_plain {
            return refused(
                "the address of the object store must begin with https://, or plain HTTP be allowed",
            );
        }
        if self.endpoint.contains(['@', '?', '#', ' ']) {
            return refused("the address of the object store may hold a server, a port and a path only");
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !(3..=255).contains(&self.bucket.len()) || !self.bucket.bytes().all(is_plain) {
            return refused("the bucket's name cannot be used");
        }
        let parts_are_plain = self
            .prefix
            .split('/')
            .filter(|part| !part.is_empty())
            .all(|part| !matches!(part, "." | "..") && part.bytes().all(is_plain));
        if !parts_are_plain || self.prefix.len() > PREFIX_BYTES_MAX {
            return refused("the prefix may hold letters, digits and . _ - / only");
        }
        if self.access_key.is_empty() || self.secret_key.is_empty() {
            return refused("the object store needs an access key and its secret");
        }
        Ok(())
    }

    /// The address that requests go to: with the bucket in the server's name unless it stands in the path.
    pub(super) fn endpoint(&self) -> Option<String> {
        let endpoint = self.endpoint.trim_end_matches('/');
        let (scheme, server) = endpoint.split_once("://")?;
        if self.path_style {
            Some(endpoint.to_owned())
        } else {
            Some(format!("{scheme}://{}.{server}", self.bucket))
        }
    }

    /// Key of an object of the store.
    pub(super) fn key(&self, name: &str) -> String {
        let parts = self.prefix.split('/').filter(|part| !part.is_empty());
        parts.chain([name]).collect::<Vec<_>>().join("/")
    }
}

fn refused(sentence: &str) -> Result<()> {
    Err(Error::Unusable(sentence.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> S3Settings {
        S3Settings {
            endpoint: "https://s3.example.org".to_owned(),
            region: "us-east-1".to_owned(),
            bucket: "images".to_owned(),
            prefix: String::new(),
            access_key: "the-access-key".to_owned(),
            secret_key: "the-secret".to_owned(),
            allow_http: false,
            path_style: true,
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = format!("{:?} {:#?}", settings(), settings());
        assert!(!text.contains("the-secret") && !text.contains("the-access-key"), "{text}");
    }

    #[test]
    fn settings_that_cannot_be_used_are_refused() {
        settings().check().expect("good settings");
        let change: [fn(&mut S3Settings); 9] = [
            |settings| settings.endpoint = "http://s3.example.org".to_owned(),
            |settings| settings.endpoint = "s3.example.org".to_owned(),
            |settings| settings.endpoint = "https://user:password@s3.example.org".to_owned(),
            |settings| settings.bucket = String::new(),
            |settings| settings.bucket = "a/b".to_owned(),
            |settings| settings.prefix = "a/../b".to_owned(),
            |settings| settings.prefix = "a b".to_owned(),
            |settings| settings.prefix = "a".repeat(257),
            |settings| settings.secret_key = String::new(),
        ];
        for (number, change) in change.into_iter().enumerate() {
            let mut changed = settings();
            change(&mut changed);
            assert!(matches!(changed.check(), Err(Error::Unusable(_))), "{number}: {changed:?}");
        }
    }

    #[test]
    fn places_of_bucket_and_prefix() {
        let mut settings = settings();
        assert_eq!(settings.endpoint().as_deref(), Some("https://s3.example.org"));
        assert_eq!(settings.key("store"), "store");
        settings.path_style = false;
        settings.prefix = "/a//b/".to_owned();
        assert_eq!(settings.endpoint().as_deref(), Some("https://images.s3.example.org"));
        assert_eq!(settings.key("store"), "a/b/store");
        settings.endpoint = String::new();
        assert_eq!(settings.endpoint(), None);
    }
}
