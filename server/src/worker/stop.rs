//! Why a running job is to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use imageops_image::CancelToken;

/// Why a running job is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StopCause {
    /// Someone asked for it.
    Cancelled = 1,
    /// It took longer than it may.
    TimedOut = 2,
    /// The server goes down; another life of it goes on.
    Shutdown = 3,
    /// Another worker has taken the job over.
    Fenced = 4,
}

/// A handle that stops one job. The first cause counts. Clones share it.
#[derive(Clone, Default)]
pub struct Stop {
    cause: Arc<AtomicU8>,
    token: CancelToken,
}

impl Stop {
    /// Stops the job; a cause that was given before stays.
    pub fn because(&self, cause: StopCause) {
        let _ = self.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire);
        self.token.cancel();
    }

    /// The cause, once there is one.
    pub fn cause(&self) -> Option<StopCause> {
        match self.cause.load(Ordering::Acquire) {
            1 => Some(StopCause::Cancelled),
            2 => Some(StopCause::TimedOut),
            3 => Some(StopCause::Shutdown),
            4 => Some(StopCause::Fenced),
            _ => None,
        }
    }

    /// The engine's side of the handle.
    pub fn token(&self) -> CancelToken {
        self.token.clone()
    }
}
