//! One connection to a target that the gate let through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Host;

use crate::allow::without_dot;
use crate::error::{Error, Result};
use crate::gate::Admitted;

/// The most that is read at a time. A head is given up once so much is there without its end: 64 KiB at most.
const READ_BYTES_MAX: usize = 32 << 10;

/// A connection; it goes when this is dropped.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Empty<Bytes>>,
    pub(crate) driver: Driver,
}

/// The task that moves the bytes of a connection.
pub(crate) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What TLS trusts: the roots of the system, and those that are named beside them.
pub(crate) fn tls(mut roots: RootCertStore) -> Result<Arc<ClientConfig>> {
    // Roots that cannot be read are none; without any, every https source is unreachable.
    let (added, ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    tracing::debug!(added, ignored, "root certificates of the system");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::Unreachable)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Certificates in PEM form; `None` where one is broken, or there is none.
pub fn read_roots(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}

/// Connects to one of the addresses that were judged. Every failure is the same one.
pub(crate) async fn connect(
    target: &Admitted,
    tls: &Arc<ClientConfig>,
    within: Duration,
) -> Result<Connection> {
    let stream = connect_tcp(target, within).await?;
    // Bytes of a download come in one direction.
    let _ = stream.set_nodelay(true);
    if target.url.scheme() != "https" {
        return handshake(stream).await;
    }
    let name = server_name(target).ok_or(Error::Unreachable)?;
    let connecting = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
    match timeout(within, connecting).await {
        Ok(Ok(stream)) => handshake(stream).await,
        Ok(Err(_)) | Err(_) => Err(Error::Unreachable),
    }
}

async fn connect_tcp(target: &Admitted, within: Duration) -> Result<TcpStream> {
    let began = Instant::now();
    let mut addresses = target.addresses.iter();
    while let Some(address) = addresses.next() {
        let time = share(within, within.saturating_sub(began.elapsed()), addresses.len());
        match timeout(time, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => tracing::debug!(%address, %error, "no connection"),
            Err(_) => tracing::debug!(%address, "no connection in time"),
        }
    }
    Err(Error::Unreachable)
}

/// Time for one address, of what is left of `within` with so many addresses behind it. All share it, so that one that
/// swallows packets leaves some to the next. A third is the least: of ten seconds that outlasts two lost packets, which are
/// sent again after one second and two more (RFC 6298).
fn share(within: Duration, left: Duration, behind: usize) -> Duration {
    let equal = left / u32::try_from(behind).unwrap_or(u32::MAX).saturating_add(1);
    equal.max(within / 3).min(left)
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Connection> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(READ_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Error::Unreachable)?;
    let driver = Driver(tokio::spawn(async move {
        // What breaks it shows in the body as well.
        let _ = connection.await;
    }));
    Ok(Connection { sender, driver })
}

fn server_name(target: &Admitted) -> Option<ServerName<'static>> {
    Some(match target.url.host()? {
        Host::Ipv4(address) => ServerName::IpAddress(std::net::IpAddr::from(address).into()),
        Host::Ipv6(address) => ServerName::IpAddress(std::net::IpAddr::from(address).into()),
        Host::Domain(name) => ServerName::try_from(without_dot(name).to_owned()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_time_for_a_lost_packet() {
        let second = Duration::from_secs(1);
        let within = 10 * second;
        assert_eq!(share(within, within, 0), within);
        assert_eq!(share(within, within, 1), 5 * second);
        assert!(share(within, within, 7) >= 3 * second);
        assert_eq!(share(within, 2 * second, 5), 2 * second, "no more than is left");
        assert_eq!(share(within, Duration::ZERO, 5), Duration::ZERO);
        // Those that refuse at once leave their time to the others.
        assert_eq!(share(within, 9 * second, 0), 9 * second);
    }
}
