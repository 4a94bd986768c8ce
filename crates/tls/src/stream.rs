//! Connections, plain or encrypted.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::greeting::Greeting;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// From where it came.
    pub address: SocketAddr,
    /// SHA-256 of the certificate (DER) that it proved to have.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// The address, and behind a space the digest in hexadecimal where there is one.
impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.address)?;
        let Some(digest) = &self.certificate_sha256 else { return Ok(()) };
        write!(formatter, " {}", hex::encode(digest))
    }
}

/// A text that tells of no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address, and maybe a digest")]
pub struct InvalidPeer;

impl FromStr for Peer {
    type Err = InvalidPeer;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, digest) = match text.split_once(' ') {
            Some((address, text)) => {
                let mut digest = [0; 32];
                hex::decode_to_slice(text, &mut digest).map_err(|_| InvalidPeer)?;
                (address, Some(digest))
            }
            None => (text, None),
        };
        Ok(Self { address: address.parse().map_err(|_| InvalidPeer)?, certificate_sha256: digest })
    }
}

/// A connection. Reading fails with [`io::ErrorKind::TimedOut`] while its client has not said which HTTP it speaks, in the
/// time that a handshake may take: until then neither HTTP/1 nor HTTP/2 have begun to count.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    greeting: Option<Greeting>,
}

#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, greeting: Some(Greeting::awaited()) }
    }

    /// The connection of TCP, unless it is encrypted.
    pub fn plain(&self) -> Option<&TcpStream> {
        match &self.socket {
            Socket::Plain(stream) => Some(stream),
            Socket::Encrypted(_) => None,
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::new(Socket::Plain(stream))
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match &mut $stream.get_mut().socket {
            Socket::Plain($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Socket::Encrypted($inner) => {
                let $inner = Pin::new($inner.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = either!(self.as_mut(), inner => inner.poll_read(context, buffer));
        let Some(greeting) = &mut self.greeting else { return read };
        match read {
            Poll::Pending => greeting.poll_late(context).map(Err),
            Poll::Ready(_) => {
                if greeting.is_over(&buffer.filled()[before..]) {
                    self.greeting = None;
                }
                read
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => inner.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(stream) => stream.is_write_vectored(),
            Socket::Encrypted(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => inner.poll_shutdown(context))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_reads_back_from_its_text() {
        for address in ["127.0.0.1:80", "[::1]:443"] {
            for certificate_sha256 in [None, Some([0x0a; 32])] {
                let peer = Peer { address: address.parse().unwrap(), certificate_sha256 };
                assert_eq!(peer.to_string().parse(), Ok(peer));
            }
        }
        let short = format!("127.0.0.1:80 {}", "a".repeat(63));
        let odd = format!("127.0.0.1:80 {}\u{e4}", "a".repeat(62));
        for wrong in ["", "127.0.0.1", "127.0.0.1:80 ", &short, &odd] {
            assert_eq!(wrong.parse::<Peer>(), Err(InvalidPeer), "{wrong}");
        }
    }
}
