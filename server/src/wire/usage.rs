//! What tenants have and may have.

use imageops::v1;
use imageops_catalogue::Usage;
use imageops_model::Tenant;

pub(crate) fn usage(tenant: &Tenant, usage: &Usage) -> v1::Usage {
    v1::Usage {
        tenant: tenant.to_string(),
        images: usage.images,
        bytes: usage.bytes,
        reserved_bytes: usage.reserved_bytes,
        images_max: usage.quota.images_max,
        bytes_max: usage.quota.bytes_max,
    }
}
