//! Where and how the server listens.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use imageops_tls::{Certificates, Door, Files, Peer, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::config::Config;
use crate::exit::{Exit, Fatal};

/// The door of both ports. Files that cannot be used end the start. Blocks.
pub(crate) fn door(config: &Config, stop: &CancellationToken) -> Result<Door, Fatal> {
    let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else {
        return Ok(Door::plain());
    };
    let client_ca = config.tls_client_ca.clone();
    let files = Files { certificate: certificate.clone(), key: key.clone(), client_ca };
    let certificates = Certificates::read(files)
        .map_err(|error| Fatal::new(Exit::Configuration, format!("--tls-cert, --tls-key: {error}")))?;
    let certificates = Arc::new(certificates);
    tokio::spawn(Arc::clone(&certificates).keep_fresh(stop.clone()));
    Ok(Door::encrypted(certificates))
}

/// The connections that come to a port of gRPC, so many at a time; more wait in the listener's queue.
pub(crate) fn incoming(
    listener: TcpListener,
    door: Door,
    connections_max: usize,
) -> impl futures::Stream<Item = Result<Accepted, io::Error>> {
    let ready = ReceiverStream::new(door.accept_all(listener, connections_max));
    ready.map(|(stream, peer, place)| Ok(Accepted { stream, peer, _place: place }))
}

/// A connection, which tells each request who is at the other end.
pub(crate) struct Accepted {
    stream: Stream,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
