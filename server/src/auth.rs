//! Who is calling, and what they may do.

use std::sync::Arc;

use axum::http::{Extensions, HeaderMap};
use imageops_catalogue::{Catalogue, KeyProof, KeyRow};
use imageops_model::{KeyId, Scope, Tenant};
use imageops_tls::Peer;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tonic::Code;

use crate::audit::Record;
use crate::clock::latest;
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
    /// The key; none where nobody is asked for one.
    pub key: Option<KeyId>,
    /// What the audit log will tell of the call.
    pub record: Record,
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

impl From<KeyRow> for Caller {
    fn from(key: KeyRow) -> Self {
        Self { tenant: key.tenant, key: Some(key.id), record: Record::default(), scopes: key.scopes }
    }
}

/// Who is at the other end of the connection that a request came by. The gateway in this process names whoever is at its
/// own, in metadata; what comes over the network names itself nowhere but in its connection.
pub fn peer_of(extensions: &Extensions, headers: &HeaderMap) -> Option<Peer> {
    match extensions.get::<Peer>() {
        Some(peer) => Some(peer.clone()),
        None => headers.get("imageops-peer")?.to_str().ok()?.parse().ok(),
    }
}

/// Checks callers by the mode that the server was started with.
pub struct Authenticator {
    mode: AuthMode,
    /// Whether whoever has no client certificate is turned away, whatever else it has.
    certificates_only: bool,
    catalogue: Arc<dyn Catalogue>,
}

impl Authenticator {
    /// An authenticator that looks keys up in `catalogue`.
    pub fn new(mode: AuthMode, certificates_only: bool, catalogue: Arc<dyn Catalogue>) -> Self {
        Self { mode, certificates_only, catalogue }
    }

    /// The caller of a request.
    pub async fn identify(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Caller> {
        let certificate = peer.and_then(|peer| peer.certificate_sha256);
        if self.certificates_only && certificate.is_none() {
            return Err(unauthenticated("show a client certificate"));
        }
        match self.mode {
            AuthMode::None => Ok(Caller {
                tenant: Tenant::built_in(),
                key: None,
                record: Record::default(),
                scopes: vec![Scope::Admin],
            }),
            AuthMode::Token => self.by_token(headers).await,
            AuthMode::Mtls => self.by_certificate(certificate).await,
        }
    }

    async fn by_token(&self, headers: &HeaderMap) -> Result<Caller> {
        let header = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let secret = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, secret)| secret.trim());
        if secret.is_empty() {
            return Err(unauthenticated("send `authorization: Bearer KEY`"));
        }
        let digest = hash_secret(secret);
        let key = self.catalogue.find_key(KeyProof::Secret, &digest, latest()).await?;
        let key = key.ok_or_else(|| unauthenticated("the key is not known"))?;
        // The index already compared the digests; this compares them again in a time that tells nothing.
        if !bool::from(key.proof_sha256.ct_eq(&digest)) {
            return Err(unauthenticated("the key is not known"));
        }
        Ok(key.into())
    }

    /// The connection has proved that the caller has the certificate; what it may do, its key says.
    async fn by_certificate(&self, certificate: Option<[u8; 32]>) -> Result<Caller> {
        let Some(digest) = certificate else { return Err(unauthenticated("show a client certificate")) };
        let key = self.catalogue.find_key(KeyProof::Certificate, &digest, latest()).await?;
        key.map(Caller::from).ok_or_else(|| unauthenticated("the certificate has no key"))
    }
}

fn unauthenticated(message: &str) -> Failure {
    Failure::new(Code::Unauthenticated, reason::UNAUTHENTICATED, message)
}

/// Digest under which a secret is kept. Secrets have 256 random bits: a fast digest is enough.
fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// What proves a new key: the client certificate with this digest, or a new secret of 256 random bits, which comes last.
pub fn prove(
    certificate_sha256: Option<[u8; 32]>,
) -> std::result::Result<(KeyProof, [u8; 32], Option<String>), getrandom::Error> {
    if let Some(digest) = certificate_sha256 {
        return Ok((KeyProof::Certificate, digest, None));
    }
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    let secret = format!("{SECRET_PREFIX}{}", hex::encode(bytes));
    Ok((KeyProof::Secret, hash_secret(&secret), Some(secret)))
}
