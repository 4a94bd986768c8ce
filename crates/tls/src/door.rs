//! From an accepted TCP connection to one that can be spoken on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::stream::{Peer, Stream};

/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most handshakes under way at one listener; more wait in its queue.
const HANDSHAKES_MAX: usize = 4096;
/// Connections that are ready and not taken yet.
const READY_MAX: usize = 64;
/// Pause after an accept that failed for want of something: trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are let in: as they are, or by TLS.
#[derive(Clone, Debug, Default)]
pub struct Door(Option<Arc<Certificates>>);

impl Door {
    /// Connections as they are.
    pub fn plain() -> Self {
        Self(None)
    }

    /// By TLS alone.
    pub fn encrypted(certificates: Arc<Certificates>) -> Self {
        Self(Some(certificates))
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.is_some()
    }

    /// Makes an accepted connection ready, within [`HANDSHAKE_TIMEOUT`].
    pub async fn let_in(&self, stream: TcpStream, address: SocketAddr) -> io::Result<(Stream, Peer)> {
        // A connection that stays with delayed sending is slow, and works.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays with delayed sending");
        }
        let Some(certificates) = &self.0 else {
            return Ok((Stream::Plain(stream), Peer { address, certificate_sha256: None }));
        };
        let acceptor = TlsAcceptor::from(certificates.config());
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))??;
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate_sha256 = presented.map(|certificate| Sha256::digest(certificate).into());
        Ok((Stream::Encrypted(Box::new(stream)), Peer { address, certificate_sha256 }))
    }

    /// Accepts connections until the receiver is dropped. Handshakes run beside each other: a slow one holds nobody up.
    pub fn accept_all(self, listener: TcpListener) -> mpsc::Receiver<(Stream, Peer)> {
        let (sender, receiver) = mpsc::channel(READY_MAX);
        tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
            loop {
                let permit = tokio::select! {
                    permit = Arc::clone(&permits).acquire_owned() => permit.expect("the semaphore is never closed"),
                    () = sender.closed() => return,
                };
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = sender.closed() => return,
                };
                let (stream, address) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let (door, sender) = (self.clone(), sender.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    match door.let_in(stream, address).await {
                        // Nobody takes it any more: the server goes down.
                        Ok(ready) => drop(sender.send(ready).await),
                        Err(error) => tracing::debug!(%error, "a handshake failed"),
                    }
                });
            }
        });
        receiver
    }
}
