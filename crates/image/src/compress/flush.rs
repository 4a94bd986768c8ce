//! Brings the output to its medium while it is read back.

use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};

use crate::error::Result;

/// A flush under way.
///
/// Whoever publishes the output flushes it anyway and waits for the medium; the verification, which waits for the
/// processor, hides that. A flush that nobody finishes goes on by itself: it must not hold up who was cancelled.
pub(crate) struct Flush(Option<JoinHandle<io::Result<()>>>);

impl Flush {
    /// Starts to flush what was written to `output`.
    pub(crate) fn start(output: &File) -> Result<Self> {
        let output = output.try_clone()?;
        // Without a thread for it the one who publishes does it all.
        Ok(Self(thread::Builder::new().spawn(move || output.sync_data()).ok()))
    }

    /// Waits for the end. A write that the medium refused late is told to this one alone, so it must be asked.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.map(JoinHandle::join) {
            Some(Ok(flushed)) => Ok(flushed?),
            Some(Err(_)) | None => Ok(()),
        }
    }
}
