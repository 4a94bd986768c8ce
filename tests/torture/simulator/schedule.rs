//! Tasks of a simulation: which goes on next is chance from the seed, and time is a number.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use imageops_model::Micros;

/// Whose task it is: what dies with a server, and what is frozen with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A server, by its number.
    Server(usize),
    /// Those who use it.
    Client,
    /// Messages on their way.
    Network,
}

/// Something under way.
pub struct Task {
    /// Whose it is.
    pub owner: Owner,
    /// Goes on no sooner.
    pub wakes: Micros,
    work: Pin<Box<dyn Future<Output = ()>>>,
}

impl Task {
    /// A task that begins at once.
    pub fn new(owner: Owner, now: Micros, work: impl Future<Output = ()> + 'static) -> Self {
        Self { owner, wakes: now, work: Box::pin(work) }
    }

    /// Runs it up to its next rest, which `rest` tells, or its end. Meanwhile no other one runs: what it waits for without
    /// a rest is the database alone, and the order of events is that of the seed.
    pub async fn run(&mut self, rest: &std::cell::Cell<Option<Micros>>) -> Step {
        poll_fn(|context| match self.work.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Step::Ended),
            Poll::Pending => match rest.take() {
                Some(wakes) => {
                    self.wakes = wakes;
                    Poll::Ready(Step::Rests)
                }
                None => Poll::Pending,
            },
        })
        .await
    }
}

/// How far a task came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on later.
    Rests,
    /// It is over.
    Ended,
}

/// Lets others go on: pending once.
pub async fn yield_once() {
    let mut has_rested = false;
    poll_fn(|_| if std::mem::replace(&mut has_rested, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}
