//! Digests that headers promise of a body (RFC 9530, RFC 1864, and the headers that artefact stores have).

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imageops::v1::Digests;

use super::header_text;
use crate::problem::Problem;

/// Headers with one hexadecimal digest each.
const PLAIN: [(&str, Algorithm); 3] = [
    ("X-Checksum-Md5", Algorithm::Md5),
    ("X-Checksum-Sha256", Algorithm::Sha256),
    ("X-Checksum-Sha512", Algorithm::Sha512),
];
/// Headers with a dictionary of digests. Of a body that came whole both mean the same.
const DICTIONARIES: [&str; 2] = ["Repr-Digest", "Content-Digest"];

/// What a digest is made with.
#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Md5,
    Sha256,
    Sha512,
}

impl Algorithm {
    /// By its name in a dictionary; others are passed over, as RFC 9530 has it.
    fn of(name: &str) -> Option<Self> {
        match name {
            "md5" => Some(Self::Md5),
            "sha-256" => Some(Self::Sha256),
            "sha-512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn length_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn member(self, digests: &mut Digests) -> &mut String {
        match self {
            Self::Md5 => &mut digests.md5,
            Self::Sha256 => &mut digests.sha256,
            Self::Sha512 => &mut digests.sha512,
        }
    }
}

/// Adds what the headers promise to what is promised already; two promises of one kind must be the same.
pub(super) fn add_headers(headers: &HeaderMap, digests: &mut Digests) -> Result<(), Problem> {
    for (name, algorithm) in PLAIN {
        if let Some(text) = header_text(headers, name)? {
            add(digests, name, algorithm, hex::decode(text).ok())?;
        }
    }
    if let Some(text) = header_text(headers, "Content-MD5")? {
        add(digests, "Content-MD5", Algorithm::Md5, STANDARD.decode(text).ok())?;
    }
    for name in DICTIONARIES {
        let Some(text) = header_text(headers, name)? else { continue };
        for entry in text.split(',') {
            let (key, value) = entry.trim().split_once('=').unwrap_or_default();
            let Some(algorithm) = Algorithm::of(key) else { continue };
            let value = value.split(';').next().unwrap_or_default().trim_end();
            let inner = value.strip_prefix(':').and_then(|rest| rest.strip_suffix(':'));
            add(digests, name, algorithm, inner.and_then(|inner| STANDARD.decode(inner).ok()))?;
        }
    }
    Ok(())
}

fn add(
    digests: &mut Digests,
    name: &str,
    algorithm: Algorithm,
    digest: Option<Vec<u8>>,
) -> Result<(), Problem> {
    let digest = digest.filter(|digest| digest.len() == algorithm.length_bytes());
    let text = hex::encode(digest.ok_or_else(|| Problem::invalid(name, "holds no such digest"))?);
    let member = algorithm.member(digests);
    if !member.is_empty() && *member != text {
        return Err(Problem::invalid(name, "differs from what is promised elsewhere"));
    }
    *member = text;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Result<Digests, Problem> {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut digests = Digests::default();
        add_headers(&pairs.iter().map(pair).collect(), &mut digests).map(|()| digests)
    }

    #[test]
    fn digests_are_read_from_every_header_that_has_them() {
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        let read_md5 = |name, value| read(&[(name, value)]).unwrap().md5;
        assert_eq!(read_md5("content-md5", "kAFQmDzST7DWlj99KOF/cg=="), md5);
        assert_eq!(read_md5("x-checksum-md5", &md5.to_uppercase()), md5);
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let dictionary = "unixsum=:AA==:, sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:;q=1";
        for name in ["repr-digest", "content-digest"] {
            let digests = read(&[(name, dictionary), ("x-checksum-sha256", sha256)]).unwrap();
            assert_eq!((digests.sha256.as_str(), digests.md5.as_str()), (sha256, ""));
        }
        assert_eq!(read(&[]).unwrap(), Digests::default());
    }

    #[test]
    fn broken_and_contradicting_promises_are_refused() {
        for pairs in [
            &[("content-md5", "AAAA")][..],
            &[("content-md5", "!")],
            &[("x-checksum-sha512", "00")],
            &[("repr-digest", "sha-256=ungWv48B")],
            &[("repr-digest", "md5=:AAAA:")],
            &[
                ("content-md5", "kAFQmDzST7DWlj99KOF/cg=="),
                ("x-checksum-md5", "00000000000000000000000000000000"),
            ],
        ] {
            assert!(read(pairs).is_err(), "{pairs:?}");
        }
    }
}
