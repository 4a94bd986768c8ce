//! Rung when a job was queued: those who run jobs of its lane look for it, and nobody else.

use imageops_model::{JobKind, Lane};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A bell for each lane.
#[derive(Debug, Default)]
pub struct Bells {
    work: Notify,
    import: Notify,
    scrub: Notify,
    drain: Notify,
}

impl Bells {
    /// A job of this kind waits.
    pub fn ring(&self, kind: JobKind) {
        self.of(kind.lane()).notify_waiters();
    }

    /// The next ring for a lane.
    pub fn heard(&self, lane: Lane) -> Notified<'_> {
        self.of(lane).notified()
    }

    fn of(&self, lane: Lane) -> &Notify {
        match lane {
            Lane::Work => &self.work,
            Lane::Import => &self.import,
            Lane::Scrub => &self.scrub,
            Lane::Drain => &self.drain,
        }
    }
}
