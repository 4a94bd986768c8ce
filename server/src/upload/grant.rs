//! The bytes of the tenant's quota that an upload holds while it grows (SEC-14).

use imageops_catalogue::UploadRow;

use crate::app::App;
use crate::clock::now;
use crate::failure::{Result, quota_exceeded};

/// How far ahead of what came the quota is asked for: one transaction for so many bytes.
const AHEAD_BYTES: u64 = 64 << 20;

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
        // What was declared is all that will come.
        let ahead = upload.size_bytes.filter(|_| upload.archive.is_none()).unwrap_or(length + AHEAD_BYTES);
        self.0 = app.catalogue.reserve_upload(upload.id, ahead.max(length), now()).await?;
        if length <= self.0 {
            return Ok(());
        }
        let usage = app.catalogue.get_usage(&upload.tenant).await?;
        let limit = usage.quota.bytes_max.unwrap_or(u64::MAX);
        Err(quota_exceeded("bytes", limit, usage.bytes.saturating_add(usage.reserved_bytes)))
    }
}
