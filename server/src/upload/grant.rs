//! The bytes of the tenant's quota that an upload holds while it grows (SEC-14).

use imageops_catalogue::{UploadRow, Usage};

use crate::app::App;
use crate::clock::now;
use crate::failure::{Result, quota_exceeded};

/// How far ahead of what came the quota is asked for: one transaction for so many bytes.
const AHEAD_BYTES: u64 = 64 << 20;
/// Less than this is not worth it: the next chunk or two take it.
const AHEAD_BYTES_MIN: u64 = 1 << 20;
/// So many uploads may hold more than came to them without another one being refused for it.
const AHEAD_UPLOADS: u64 = 1_024;

/// What an upload holds.
pub struct Grant(u64);

impl Grant {
    /// As the row of an upload tells.
    pub fn of(upload: &UploadRow) -> Self {
        Self(upload.reserved_bytes)
    }

    /// Makes sure that the upload holds `length` bytes in all; RESOURCE_EXHAUSTED when the quota has no room for them.
    pub async fn cover(&mut self, app: &App, upload: &UploadRow, length: u64) -> Result<()> {
        if length <= self.0 {
            return Ok(());
        }
        let wanted = match upload.size_bytes.filter(|_| upload.archive.is_none()) {
            // What was declared is all that will come.
            Some(declared) => declared.max(length),
            None => length.saturating_add(ahead(&app.catalogue.get_usage(&upload.tenant).await?)),
        };
        self.0 = app.catalogue.reserve_upload(upload.id, length..=wanted, now()).await?;
        if length <= self.0 {
            return Ok(());
        }
        let usage = app.catalogue.get_usage(&upload.tenant).await?;
        let limit = usage.quota.bytes_max.unwrap_or(u64::MAX);
        Err(quota_exceeded("bytes", limit, used(&usage)))
    }
}

/// How many bytes more than came an upload of unknown length may hold: a small part of the room, so that all together never hold
/// much of it; none where there is little, which others may need to the last byte.
fn ahead(usage: &Usage) -> u64 {
    let room = usage.quota.bytes_max.map_or(u64::MAX, |limit| limit.saturating_sub(used(usage)));
    let part = room / AHEAD_UPLOADS;
    if part < AHEAD_BYTES_MIN { 0 } else { part.min(AHEAD_BYTES) }
}

fn used(usage: &Usage) -> u64 {
    usage.bytes.saturating_add(usage.reserved_bytes)
}

#[cfg(test)]
mod tests {
    use imageops_catalogue::Quota;

    use super::*;

    #[test]
    fn sec_14_nothing_is_held_ahead_of_what_others_need() {
        let usage = |bytes_max| Usage {
            bytes: 1 << 30,
            reserved_bytes: 1 << 20,
            quota: Quota { images_max: None, bytes_max },
            ..Usage::default()
        };
        assert_eq!(ahead(&usage(None)), AHEAD_BYTES);
        assert_eq!(ahead(&usage(Some(1 << 40))), AHEAD_BYTES);
        assert_eq!(ahead(&usage(Some((11 << 30) + (1 << 20)))), 10 << 20);
        assert_eq!(ahead(&usage(Some(2 << 30))), 0, "there is less than 1 GiB of room");
        assert_eq!(ahead(&usage(Some(1 << 20))), 0, "more is used than the quota allows");
    }
}
