//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// The wish of the user that the program stops, from [`Interrupts::listen`] on: before, a signal ends it at once.
pub(crate) struct Interrupts(Option<(Signal, Signal)>);

impl Interrupts {
    pub(crate) fn listen() -> Self {
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(interrupt), Ok(terminate)) => Self(Some((interrupt, terminate))),
            // Without handlers the signals go on to end the program at once, which leaves nothing half-written either.
            _ => Self(None),
        }
    }

    /// Ends with the next signal.
    pub(crate) async fn next(&mut self) {
        let Some((interrupt, terminate)) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// Ends when the user wants the program to stop.
pub(crate) async fn interrupted() {
    Interrupts::listen().next().await;
}

/// Waits for `work` to wind up after it was asked to stop; a second signal does not wait.
pub(crate) async fn wind_up<T>(work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        () = interrupted() => std::process::exit(Exit::Interrupted.status().into()),
    }
}
