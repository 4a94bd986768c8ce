//! What hyper writes into: a connection that sends files where it is given stand-ins.

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use imageops_tls::Stream;
use rustix::fs::sendfile;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use rustix::net::sockopt::set_tcp_cork;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::passage::{Passage, Piece, is_stand_in};

/// Bytes that are sent in one go, and read ahead when they are not in memory.
const WINDOW_BYTES: u64 = 1 << 20;
/// Bytes of a read whose only purpose is to bring them into memory.
const READ_BYTES: usize = 256 << 10;

/// A connection and where its stand-ins get their bytes.
pub(crate) struct Outlet {
    stream: Stream,
    passage: Passage,
    /// Brings the next window into memory.
    reading: Option<JoinHandle<()>>,
    /// Whether the socket keeps what does not fill a segment until more comes, or until it is flushed.
    is_corked: bool,
}

impl Outlet {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, passage: Passage::default(), reading: None, is_corked: false }
    }

    /// What bodies of this connection send files by, where it can.
    pub(crate) fn passage(&self) -> Option<Passage> {
        self.stream.plain().map(|_| self.passage.clone())
    }

    /// Sends what a stand-in of this length stands for, or the beginning of it.
    fn poll_send(&mut self, context: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        self.cork(true)?;
        let Self { stream, passage, reading, .. } = self;
        let sent = passage.advance(|piece| {
            let length = (length as u64).min(piece.left.end - piece.left.start);
            loop {
                if piece.chunks.is_some() {
                    return poll_chunks(stream, piece, context, length as usize);
                }
                let Some(socket) = stream.plain() else {
                    return Poll::Ready(Err(io::Error::other("a file cannot be sent encrypted")));
                };
                match ready!(poll_file(socket, piece, reading, context, length.min(WINDOW_BYTES)))? {
                    Some(count) => return Poll::Ready(Ok(count)),
                    None => piece.chunks = Some(((piece.instead)(piece.left.clone()), Bytes::new())),
                }
            }
        });
        sent.unwrap_or_else(|| Poll::Ready(Err(io::Error::other("nothing is to be sent"))))
    }

    /// A file leaves in pieces of 64 KiB. Each would be pushed out at once, with a look at the network for each; segments that
    /// are filled across pieces take a third less time (tcp(7), `TCP_CORK`).
    fn cork(&mut self, is_corked: bool) -> io::Result<()> {
        if let (Some(socket), true) = (self.stream.plain(), self.is_corked != is_corked) {
            set_tcp_cork(socket, is_corked)?;
            self.is_corked = is_corked;
        }
        Ok(())
    }
}

/// Has the kernel send bytes of the file. `None`: it cannot, or the file cannot be read.
fn poll_file(
    socket: &TcpStream,
    piece: &Piece,
    reading: &mut Option<JoinHandle<()>>,
    context: &mut Context<'_>,
    length: u64,
) -> Poll<io::Result<Option<usize>>> {
    let at = piece.left.start;
    loop {
        ready!(socket.poll_write_ready(context))?;
        if let Some(task) = reading {
            // Whether it could be read shows when it is sent.
            let _ = ready!(Pin::new(task).poll(context));
            *reading = None;
        } else if !is_at_hand(&piece.file, at, length)? {
            *reading = Some(bring(Arc::clone(&piece.file), at, length));
            continue;
        }
        let mut offset = at;
        let count = usize::try_from(length).unwrap_or(usize::MAX);
        let sent = socket.try_io(Interest::WRITABLE, || {
            sendfile(socket, &piece.file, Some(&mut offset), count).map_err(io::Error::from)
        });
        return match sent {
            Ok(0) => Poll::Ready(Ok(None)),
            Ok(count) => Poll::Ready(Ok(Some(count))),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => continue,
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Poll::Ready(Err(error)),
                _ => {
                    tracing::warn!(%error, "a file cannot be sent as it is");
                    Poll::Ready(Ok(None))
                }
            },
        };
    }
}

/// Whether sending this range will not wait for the medium: whether its last page is in memory, as it is after all others
/// where files are read in order. An error of the file shows when it is sent.
fn is_at_hand(file: &File, at: u64, length: u64) -> io::Result<bool> {
    let mut byte = [0];
    let last = at + length.saturating_sub(1);
    match preadv2(file, &mut [io::IoSliceMut::new(&mut byte)], last, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        _ => Ok(true),
    }
}

/// Reads a range into memory, on the pool.
fn bring(file: Arc<File>, at: u64, length: u64) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileExt as _;
        let mut buffer = vec![0; READ_BYTES];
        let (mut at, end) = (at, at + length);
        while at < end {
            let count = READ_BYTES.min(usize::try_from(end - at).unwrap_or(READ_BYTES));
            match file.read_at(&mut buffer[..count], at) {
                Ok(count) if count > 0 => at += count as u64,
                _ => return,
            }
        }
    })
}

/// Sends bytes that come by another way.
fn poll_chunks(
    stream: &mut Stream,
    piece: &mut Piece,
    context: &mut Context<'_>,
    length: usize,
) -> Poll<io::Result<usize>> {
    let Some((chunks, chunk)) = &mut piece.chunks else { return Poll::Ready(Ok(0)) };
    while chunk.is_empty() {
        match ready!(chunks.as_mut().poll_next(context)) {
            Some(next) => *chunk = next?,
            None => return Poll::Ready(Err(io::Error::other("the bytes ended early"))),
        }
    }
    let most = chunk.len().min(length);
    let count = ready!(Pin::new(stream).poll_write(context, &chunk[..most]))?;
    chunk.advance(count);
    Poll::Ready(Ok(count))
}

impl AsyncRead for Outlet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if is_stand_in(bytes) {
            return self.poll_send(context, bytes.len());
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let filled = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(slices.len());
        let slices = &slices[filled..];
        match slices.iter().position(|slice| is_stand_in(slice)) {
            Some(0) => self.poll_send(context, slices[0].len()),
            first => {
                let own = &slices[..first.unwrap_or(slices.len())];
                Pin::new(&mut self.stream).poll_write_vectored(context, own)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cork(false)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;
    use std::ops::Range;

    use futures::{StreamExt as _, stream};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::passage::{self, Instead};
    use super::*;

    /// What a reader gets when `text`, a range of `file` and `text` again are written.
    async fn sent(file: File, range: Range<u64>, instead: Instead) -> io::Result<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reader = tokio::spawn(async move {
            let mut bytes = Vec::new();
            TcpStream::connect(address).await.unwrap().read_to_end(&mut bytes).await.map(|_| bytes)
        });
        let mut outlet = Outlet::new(Stream::from(listener.accept().await.unwrap().0));
        let pieces = passage::stream(outlet.passage().unwrap(), Arc::new(file), range, instead);
        let text = |text: &'static str| stream::iter([Ok(Bytes::from(text))]);
        let mut all = Box::pin(text("before").chain(pieces).chain(text("behind")));
        while let Some(piece) = all.next().await {
            outlet.write_all(&piece?).await?;
        }
        outlet.flush().await?;
        assert!(!outlet.is_corked, "what was written last would wait for more");
        drop(outlet);
        reader.await.unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn never() -> Instead {
        Arc::new(|range| panic!("expected no other way for {range:?}"))
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..length).map(|index| ((index * index) >> 7) as u8).collect()
    }

    #[tokio::test]
    async fn a_file_is_sent_where_stand_ins_are_written() {
        // More than one stand-in, and not a whole number of windows.
        let bytes = noise((17 << 20) + 12_345);
        for range in [0..bytes.len(), 7..bytes.len() - 1, 4096..4097] {
            let wanted = [b"before", &bytes[range.clone()], b"behind"].concat();
            let told = range.start as u64..range.end as u64;
            assert!(sent(file(&bytes), told, never()).await.unwrap() == wanted, "{range:?}");
        }
        assert_eq!(sent(file(&bytes), 5..5, never()).await.unwrap(), b"beforebehind");
    }

    #[tokio::test]
    async fn what_the_file_lacks_comes_another_way() {
        let bytes = noise(3 << 20);
        let (rest, short) = (bytes.clone(), &bytes[..(2 << 20) + 5]);
        let instead: Instead = Arc::new(move |range| {
            let rest = Bytes::copy_from_slice(&rest[range.start as usize..range.end as usize]);
            Box::pin(stream::iter([Ok(rest.slice(..1)), Ok(rest.slice(1..))]))
        });
        let wanted = [b"before", &bytes[..], b"behind"].concat();
        assert!(sent(file(short), 0..bytes.len() as u64, instead).await.unwrap() == wanted);
    }

    #[tokio::test]
    async fn what_comes_no_way_is_an_error_and_not_zeros() {
        let instead: Instead = Arc::new(|_| Box::pin(stream::iter([Err(io::Error::other("gone"))])));
        assert_eq!(sent(file(b"short"), 0..10, instead).await.unwrap_err().to_string(), "gone");
        let instead: Instead = Arc::new(|_| Box::pin(stream::iter([Ok(Bytes::from("1234"))])));
        let error = sent(file(b"short"), 0..10, instead).await.unwrap_err();
        assert_eq!(error.to_string(), "the bytes ended early");
    }

    #[tokio::test]
    async fn a_stand_in_without_a_file_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut outlet = Outlet::new(Stream::from(listener.accept().await.unwrap().0));
        let unread = Arc::new(file(b"bytes"));
        let pieces = passage::stream(Passage::default(), unread, 0..5, never());
        let stand_in = Box::pin(pieces).next().await.unwrap().unwrap();
        assert!(outlet.write_all(&stand_in).await.is_err(), "expected no zeros");
    }
}
