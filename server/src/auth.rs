//! Who is calling, and what they may do.

use std::sync::Arc;

use imageops_catalogue::{Catalogue, KeyProof};
use imageops_model::{Scope, Tenant};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::Code;
use tonic::metadata::MetadataMap;

use crate::clock::now;
use crate::config::AuthMode;
use crate::failure::{Failure, Result};
use crate::reason;

/// First characters of every secret, so that scanners know one when they see it.
pub const SECRET_PREFIX: &str = "iok_";

/// A caller whose key was checked.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Tenant that the call acts for.
    pub tenant: Tenant,
    scopes: Vec<Scope>,
}

impl Caller {
    /// Refuses a caller whose key does not have `scope`.
    pub fn allow(&self, scope: Scope) -> Result<()> {
        if self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin) {
            return Ok(());
        }
        let message = format!("the key does not allow this; make one with `--scopes {}`", scope.as_str());
        Err(Failure::new(Code::PermissionDenied, reason::SCOPE_MISSING, message)
            .with("scope", scope.as_str()))
    }
}

/// Checks callers by the mode that the server was started with.
pub struct Authenticator {
    mode: AuthMode,
    catalogue: Arc<dyn Catalogue>,
}

impl Authenticator {
    /// An authenticator that looks keys up in `catalogue`.
    pub fn new(mode: AuthMode, catalogue: Arc<dyn Catalogue>) -> Self {
        Self { mode, catalogue }
    }

    /// The caller of a request, if it may do what needs `scope`.
    pub async fn authorize(&self, metadata: &MetadataMap, scope: Scope) -> Result<Caller> {
        let caller = match self.mode {
            AuthMode::None => Caller { tenant: Tenant::built_in(), scopes: vec![Scope::Admin] },
            AuthMode::Token => self.by_token(metadata).await?,
        };
        caller.allow(scope)?;
        Ok(caller)
    }

    async fn by_token(&self, metadata: &MetadataMap) -> Result<Caller> {
        let header = metadata.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let secret = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, secret)| secret.trim());
        if secret.is_empty() {
            return Err(unauthenticated("send `authorization: Bearer KEY`"));
        }
        let digest = hash_secret(secret);
        let key = self.catalogue.find_key(KeyProof::Secret, &digest, now()).await?;
        let key = key.ok_or_else(|| unauthenticated("the key is not known"))?;
        // The index already compared the digests; this compares them again in a time that tells nothing.
        if !bool::from(key.proof_sha256.ct_eq(&digest)) {
            return Err(unauthenticated("the key is not known"));
        }
        Ok(Caller { tenant: key.tenant, scopes: key.scopes })
    }
}

fn unauthenticated(message: &str) -> Failure {
    Failure::new(Code::Unauthenticated, reason::UNAUTHENTICATED, message)
}

/// Digest under which a secret is kept. Secrets have 256 random bits: a fast digest is enough.
pub fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// A new secret of 256 random bits.
pub fn make_secret() -> std::result::Result<String, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{SECRET_PREFIX}{}", hex::encode(bytes)))
}
