//! Uploads: bytes come in chunks, are written, hashed and inspected on the way, and become an image by a commit.
//!
//! [`Uploads`] knows the sessions whose streams are open or were lately; `session` is the state of one; `ingest` writes
//! and hashes; `commit` is the one function that makes bytes an image.

pub mod admission;
mod commit;
mod compose;
mod copy;
mod grant;
mod ingest;
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

/// Sessions without an open stream that are kept for a quick resume: beyond these, a resume hashes again.
const IDLE_SESSIONS_MAX: usize = 64;

/// All uploads whose bytes are under way in this process.
pub struct Uploads {
    sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
    streams: Arc<Streams>,
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
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() > IDLE_SESSIONS_MAX {
            // A session that nobody else holds is idle: only the time to hash again is lost with it.
            let mut spare = sessions.len() - IDLE_SESSIONS_MAX;
            sessions.retain(|_, session| {
                let keep = spare == 0 || Arc::strong_count(session) > 1;
                spare -= usize::from(!keep);
                keep
            });
        }
        Arc::clone(sessions.entry(id).or_default())
    }

    /// Forgets the session of an upload that has ended.
    pub fn forget(&self, id: UploadId) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}
