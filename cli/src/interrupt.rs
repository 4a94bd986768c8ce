//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;

/// Ends when the user wants the program to stop.
pub(crate) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals end the program at once, which leaves nothing half-written either.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Waits for `work` to wind up after it was asked to stop; a second signal does not wait.
pub(crate) async fn wind_up<T>(work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        () = interrupted() => std::process::exit(Exit::Interrupted.status().into()),
    }
}
