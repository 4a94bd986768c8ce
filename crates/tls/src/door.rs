//! From an accepted TCP connection to one that can be spoken on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::stream::{Peer, Socket, Stream};

/// How long a handshake may take, and then the first bytes.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what it is sent, not even acknowledge it (RFC 5482): what waits for it is let go
/// then. Who reads slowly takes something.
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(60);
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
        // A connection that stays as it is works, if slowly, or for too long.
        let user_timeout_ms = UNTAKEN_TIMEOUT.as_millis() as u32;
        let set = stream
            .set_nodelay(true)
            .and(set_tcp_user_timeout(&stream, user_timeout_ms).map_err(io::Error::from));
        if let Err(error) = set {
            tracing::debug!(%error, "a connection stays as the system made it");
        }
        let Some(certificates) = &self.0 else {
            return Ok((Stream::from(stream), Peer { address, certificate_sha256: None }));
        };
        let acceptor = TlsAcceptor::from(certificates.config());
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))??;
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate_sha256 = presented.map(|certificate| Sha256::digest(certificate).into());
        Ok((Stream::new(Socket::Encrypted(Box::new(stream))), Peer { address, certificate_sha256 }))
    }

    /// Accepts connections until the receiver is dropped, at most `connections_max` at a time: each holds a permit for as
    /// long as it is open. Handshakes run beside each other: a slow one holds nobody up.
    pub fn accept_all(
        self,
        listener: TcpListener,
        connections_max: usize,
    ) -> mpsc::Receiver<(Stream, Peer, OwnedSemaphorePermit)> {
        let (sender, receiver) = mpsc::channel(READY_MAX);
        tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
            let places = Arc::new(Semaphore::new(connections_max));
            loop {
                let both = async { (acquire(&permits).await, acquire(&places).await) };
                let (permit, place) = tokio::select! {
                    both = both => both,
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
                        Ok((stream, peer)) => drop(sender.send((stream, peer, place)).await),
                        Err(error) => tracing::debug!(%error, "a handshake failed"),
                    }
                });
            }
        });
        receiver
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("the semaphore is never closed")
}
