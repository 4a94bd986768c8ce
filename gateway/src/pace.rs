//! How slowly a request body may come. An idle time-out alone lets a client keep its connection by a byte now and then (SEC-37).

use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyStream, StreamBody};

/// Least that a body brings, in bytes for each second in which it is waited for, and over how long that is measured. As much
/// as the server asks of its streams.
const BYTES_PER_SECOND_MIN: u64 = 4 << 10;
const MEASURED: Duration = Duration::from_secs(60);

/// What a body ends with that is slower.
#[derive(Debug, thiserror::Error)]
#[error("the body comes too slowly")]
struct TooSlow;

/// Has the body of a request end when it comes too slowly.
pub(crate) async fn pace(request: Request) -> Request {
    request.map(|body| if body.is_end_stream() { body } else { paced(body) })
}

fn paced(body: Body) -> Body {
    let place = (BodyStream::new(body), Pace::default());
    let frames = stream::try_unfold(place, |(mut frames, mut pace)| async move {
        // Time that passes while nobody asks for more is not the client's.
        let asked = Instant::now();
        let Some(frame) = frames.next().await else { return Ok(None) };
        let frame = frame?;
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        pace.came(length, asked.elapsed()).map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(Some((frame, (frames, pace))))
    });
    Body::new(StreamBody::new(frames))
}

/// What came since it was measured last, and how long it was waited for.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn came(&mut self, bytes: u64, waited: Duration) -> Result<(), TooSlow> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < MEASURED {
            return Ok(());
        }
        let is_enough = self.bytes >= BYTES_PER_SECOND_MIN * self.waited.as_secs();
        *self = Self::default();
        if is_enough { Ok(()) } else { Err(TooSlow) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_body_that_trickles_ends_and_a_slow_one_does_not() {
        let pause = Duration::from_secs(10);
        let mut slow = Pace::default();
        (0..100).for_each(|_| slow.came(40_960, pause).unwrap());
        let mut trickle = Pace::default();
        (0..5).for_each(|_| trickle.came(1, pause).unwrap());
        assert!(trickle.came(1, pause).is_err());
        // What comes at once is not slow, however little it is.
        let mut quick = Pace::default();
        (0..100_000).for_each(|_| quick.came(1, Duration::from_micros(1)).unwrap());
    }

    #[tokio::test]
    async fn a_body_comes_as_it_is() {
        let pieces = ["a", "body", "in pieces"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        let whole = paced(Body::from_stream(stream::iter(pieces))).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "abodyin pieces");
        let broken = [Ok(Bytes::from("a")), Err(std::io::Error::other("broken"))];
        assert!(paced(Body::from_stream(stream::iter(broken))).collect().await.is_err());
    }
}
