//! GetUsage and SetQuota.

use imageops::v1;
use imageops_catalogue::Quota;
use imageops_model::Tenant;

use super::stores::require_operator;
use crate::app::App;
use crate::auth::Caller;
use crate::failure::{Failure, Result};
use crate::wire;

/// What the caller's tenant has, or with the right to know it another one.
pub(super) async fn usage(app: &App, caller: &Caller, request: v1::GetUsageRequest) -> Result<v1::Usage> {
    let tenant = match request.tenant {
        own if own.is_empty() || own == caller.tenant.as_str() => caller.tenant.clone(),
        other => {
            require_operator(caller)?;
            read_tenant(other)?
        }
    };
    Ok(wire::usage(&tenant, &app.catalogue.get_usage(&tenant).await?))
}

/// Sets the quota of a tenant, or the default one; what the tenant has then. The caller is an operator.
pub(super) async fn set(app: &App, request: v1::SetQuotaRequest) -> Result<Option<v1::Usage>> {
    let quota = Quota { images_max: request.images_max, bytes_max: request.bytes_max };
    if request.tenant.is_empty() {
        app.catalogue.set_quota(None, Some(quota)).await?;
        return Ok(None);
    }
    let tenant = read_tenant(request.tenant)?;
    app.catalogue.set_quota(Some(&tenant), Some(quota)).await?;
    Ok(Some(wire::usage(&tenant, &app.catalogue.get_usage(&tenant).await?)))
}

/// A tenant that a caller named.
pub(super) fn read_tenant(name: String) -> Result<Tenant> {
    Tenant::new(name).map_err(|error| Failure::invalid("tenant", error.to_string()))
}
