//! Uploads: bytes come in chunks, are written, hashed and inspected on the way, and become an image by a commit.
//!
//! [`Uploads`] knows the sessions whose streams are open or were lately; `session` is the state of one; `ingest` writes
//! and hashes, on a `lane` each; `commit` is the one function that makes bytes an image.

pub mod admission;
mod commit;
mod compose;
mod copy;
mod grant;
mod ingest;
mod lane;
mod session;
mod streams;
mod unpack;
mod verdict;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use imageops_model::{Tenant, UploadId};

pub use commit::{
    CommitError, Origin, Promise, Step, Watch, commit, commit_import, commit_part, refuse, store_of,
    unwatched,
};
pub use compose::{Composed, compose};
pub use grant::Grant;
pub use ingest::Ingest;
pub use session::Session;
pub use streams::{StreamSlot, Streams};
pub use verdict::{judge_prefix, judge_storage};

use crate::app::App;
use crate::failure::Result;

/// Drops what came of an upload whose row has ended: a stream that holds it lets go first.
pub async fn give_up(app: &App, id: UploadId) {
    let session = app.uploads.session(id);
    let mut hold = session.take_over().await;
    *hold.ingest = None;
    app.discard_staged(id).await;
    app.uploads.forget(id);
}

/// Sessions without an open stream that are kept for a quick resume: beyond these, a resume hashes again. Each is an open file
/// and the states of its digests. More than there are streams at a time by default: when all are cut at once, all go on.
const IDLE_SESSIONS_MAX: usize = 512;

/// All uploads whose bytes are under way in this process.
pub struct Uploads {
    sessions: Mutex<Sessions>,
    streams: Arc<Streams>,
}

#[derive(Default)]
struct Sessions {
    by_upload: HashMap<UploadId, Used>,
    /// How often a session was asked for.
    uses: u64,
}

struct Used {
    session: Arc<Session>,
    /// When, in uses of all.
    last: u64,
}

impl Sessions {
    /// The session of an upload, made when there is none. Of too many that are idle, those that were not used for longest go.
    fn open(&mut self, id: UploadId, idle_max: usize) -> Arc<Session> {
        self.uses += 1;
        let used = self.by_upload.entry(id).or_insert_with(|| Used { session: Arc::default(), last: 0 });
        used.last = self.uses;
        let session = Arc::clone(&used.session);
        if self.by_upload.len() > idle_max {
            // A session that nobody else holds is idle: only the time to hash again is lost with it.
            let is_idle = |used: &Used| Arc::strong_count(&used.session) == 1;
            let mut idle: Vec<u64> =
                self.by_upload.values().filter(|used| is_idle(used)).map(|used| used.last).collect();
            if idle.len() > idle_max {
                // Some more than need be, so that not each call has to look.
                let surplus = idle.len() - idle_max + idle_max / 8;
                idle.sort_unstable();
                let oldest = idle[surplus.min(idle.len() - 1)];
                self.by_upload.retain(|_, used| !is_idle(used) || used.last >= oldest);
            }
        }
        session
    }
}

impl Uploads {
    /// No sessions yet, and a limit of open streams.
    pub fn new(streams_max: u32) -> Self {
        Self { sessions: Mutex::default(), streams: Arc::new(Streams::new(streams_max)) }
    }

    /// Takes one of the places for open streams.
    pub fn open_stream(&self, tenant: &Tenant) -> Result<StreamSlot> {
        self.streams.open(tenant)
    }

    /// The session of an upload, made when there is none.
    pub fn session(&self, id: UploadId) -> Arc<Session> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).open(id, IDLE_SESSIONS_MAX)
    }

    /// Forgets the session of an upload that has ended.
    pub fn forget(&self, id: UploadId) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).by_upload.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> UploadId {
        UploadId(Uuid::from_u128(number))
    }

    #[test]
    fn idle_sessions_go_the_oldest_first_and_those_in_use_stay() {
        let mut sessions = Sessions::default();
        let held: Vec<_> = (0..100).map(|number| sessions.open(id(number), 8)).collect();
        assert_eq!(sessions.by_upload.len(), 100, "however many are in use");
        for number in 100..110 {
            sessions.open(id(number), 8);
            // Used again and again: never the oldest.
            sessions.open(id(100), 8);
        }
        let idle = sessions.by_upload.keys().filter(|upload| **upload >= id(100)).count();
        assert!((7..=8).contains(&idle), "{idle}");
        let is_kept = |number| sessions.by_upload.contains_key(&id(number));
        assert!(is_kept(100) && is_kept(109) && !is_kept(101) && !is_kept(102));
        drop(held);
    }
}
