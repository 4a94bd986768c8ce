//! When two requests ask for one job.

use std::os::unix::fs::MetadataExt as _;

use imageops_catalogue::RequestKey;
use imageops_model::JobKind;
use prost::Message;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::app::{OpenSource, blocking};
use crate::failure::{Failure, Result};

/// What makes a request another one: the id that its client gave it, or else what it asks for.
pub(super) enum Identity {
    /// The client tells its requests apart itself.
    Id(RequestKey),
    /// Who gives no id wants the work done, once (SEC-42).
    Content([u8; 32]),
}

impl Identity {
    /// Of a request with this `request_id`, and all else in `content`. The kind is part of it: requests of two kinds may be
    /// the same bytes.
    pub(super) fn of(kind: JobKind, request_id: &str, content: &impl Message) -> Result<Self> {
        let digest = Sha256::new().chain_update(kind.as_str()).chain_update(content.encode_to_vec());
        let fingerprint = digest.finalize().into();
        if request_id.is_empty() {
            return Ok(Self::Content(fingerprint));
        }
        let id = Uuid::try_parse(request_id)
            .map_err(|_| Failure::invalid("request_id", "must be a UUID, or empty"))?;
        Ok(Self::Id(RequestKey { id, fingerprint }))
    }

    /// The idempotency key.
    pub(super) fn request_key(&self) -> Option<RequestKey> {
        match self {
            Self::Id(key) => Some(*key),
            Self::Content(_) => None,
        }
    }

    /// What it has in common with others that ask for the same of the same bytes. Those of an image never change; a file
    /// is another one once it was written to.
    pub(super) async fn coalesce_key(&self, source: &OpenSource) -> Result<Option<String>> {
        let Self::Content(fingerprint) = self else { return Ok(None) };
        let alike = hex::encode(fingerprint);
        let Some(file) = &source.file else { return Ok(Some(format!("same:{alike}"))) };
        let file = file.try_clone().map_err(Failure::internal)?;
        let now = blocking(move || file.metadata()).await?.map_err(Failure::internal)?;
        Ok(Some(format!(
            "same:{alike}:{}:{}:{}:{}.{}:{}.{}",
            now.dev(),
            now.ino(),
            now.size(),
            now.mtime(),
            now.mtime_nsec(),
            now.ctime(),
            now.ctime_nsec()
        )))
    }
}
