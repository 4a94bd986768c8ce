//! What clients send: each function refuses what cannot be used and names the member.

use std::time::Duration;

use imageops::v1;
use imageops_image::format::Format;
use imageops_model::{JobKind, JobState, Source, UploadState};

use crate::failure::{Failure, Result};
use crate::upload::Promise;

/// Longest name of a file below the image root, in bytes.
const FILE_NAME_MAX_BYTES: usize = 4096;

pub(crate) fn read_source(source: Option<v1::Source>) -> Result<Source> {
    match source.and_then(|source| source.source) {
        Some(v1::source::Source::File(name)) if name.is_empty() => {
            Err(Failure::invalid("source.file", "must name a file below the image root"))
        }
        Some(v1::source::Source::File(name)) if name.len() > FILE_NAME_MAX_BYTES => {
            Err(Failure::invalid("source.file", "a name has at most 4096 bytes"))
        }
        Some(v1::source::Source::File(name)) => Ok(Source::File(name)),
        Some(v1::source::Source::Image(name)) => {
            name.parse().map(Source::Image).map_err(|error: imageops_model::InvalidName| {
                Failure::invalid("source.image", error.to_string())
            })
        }
        None => Err(Failure::invalid("source", "must name a file or an image")),
    }
}

pub(crate) fn read_digest_choice(digests: &[i32], skip: bool) -> Result<(bool, bool)> {
    if skip {
        if digests.is_empty() {
            return Ok((false, false));
        }
        return Err(Failure::invalid("skip_digests", "contradicts `digests`; set one of both"));
    }
    let (mut md5, mut sha256) = (digests.is_empty(), digests.is_empty());
    for digest in digests {
        match v1::DigestAlgorithm::try_from(*digest) {
            Ok(v1::DigestAlgorithm::Md5) => md5 = true,
            Ok(v1::DigestAlgorithm::Sha256) => sha256 = true,
            _ => return Err(Failure::invalid("digests", "takes MD5 and SHA256")),
        }
    }
    Ok((md5, sha256))
}

pub(crate) fn read_format(field: &'static str, value: i32) -> Result<Option<Format>> {
    use v1::ImageFormat;
    let unknown = || Failure::invalid(field, "is not a format that can be declared");
    Ok(Some(match ImageFormat::try_from(value).map_err(|_| unknown())? {
        ImageFormat::Unspecified => return Ok(None),
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
        ImageFormat::Qcow => Format::Qcow1,
        ImageFormat::Qed => Format::Qed,
        ImageFormat::Vmdk => Format::Vmdk,
        ImageFormat::Vhd => Format::Vhd,
        ImageFormat::Vhdx => Format::Vhdx,
        ImageFormat::Vdi => Format::Vdi,
        ImageFormat::Parallels => Format::Parallels,
        ImageFormat::Luks => Format::Luks,
        ImageFormat::Iso => Format::Iso,
        ImageFormat::Other => return Err(unknown()),
    }))
}

pub(crate) fn read_promise(size_bytes: Option<u64>, digests: Option<v1::Digests>) -> Result<Promise> {
    let v1::Digests { md5, sha256, sha512, crc32 } = digests.unwrap_or_default();
    Ok(Promise {
        size_bytes,
        md5: read_digest("expected_digests.md5", md5, 32)?,
        sha256: read_digest("expected_digests.sha256", sha256, 64)?,
        sha512: read_digest("expected_digests.sha512", sha512, 128)?,
        crc32,
    })
}

fn read_digest(field: &'static str, text: String, digits: usize) -> Result<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::invalid(field, format!("has {digits} hexadecimal digits, or is empty")));
    }
    Ok(Some(text.to_ascii_lowercase()))
}

pub(crate) fn read_duration(field: &'static str, duration: pbjson_types::Duration) -> Result<Duration> {
    Duration::try_from(duration).map_err(|_| Failure::invalid(field, "must not be negative"))
}

pub(crate) fn read_job_states(values: &[i32]) -> Result<Vec<JobState>> {
    read_all("states", values, |value| {
        Some(match v1::JobState::try_from(value).ok()? {
            v1::JobState::Unspecified => return None,
            v1::JobState::Queued => JobState::Queued,
            v1::JobState::Running => JobState::Running,
            v1::JobState::Succeeded => JobState::Succeeded,
            v1::JobState::Failed => JobState::Failed,
            v1::JobState::Cancelled => JobState::Cancelled,
        })
    })
}

pub(crate) fn read_job_kinds(values: &[i32]) -> Result<Vec<JobKind>> {
    read_all("kinds", values, |value| {
        Some(match v1::JobKind::try_from(value).ok()? {
            v1::JobKind::Unspecified => return None,
            v1::JobKind::Check => JobKind::Check,
            v1::JobKind::Compress => JobKind::Compress,
            v1::JobKind::Estimate => JobKind::Estimate,
            v1::JobKind::Convert => JobKind::Convert,
            v1::JobKind::Copy => JobKind::Copy,
            v1::JobKind::Scrub => JobKind::Scrub,
            v1::JobKind::Drain => JobKind::Drain,
            v1::JobKind::Import => JobKind::Import,
        })
    })
}

pub(crate) fn read_upload_states(values: &[i32]) -> Result<Vec<UploadState>> {
    read_all("states", values, |value| {
        Some(match v1::UploadState::try_from(value).ok()? {
            v1::UploadState::Unspecified => return None,
            v1::UploadState::Open => UploadState::Open,
            v1::UploadState::Committed => UploadState::Committed,
            v1::UploadState::Aborted => UploadState::Aborted,
            v1::UploadState::Failed => UploadState::Failed,
            v1::UploadState::Stored => UploadState::Stored,
        })
    })
}

pub(super) fn read_all<T>(
    field: &'static str,
    values: &[i32],
    read: impl Fn(i32) -> Option<T>,
) -> Result<Vec<T>> {
    values
        .iter()
        .map(|value| {
            read(*value).ok_or_else(|| Failure::invalid(field, format!("{value} is no value of this filter")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_default_to_both() {
        assert_eq!(read_digest_choice(&[], false), Ok((true, true)));
        assert_eq!(read_digest_choice(&[], true), Ok((false, false)));
        assert_eq!(read_digest_choice(&[1], false), Ok((true, false)));
        assert!(read_digest_choice(&[1], true).is_err());
        assert!(read_digest_choice(&[0], false).is_err());
        assert!(read_digest_choice(&[77], false).is_err());
    }

    #[test]
    fn a_promised_digest_has_its_form() {
        let digests = |md5: &str| Some(v1::Digests { md5: md5.to_owned(), ..v1::Digests::default() });
        let upper = "D41D8CD98F00B204E9800998ECF8427E";
        let promise = read_promise(None, digests(upper)).expect("upper case is taken");
        assert_eq!(promise.md5, Some(upper.to_lowercase()));
        assert!(read_promise(None, digests("d41d")).is_err());
        assert!(read_promise(None, digests(&"x".repeat(32))).is_err());
    }
}
