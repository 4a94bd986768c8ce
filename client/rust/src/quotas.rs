//! What tenants have, and may have.

use imageops::v1::{GetUsageRequest, SetQuotaRequest, Usage};

use crate::client::Client;
use crate::error::{Error, Result};

impl Client {
    /// What a tenant has and may have; an empty name means the caller's own.
    pub async fn get_usage(&self, tenant: &str) -> Result<Usage> {
        let request = GetUsageRequest { tenant: tenant.to_owned() };
        let answer =
            self.call_images(request, async |mut stub, request| stub.get_usage(request).await).await?;
        answer.usage.ok_or(Error::Protocol("no usage in the answer"))
    }

    /// Says what a tenant may have and answers with what it has; nothing where the default of all tenants was set.
    pub async fn set_quota(&self, request: SetQuotaRequest) -> Result<Option<Usage>> {
        let answer =
            self.call_images(request, async |mut stub, request| stub.set_quota(request).await).await?;
        Ok(answer.usage)
    }
}
