//! Access keys.

use std::fmt;

use imageops_model::{KeyId, Label, Micros, Scope, Tenant};

/// An access key. The secret itself is not kept, and its digest is not shown.
#[derive(Clone, PartialEq)]
pub struct KeyRow {
    /// Id.
    pub id: KeyId,
    /// SHA-256 of the secret.
    pub secret_sha256: [u8; 32],
    /// Tenant that the key acts for.
    pub tenant: Tenant,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Label.
    pub label: Label,
    /// When it was made.
    pub create_time: Micros,
    /// When it was revoked.
    pub revoke_time: Option<Micros>,
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyRow")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("scopes", &self.scopes)
            .field("label", &self.label)
            .field("create_time", &self.create_time)
            .field("revoke_time", &self.revoke_time)
            .finish_non_exhaustive()
    }
}
