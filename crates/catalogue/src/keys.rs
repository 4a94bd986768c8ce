//! Access keys.

use std::fmt;

use imageops_model::{KeyId, Label, Micros, Scope, Tenant};

/// What proves a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProof {
    /// A secret that the caller sends.
    Secret,
    /// A client certificate whose private key the caller has.
    Certificate,
}

impl KeyProof {
    /// The name in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Certificate => "certificate",
        }
    }

    /// The proof of a name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Secret, Self::Certificate].into_iter().find(|proof| proof.as_str() == name)
    }
}

/// An access key. A secret itself is not kept, and its digest is not shown.
#[derive(Clone, PartialEq)]
pub struct KeyRow {
    /// Id.
    pub id: KeyId,
    /// What proves it.
    pub proof: KeyProof,
    /// SHA-256 of the secret, or of the certificate.
    pub proof_sha256: [u8; 32],
    /// Tenant that the key acts for.
    pub tenant: Tenant,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Label.
    pub label: Label,
    /// When it was made.
    pub create_time: Micros,
    /// From when on it opens nothing.
    pub expire_time: Option<Micros>,
    /// When it was revoked.
    pub revoke_time: Option<Micros>,
}

impl KeyRow {
    /// Whether its time was over at `now`.
    pub fn is_expired(&self, now: Micros) -> bool {
        self.expire_time.is_some_and(|time| time <= now)
    }
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyRow")
            .field("id", &self.id)
            .field("proof", &self.proof)
            .field("tenant", &self.tenant)
            .field("scopes", &self.scopes)
            .field("label", &self.label)
            .field("create_time", &self.create_time)
            .field("expire_time", &self.expire_time)
            .field("revoke_time", &self.revoke_time)
            .finish_non_exhaustive()
    }
}
