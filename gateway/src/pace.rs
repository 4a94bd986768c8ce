//! How slowly bytes may come. An idle time-out alone lets a client keep its place by a byte now and then (SEC-37).

use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyStream, StreamBody};
use tokio::time::timeout;

/// What ends that is slower.
#[derive(Debug, thiserror::Error)]
#[error(
    "{bytes} bytes came in {} seconds, which is too few to keep a place for; resume on a faster link",
    waited.as_secs()
)]
pub struct TooSlow {
    bytes: u64,
    waited: Duration,
}

/// What ends of which nothing comes at all.
#[derive(Debug, thiserror::Error)]
#[error("nothing came for {} seconds", .0.as_secs())]
struct Silent(Duration);

/// What came since it was measured last, and how long it was waited for: what the receiver takes is not the sender's fault.
#[derive(Debug)]
pub struct Pace {
    period: Duration,
    waited: Duration,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::over(Self::PERIOD)
    }
}

impl Pace {
    /// Least that comes, in bytes for each second in which it is waited for. The slowest links are faster.
    pub const BYTES_PER_SECOND_MIN: u64 = 4 << 10;
    /// Over how long it is measured.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// Measures over another period.
    pub fn over(period: Duration) -> Self {
        Self { period, waited: Duration::ZERO, bytes: 0 }
    }

    /// So many bytes came after so long. An error when too few did for too long.
    pub fn came(&mut self, bytes: u64, waited: Duration) -> Result<(), TooSlow> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < self.period {
            return Ok(());
        }
        let Self { waited, bytes, .. } = std::mem::replace(self, Self::over(self.period));
        if bytes < Self::BYTES_PER_SECOND_MIN * waited.as_secs() {
            return Err(TooSlow { bytes, waited });
        }
        Ok(())
    }
}

/// Has the body of a request end when it comes too slowly.
pub(crate) async fn pace(request: Request, silence_max: Duration, period: Duration) -> Request {
    request.map(|body| if body.is_end_stream() { body } else { paced(body, silence_max, period) })
}

/// A body that ends when it is silent for too long, or comes too slowly, measured over `period`.
pub fn paced(body: Body, silence_max: Duration, period: Duration) -> Body {
    let place = (BodyStream::new(body), Pace::over(period));
    let frames = stream::try_unfold(place, move |(mut frames, mut pace)| async move {
        // Time that passes while nobody asks for more is not the client's.
        let asked = Instant::now();
        let next = timeout(silence_max, frames.next()).await;
        let Some(frame) = next.map_err(|_| axum::Error::new(Silent(silence_max)))? else { return Ok(None) };
        let frame = frame?;
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        pace.came(length, asked.elapsed()).map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(Some((frame, (frames, pace))))
    });
    Body::new(StreamBody::new(frames))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn what_trickles_ends_and_what_is_slow_does_not() {
        let pause = Duration::from_secs(10);
        let mut slow = Pace::default();
        (0..100).for_each(|_| slow.came(40_960, pause).unwrap());
        let mut trickle = Pace::default();
        (0..5).for_each(|_| trickle.came(1, pause).unwrap());
        assert!(trickle.came(1, pause).is_err());
        // Much at once and then a pause is fast.
        let mut bursts = Pace::default();
        (0..10).for_each(|_| bursts.came(1 << 20, Duration::from_secs(59)).unwrap());
        // What comes at once is not slow, however little it is.
        let mut quick = Pace::default();
        (0..100_000).for_each(|_| quick.came(1, Duration::from_micros(1)).unwrap());
    }

    #[tokio::test]
    async fn a_body_comes_as_it_is() {
        let pieces = ["a", "body", "in pieces"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        let whole = paced(Body::from_stream(stream::iter(pieces)), Pace::PERIOD, Pace::PERIOD)
            .collect()
            .await
            .unwrap();
        assert_eq!(whole.to_bytes(), "abodyin pieces");
        let broken = [Ok(Bytes::from("a")), Err(std::io::Error::other("broken"))];
        assert!(
            paced(Body::from_stream(stream::iter(broken)), Pace::PERIOD, Pace::PERIOD)
                .collect()
                .await
                .is_err()
        );
    }
}
