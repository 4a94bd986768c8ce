//! Progress and cancellation: how a long operation talks with its caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

/// What an operation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// Reading headers, partition tables and free-space structures.
    Planning,
    /// Digesting the file; the tables are walked beside it.
    Checking,
    /// Reading the source, compressing and writing the output.
    Compressing,
    /// Reading the source and writing the output as it is.
    Converting,
    /// Giving back the room of what the guest has freed.
    Punching,
    /// Reading the written output back.
    Verifying,
}

/// A snapshot of how far an operation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The current phase.
    pub phase: Phase,
    /// Bytes of the phase that are done.
    pub done_bytes: u64,
    /// Bytes of the phase in all; 0 when not known yet.
    pub total_bytes: u64,
    /// The whole operation, all phases: 0 to 1, never falls.
    pub fraction: f64,
}

/// A flag that asks an operation to stop. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks the operation to stop. It does so within some milliseconds of work.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the operation was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a caller hands to a long operation: where progress goes, and how to stop it.
#[derive(Clone)]
pub struct Control {
    report: Arc<dyn Fn(Progress) + Send + Sync>,
    cancel: CancelToken,
}

impl Default for Control {
    /// Reports to nobody and is never cancelled.
    fn default() -> Self {
        Self::new(|_| {}, CancelToken::default())
    }
}

impl Control {
    /// Calls `report` from any thread of the operation, at most once for each MiB or so of work.
    pub fn new(report: impl Fn(Progress) + Send + Sync + 'static, cancel: CancelToken) -> Self {
        Self { report: Arc::new(report), cancel }
    }

    /// Hands a snapshot to the caller.
    pub fn report(&self, progress: Progress) {
        (self.report)(progress);
    }

    /// The token that stops the operation.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    /// An error of kind [`ErrorKind::Cancelled`] once the caller asked to stop.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(
                ErrorKind::Cancelled,
                crate::reason::CANCELLED,
                "the operation was cancelled",
            ));
        }
        Ok(())
    }
}
