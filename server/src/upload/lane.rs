//! Work on one state, piece after piece, beside whoever hands the pieces over.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::failure::{Failure, Result};

/// The piece that is worked on, and one that waits: whoever works never waits for whoever hands over.
const PIECES: u32 = 2;

/// A state, and the work that is to be done on it in order.
///
/// A thread of the pool works while there is work, and goes from one piece to the next without being woken; a lane at rest
/// has none.
pub(super) struct Lane<S> {
    places: Arc<Semaphore>,
    line: Arc<Mutex<Line<S>>>,
}

struct Line<S> {
    /// Absent while it is worked on, and for good after a panic.
    state: Option<S>,
    waiting: VecDeque<Piece<S>>,
    is_running: bool,
}

struct Piece<S> {
    work: Box<dyn FnOnce(&mut S) + Send>,
    place: Place,
}

/// A place on a lane, free again once the work is done.
pub(super) struct Place(
    #[expect(dead_code, reason = "what counts is when it is dropped")] OwnedSemaphorePermit,
);

impl<S: Send + 'static> Lane<S> {
    /// A lane at rest.
    pub(super) fn new(state: S) -> Self {
        let line = Line { state: Some(state), waiting: VecDeque::new(), is_running: false };
        Self { places: Arc::new(Semaphore::new(PIECES as usize)), line: Arc::new(Mutex::new(line)) }
    }

    /// A place for a piece; waits while there is none.
    pub(super) async fn place(&self) -> Result<Place> {
        Arc::clone(&self.places).acquire_owned().await.map(Place).map_err(Failure::internal)
    }

    /// Hands `work` over, to be done behind all that came before.
    pub(super) fn push(&self, place: Place, work: impl FnOnce(&mut S) + Send + 'static) {
        let mut line = lock(&self.line);
        line.waiting.push_back(Piece { work: Box::new(work), place });
        if !line.is_running {
            line.is_running = true;
            let line = Arc::clone(&self.line);
            tokio::task::spawn_blocking(move || run(&line));
        }
    }

    /// Looks at the state once all work is done.
    pub(super) async fn rest<T>(&self, look: impl FnOnce(&S) -> T) -> Result<T> {
        let _all = self.places.acquire_many(PIECES).await.map_err(Failure::internal)?;
        lock(&self.line).state.as_ref().map(look).ok_or_else(lost)
    }
}

fn run<S>(line: &Mutex<Line<S>>) {
    while let Some((Piece { work, place }, state)) = next(line) {
        let work_on = |mut state| {
            work(&mut state);
            state
        };
        // Work that panics takes the state along; whoever comes next is told.
        let state = state.and_then(|state| catch_unwind(AssertUnwindSafe(|| work_on(state))).ok());
        lock(line).state = state;
        drop(place);
    }
}

fn next<S>(line: &Mutex<Line<S>>) -> Option<(Piece<S>, Option<S>)> {
    let mut line = lock(line);
    let piece = line.waiting.pop_front();
    line.is_running = piece.is_some();
    piece.map(|piece| (piece, line.state.take()))
}

fn lock<S>(line: &Mutex<Line<S>>) -> MutexGuard<'_, Line<S>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost() -> Failure {
    Failure::internal("work on an upload panicked")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    async fn push<S: Send + 'static>(lane: &Lane<S>, work: impl FnOnce(&mut S) + Send + 'static) {
        lane.push(lane.place().await.unwrap(), work);
    }

    #[tokio::test]
    async fn pieces_are_worked_on_in_order() {
        let lane = Lane::new(Vec::new());
        for number in 0..100 {
            push(&lane, move |seen: &mut Vec<u32>| seen.push(number)).await;
        }
        assert_eq!(lane.rest(Clone::clone).await.unwrap(), (0..100).collect::<Vec<_>>());
        push(&lane, Vec::clear).await;
        assert_eq!(lane.rest(Vec::len).await.unwrap(), 0, "it goes on after a rest");
    }

    #[tokio::test]
    async fn no_more_than_one_piece_waits() {
        let (go, held) = mpsc::channel::<()>();
        let lane = Lane::new(0);
        push(&lane, move |_| held.recv().unwrap()).await;
        push(&lane, |count| *count += 1).await;
        assert_eq!(lane.places.available_permits(), 0);
        go.send(()).unwrap();
        push(&lane, |count| *count += 1).await;
        assert_eq!(lane.rest(|count| *count).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_panic_is_told_to_whoever_asks() {
        let lane = Lane::new(0);
        push(&lane, |_| panic!("broken")).await;
        push(&lane, |count| *count += 1).await;
        assert_eq!(lane.rest(|_| ()).await.unwrap_err().code, tonic::Code::Internal);
    }
}
