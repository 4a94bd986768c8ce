//! What a body and the connection under it have in common.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures::{Stream, stream as streams};

/// Longest stand-in. The memory is never touched, so that it takes addresses and no room.
const STAND_IN_BYTES: usize = 16 << 20;

static STAND_IN: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; STAND_IN_BYTES]));

/// Whether `bytes` stand for those of a file.
pub(super) fn is_stand_in(bytes: &[u8]) -> bool {
    STAND_IN.as_ptr_range().contains(&bytes.as_ptr())
}

/// Bytes as they come by another way.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// How the bytes of a range are had when the file cannot be sent.
pub(crate) type Instead = Arc<dyn Fn(Range<u64>) -> Chunks + Send + Sync>;

/// A range of a file that is to be sent.
pub(super) struct Piece {
    pub(super) file: Arc<File>,
    pub(super) left: Range<u64>,
    pub(super) instead: Instead,
    /// Once the file could not be sent.
    pub(super) chunks: Option<(Chunks, Bytes)>,
}

/// The way from the bodies of one connection to its [`super::Outlet`].
#[derive(Clone, Default)]
pub(crate) struct Passage(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    piece: Option<Piece>,
    /// The body, which waits until the piece was sent.
    waiting: Option<Waker>,
}

impl Passage {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two fields leaves nothing half-done that matters: the connection ends with it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Works on the piece that is under way; what was sent of it is taken off. `None` when there is none.
    pub(super) fn advance(
        &self,
        send: impl FnOnce(&mut Piece) -> Poll<io::Result<usize>>,
    ) -> Option<Poll<io::Result<usize>>> {
        let mut state = self.state();
        let piece = state.piece.as_mut()?;
        let sent = send(piece);
        if let Poll::Ready(Ok(count)) = sent {
            piece.left.start += count as u64;
            if piece.left.is_empty() {
                state.piece = None;
                if let Some(body) = state.waiting.take() {
                    body.wake();
                }
            }
        }
        Some(sent)
    }

    /// Returns once nothing is under way.
    async fn cleared(&self) {
        poll_fn(|context| {
            let mut state = self.state();
            if state.piece.is_none() {
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The bytes of a range of `file` as stand-ins that `passage` sends.
pub(crate) fn stream(
    passage: Passage,
    file: Arc<File>,
    range: Range<u64>,
    instead: Instead,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    streams::unfold((passage, file, range, instead), |(passage, file, range, instead)| async move {
        passage.cleared().await;
        if range.is_empty() {
            return None;
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(STAND_IN_BYTES);
        let end = range.start + length as u64;
        passage.state().piece = Some(Piece {
            file: Arc::clone(&file),
            left: range.start..end,
            instead: Arc::clone(&instead),
            chunks: None,
        });
        Some((Ok(STAND_IN.slice(..length)), (passage, file, end..range.end, instead)))
    })
}
