//! Certificates and keys in files, renewed when the files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest file: a chain has a few certificates, a list of authorities a few hundred.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where certificates and keys are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, and behind it those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose client certificates are taken. Absent: none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds no certificate, or something else.
    #[error("{} holds no certificate in PEM form", .0.display())]
    NoCertificate(PathBuf),
    /// A file holds no private key that can be read.
    #[error("{} holds no private key in PEM form without a password", .0.display())]
    NoKey(PathBuf),
    /// Certificate, key and authorities do not do together.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(String),
}

/// What the files held.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// The server's side of TLS, as the files say it is. Connections that are open stay as they were made.
#[derive(Debug)]
pub struct Certificates {
    files: Files,
    /// Written by [`Certificates::renew`] alone.
    config: RwLock<Arc<ServerConfig>>,
    /// Digest of the contents that were last tried, good or bad: a bad file is complained of once.
    tried: RwLock<[u8; 32]>,
}

impl Certificates {
    /// Reads the files. Blocks.
    pub fn read(files: Files) -> Result<Self, Error> {
        let contents = Contents::read(&files)?;
        let config = contents.config(&files)?;
        let tried = RwLock::new(contents.digest());
        Ok(Self { files, config: RwLock::new(Arc::new(config)), tried })
    }

    /// What handshakes that begin now use.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether clients are asked for certificates.
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Reads the files again, and uses them when they are others than the last time and can be used; whether they are used.
    /// Blocks.
    pub fn renew(&self) -> Result<bool, Error> {
        let contents = Contents::read(&self.files)?;
        let digest = contents.digest();
        if std::mem::replace(&mut *self.tried.write().unwrap_or_else(PoisonError::into_inner), digest)
            == digest
        {
            return Ok(false);
        }
        let config = Arc::new(contents.config(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(true)
    }

    /// Renews the certificates when their files change, and at once at SIGHUP, until `stop`.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hang_up = match signal(SignalKind::hangup()) {
            Ok(hang_up) => hang_up,
            Err(error) => {
                tracing::error!(%error, "certificates are not renewed without a restart");
                return;
            }
        };
        // A file that cannot be read is complained of once, too.
        let mut unreadable = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = hang_up.recv() => unreadable = false,
                () = stop.cancelled() => return,
            }
            let certificates = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || certificates.renew()).await {
                Ok(Ok(true)) => tracing::info!("new certificates are in use"),
                Ok(Ok(false)) => unreadable = false,
                Ok(Err(Error::Read { .. })) if unreadable => {}
                Ok(Err(error)) => {
                    unreadable = matches!(error, Error::Read { .. });
                    tracing::error!(%error, "the new certificates cannot be used; the old ones stay in use");
                }
                Err(error) => tracing::error!(%error, "certificates were not looked at"),
            }
        }
    }
}

impl Contents {
    fn read(files: &Files) -> Result<Self, Error> {
        Ok(Self {
            certificate: read_file(&files.certificate)?,
            key: read_file(&files.key)?,
            client_ca: files.client_ca.as_deref().map(read_file).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten()
        {
            hasher.update(Sha256::digest(part));
        }
        hasher.finalize().into()
    }

    fn config(&self, files: &Files) -> Result<ServerConfig, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(error.to_string());
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| Error::NoKey(files.key.clone()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(pem, path)? {
                    roots.add(root).map_err(|error| unusable(&error))?;
                }
                // Whoever has none is let in to the probes; the services themselves ask for it.
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| unusable(&error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if self.client_ca.is_some() {
            // A session that is taken up again would bring its certificate along unseen, expired or not.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

/// SHA-256 of the first certificate (DER) of a file in PEM: what keys are bound to. Blocks.
pub fn fingerprint(path: &Path) -> Result<[u8; 32], Error> {
    let chain = certificates(&read_file(path)?, path)?;
    chain
        .first()
        .map(|first| Sha256::digest(first).into())
        .ok_or_else(|| Error::NoCertificate(path.to_owned()))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(Error::NoCertificate(path.to_owned())),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(io::Error::other("it is too long for certificates")));
    }
    fs::read(path).map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn write_pair(directory: &Path) -> Files {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = Files {
            certificate: directory.join("server.pem"),
            key: directory.join("server.key"),
            client_ca: None,
        };
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn certificates_are_renewed_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let files = write_pair(directory.path());
        let certificates = Certificates::read(files.clone()).unwrap();
        let first = certificates.config();
        assert!(!certificates.renew().unwrap(), "nothing has changed");

        // A new certificate whose key has not come yet.
        let old_key = fs::read(&files.key).unwrap();
        write_pair(directory.path());
        let new_key = fs::read(&files.key).unwrap();
        fs::write(&files.key, old_key).unwrap();
        assert!(matches!(certificates.renew(), Err(Error::Unusable(_))));
        assert!(!certificates.renew().unwrap(), "complained of once");
        assert!(Arc::ptr_eq(&certificates.config(), &first), "the old one stays");
        fs::write(&files.key, new_key).unwrap();
        assert!(certificates.renew().unwrap());
        assert!(!Arc::ptr_eq(&certificates.config(), &first));

        fs::remove_file(&files.certificate).unwrap();
        assert!(matches!(certificates.renew(), Err(Error::Read { .. })));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let good = write_pair(directory.path());
        let empty = directory.path().join("empty");
        fs::write(&empty, "").unwrap();
        let without_certificate = Files { certificate: empty.clone(), ..good.clone() };
        assert!(
            matches!(Certificates::read(without_certificate), Err(Error::NoCertificate(path)) if path == empty)
        );
        let without_key = Files { key: empty.clone(), ..good.clone() };
        assert!(matches!(Certificates::read(without_key), Err(Error::NoKey(path)) if path == empty));
        let without_ca = Files { client_ca: Some(empty.clone()), ..good.clone() };
        assert!(matches!(Certificates::read(without_ca), Err(Error::NoCertificate(path)) if path == empty));
        let missing = Files { key: directory.path().join("none"), ..good.clone() };
        assert!(matches!(Certificates::read(missing), Err(Error::Read { .. })));
        let authorities = Files { client_ca: Some(good.certificate.clone()), ..good };
        assert!(Certificates::read(authorities).unwrap().asks_clients());
    }
}
