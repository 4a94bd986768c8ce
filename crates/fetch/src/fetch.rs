//! A file, read from its source in order, whichever way it comes.

use std::collections::VecDeque;

use bytes::Bytes;
use rustls::RootCertStore;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use url::Url;

use crate::answer::{Answer, Client};
use crate::connection::tls;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::limits::Limits;
use crate::stretch::{Known, PIECE_BYTES, back_off, fetch};

/// Pieces of a file that comes as one that wait to be taken.
const PIECES_WAITING: usize = 2;

/// A file that is being fetched. Dropping it ends its connections.
///
/// One that is long enough, and whose source offers ranges and a strong tag, comes in several ranges at once; they are
/// handed out in order. Any other comes as one. After a cut a fetch goes on where it was, with the same tag.
pub struct Fetch {
    client: Client,
    known: Known,
    /// Stretches under way, in order.
    stretches: VecDeque<mpsc::Receiver<Result<Option<Bytes>>>>,
    /// Where the next stretch begins; `None`: all are under way.
    next_start: Option<u64>,
    received_bytes: u64,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Fetch").field("received_bytes", &self.received_bytes).finish_non_exhaustive()
    }
}

/// Opens sources behind a gate.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
}

impl Fetcher {
    /// What is fetched through `gate` within `limits`. `extra_roots` are trusted for TLS beside those of the system, which
    /// are read now.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] when there is no TLS to be had.
    pub fn new(gate: Gate, limits: Limits, extra_roots: RootCertStore) -> Result<Self> {
        Ok(Self { client: Client { gate, tls: tls(extra_roots)?, limits } })
    }

    /// The gate.
    pub fn gate(&self) -> &Gate {
        &self.client.gate
    }

    /// Opens a source.
    ///
    /// # Errors
    ///
    /// Every [`Error`]; so have the calls of [`Fetch::next`].
    pub async fn open(&self, url: &Url) -> Result<Fetch> {
        Fetch::open(self.client.clone(), url).await
    }

    /// As [`Self::open`], for a source whose ranges did not fit together.
    pub async fn open_as_one(&self, url: &Url) -> Result<Fetch> {
        let mut client = self.client.clone();
        client.limits.ranges = 1;
        Fetch::open(client, url).await
    }
}

impl Fetch {
    async fn open(client: Client, url: &Url) -> Result<Self> {
        let first = open(&client, url).await?;
        let known = Known { url: url.clone(), total_bytes: first.total_bytes, etag: first.etag.clone() };
        if let Some(total_bytes) = known.total_bytes
            && total_bytes > client.limits.max_bytes
        {
            return Err(Error::TooLarge { limit_bytes: client.limits.max_bytes });
        }
        let in_ranges = client.limits.ranges > 1
            && first.has_ranges
            && known.etag.is_some()
            && known.total_bytes.is_some_and(|total| total >= client.limits.ranges_from_bytes);
        let mut fetch = Self {
            client,
            known,
            stretches: VecDeque::new(),
            next_start: in_ranges.then_some(0),
            received_bytes: 0,
            tasks: JoinSet::new(),
        };
        if in_ranges {
            let mut first = Some(first);
            for _ in 0..fetch.client.limits.ranges {
                fetch.start_range(first.take());
            }
        } else {
            let end = fetch.known.total_bytes;
            fetch.start((0, end), Some(first), PIECES_WAITING);
        }
        Ok(fetch)
    }

    /// Length of the file, when the source told.
    pub fn total_bytes(&self) -> Option<u64> {
        self.known.total_bytes
    }

    /// The next bytes of the file, in order; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(stretch) = self.stretches.front_mut() {
            match stretch.recv().await {
                Some(Ok(Some(data))) => {
                    self.received_bytes = self.received_bytes.saturating_add(data.len() as u64);
                    return Ok(Some(data));
                }
                Some(Ok(None)) => {
                    self.stretches.pop_front();
                    self.start_range(None);
                }
                Some(Err(error)) => return Err(error),
                // A task that ends without a word has panicked.
                None => return Err(Error::Cut),
            }
        }
        match self.known.total_bytes {
            Some(total_bytes) if total_bytes != self.received_bytes => Err(Error::Cut),
            _ => Ok(None),
        }
    }

    /// Starts the next range, where there is one.
    fn start_range(&mut self, first: Option<Answer>) {
        let (Some(start), Some(total_bytes)) = (self.next_start, self.known.total_bytes) else { return };
        let end = start.saturating_add(self.client.limits.range_bytes.max(1)).min(total_bytes);
        self.next_start = (end < total_bytes).then_some(end);
        // All of a range may wait, so that it does not hold up its source.
        let pieces = usize::try_from(end - start).unwrap_or(usize::MAX).div_ceil(PIECE_BYTES) + 1;
        self.start((start, Some(end)), first, pieces);
    }

    fn start(&mut self, bytes: (u64, Option<u64>), first: Option<Answer>, pieces: usize) {
        // Those that have ended are forgotten here.
        while self.tasks.try_join_next().is_some() {}
        let (sender, receiver) = mpsc::channel(pieces);
        self.tasks.spawn(fetch(self.client.clone(), self.known.clone(), bytes, first, sender));
        self.stretches.push_back(receiver);
    }
}

/// The first answer of a source, which may be away for a moment.
async fn open(client: &Client, url: &Url) -> Result<Answer> {
    let mut failures = 0;
    loop {
        match client.get(url, None).await {
            Ok(answer) => return Ok(answer),
            Err(error) if !error.is_passing() => return Err(error),
            Err(error) => {
                failures += 1;
                if failures >= client.limits.tries_max {
                    return Err(error);
                }
                sleep(back_off(client.limits.back_off, failures)).await;
            }
        }
    }
}
