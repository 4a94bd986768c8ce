//! A stretch of a file, from its first byte to its last, over as many requests as it takes.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::sleep;
use url::Url;

use crate::answer::{Answer, Client, Wanted};
use crate::error::{Error, Result};
use crate::pace::Pace;

/// Bytes that are handed on at a time.
pub(crate) const PIECE_BYTES: usize = 1 << 20;
/// From a slow source fewer are handed on after this time: whoever waits sees that it goes on (reliability rel_50).
const PIECE_AGE_MAX: Duration = Duration::from_secs(1);
/// Times that the back-off is doubled into its longest.
const BACK_OFF_FACTOR_MAX: u32 = 40;

/// Where the bytes go: `None` is the end of the stretch.
pub(crate) type Pieces = mpsc::Sender<Result<Option<Bytes>>>;

/// What is known of the file.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) url: Url,
    pub(crate) total_bytes: Option<u64>,
    pub(crate) etag: Option<String>,
}

/// Fetches a stretch; `None` for the end of a file whose length is not known. `first` is an answer that is there already
/// and begins where the stretch does.
pub(crate) async fn fetch(
    client: Client,
    known: Known,
    bytes: (u64, Option<u64>),
    first: Option<Answer>,
    pieces: Pieces,
) {
    let result = read(&client, &known, bytes, first, &pieces).await.map(|()| None);
    // Whoever wanted them may be gone.
    let _ = pieces.send(result).await;
}

async fn read(
    client: &Client,
    known: &Known,
    (start, end): (u64, Option<u64>),
    first: Option<Answer>,
    pieces: &Pieces,
) -> Result<()> {
    let (mut at, mut answer, mut failures) = (start, first, 0);
    // One for all answers: who breaks off has no new window.
    let mut pace = Pace::new(&client.limits);
    loop {
        let before = at;
        let error = match answer.take() {
            Some(answer) => match pour(client, answer, &mut pace, &mut at, end, pieces).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            None => match pace.wait(client.get(&known.url, Some(&wanted(known, at, end)?))).await? {
                Ok(fresh) => {
                    answer = Some(fresh);
                    continue;
                }
                Err(error) => error,
            },
        };
        failures = if at > before { 1 } else { failures + 1 };
        if !error.is_passing() {
            return Err(error);
        }
        if failures >= client.limits.tries_max || known.etag.is_none() || known.total_bytes.is_none() {
            return Err(Error::Cut);
        }
        tracing::debug!(at, failures, "a source broke off and is asked again");
        pace.wait(sleep(back_off(client.limits.back_off, failures))).await?;
    }
}

/// What is left of a stretch. Only a file with a length and a strong tag can be gone on with.
fn wanted(known: &Known, at: u64, end: Option<u64>) -> Result<Wanted> {
    let (Some(total_bytes), Some(etag)) = (known.total_bytes, known.etag.clone()) else {
        return Err(Error::Cut);
    };
    Ok(Wanted { bytes: Range { start: at, end: end.unwrap_or(total_bytes) }, total_bytes, etag })
}

/// Hands the bytes of an answer on, no more than belong to the stretch.
async fn pour(
    client: &Client,
    mut answer: Answer,
    pace: &mut Pace,
    at: &mut u64,
    end: Option<u64>,
    pieces: &Pieces,
) -> Result<()> {
    let (mut piece, mut handed_on) = (BytesMut::new(), Instant::now());
    let ended = loop {
        if end == Some(*at + piece.len() as u64) {
            break Ok(());
        }
        match answer.body.next(pace).await {
            Ok(Some(mut data)) => {
                let reached = *at + piece.len() as u64;
                if let Some(end) = end {
                    let room = usize::try_from(end.saturating_sub(reached)).unwrap_or(usize::MAX);
                    data.truncate(room);
                }
                piece.extend_from_slice(&data);
                if *at + piece.len() as u64 > client.limits.max_bytes {
                    return Err(Error::TooLarge { limit_bytes: client.limits.max_bytes });
                }
                if piece.len() >= PIECE_BYTES || handed_on.elapsed() >= PIECE_AGE_MAX {
                    hand_on(&mut piece, at, pieces).await?;
                    handed_on = Instant::now();
                }
            }
            // The end of the answer, but not of the stretch.
            Ok(None) if end.is_some() => break Err(Error::Cut),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // What came before a cut is as good as what comes after it.
    hand_on(&mut piece, at, pieces).await?;
    ended
}

async fn hand_on(piece: &mut BytesMut, at: &mut u64, pieces: &Pieces) -> Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    let data = piece.split().freeze();
    *at += data.len() as u64;
    // Nobody takes them: the fetch was dropped, and so is this task soon.
    pieces.send(Ok(Some(data))).await.map_err(|_| Error::Cut)
}

/// Time before the next try: longer each time, and never the same for two.
pub(crate) fn back_off(first: Duration, failures: u32) -> Duration {
    let longest = first * (1_u32 << failures.saturating_sub(1).min(10)).min(BACK_OFF_FACTOR_MAX);
    // Without random bytes all wait the whole time.
    let cut = u32::from(getrandom::u32().unwrap_or(0) as u8);
    longest - longest * cut / 512
}
