//! The first bytes of a connection, by which a server tells HTTP/2 from HTTP/1.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Sleep, sleep};

use crate::door::HANDSHAKE_TIMEOUT;

/// What every client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A greeting that is waited for. It is over with the preface of HTTP/2, or with the first byte that is none of it.
#[derive(Debug)]
pub(crate) struct Greeting {
    matched: usize,
    late: Pin<Box<Sleep>>,
}

impl Greeting {
    /// From now on.
    pub(crate) fn awaited() -> Self {
        Self { matched: 0, late: Box::pin(sleep(HANDSHAKE_TIMEOUT)) }
    }

    /// Whether it is over with these bytes.
    pub(crate) fn is_over(&mut self, bytes: &[u8]) -> bool {
        let left = &PREFACE[self.matched..];
        let count = bytes.len().min(left.len());
        self.matched += count;
        bytes[..count] != left[..count] || self.matched == PREFACE.len()
    }

    /// Why no more is waited for, once that is so.
    pub(crate) fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.late.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "nothing came that HTTP begins with"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_greeting_is_over_when_it_is_clear_what_is_spoken() {
        let whole = |bytes: &[u8]| Greeting::awaited().is_over(bytes);
        assert!(whole(PREFACE));
        assert!(whole(b"GET / HTTP/1.0\r\n\r\n"));
        assert!(whole(b"PUT"));
        assert!(whole(&[PREFACE, b"more"].concat()));
        assert!(!whole(b""));
        assert!(!whole(b"PRI * HTTP/2.0"));
        let mut greeting = Greeting::awaited();
        assert!(!greeting.is_over(b"P"));
        assert!(!greeting.is_over(b"R"));
        assert!(greeting.is_over(b"OPFIND"));
    }
}
