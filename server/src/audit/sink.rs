//! Where the lines go: into a file of their own, or into the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Fatal};

/// Target of the lines in the log.
pub(crate) const TARGET: &str = "audit";
/// Lines that wait for a slow disk. Further ones go into the log.
const WAITING_MAX: usize = 4096;

/// What the writer is told.
enum Order {
    Write(String),
    /// The file was renamed: a new one is begun.
    Reopen,
    End,
}

/// Takes lines. Clones are the same sink.
#[derive(Clone)]
pub(crate) struct Sink(Option<Arc<Writer>>);

struct Writer {
    orders: SyncSender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sink {
    /// Opens the file, or takes the log where none is named. Blocks.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Fatal> {
        let Some(path) = path else { return Ok(Self(None)) };
        let unusable = |error: io::Error| {
            Fatal::new(
                Exit::Configuration,
                format!("--audit-log {} cannot be written: {error}", path.display()),
            )
        };
        let file = append_to(path).map_err(unusable)?;
        let (orders, received) = sync_channel(WAITING_MAX);
        let own = path.to_owned();
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(file, &own, &received))
            .map_err(unusable)?;
        tokio::spawn(reopen_at_hang_up(orders.clone()));
        Ok(Self(Some(Arc::new(Writer { orders, thread: Mutex::new(Some(thread)) }))))
    }

    /// Writes a line into the file alone, for a process that ends with it. Blocks.
    pub(crate) fn write_once(path: &Path, mut line: String) -> io::Result<()> {
        line.push('\n');
        append_to(path)?.write_all(line.as_bytes())
    }

    /// Takes a line. Never waits: what the file's writer cannot take goes into the log.
    pub(crate) fn write(&self, line: String) {
        let left = match &self.0 {
            Some(writer) => match writer.orders.try_send(Order::Write(line)) {
                Ok(()) => return,
                Err(error) => match error {
                    std::sync::mpsc::TrySendError::Full(order)
                    | std::sync::mpsc::TrySendError::Disconnected(order) => order,
                },
            },
            None => Order::Write(line),
        };
        if let Order::Write(line) = left {
            log(&line);
        }
    }

    /// Returns when all lines are written.
    pub(crate) async fn close(&self) {
        let Some(writer) = self.0.clone() else { return };
        let ended = tokio::task::spawn_blocking(move || {
            let thread = writer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(thread) = thread
                && writer.orders.send(Order::End).is_ok()
            {
                let _ = thread.join();
            }
        });
        if let Err(error) = ended.await {
            tracing::error!(%error, "the audit log did not end well");
        }
    }
}

fn log(line: &str) {
    tracing::info!(target: TARGET, "{line}");
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

async fn reopen_at_hang_up(orders: SyncSender<Order>) {
    let Ok(mut hang_up) = signal(SignalKind::hangup()) else {
        tracing::error!("the audit log is not reopened at SIGHUP");
        return;
    };
    while hang_up.recv().await.is_some() {
        // A full queue means that the old file is still being written; the next signal comes again.
        if orders.try_send(Order::Reopen).is_err() {
            tracing::warn!("the audit log was not reopened: too much waits to be written");
        }
    }
}

fn write_all(mut file: File, path: &Path, orders: &Receiver<Order>) {
    let mut is_failing = false;
    for order in orders {
        match order {
            Order::Write(mut line) => {
                line.push('\n');
                // What did not fit may have left the beginning of a line.
                if is_failing {
                    line.insert(0, '\n');
                }
                // One write for each line: what a crash leaves is whole lines.
                match file.write_all(line.as_bytes()) {
                    Ok(()) => is_failing = false,
                    Err(error) => {
                        if !is_failing {
                            tracing::error!(%error, "the audit log cannot be written; its lines go here");
                        }
                        is_failing = true;
                        log(line.trim());
                    }
                }
            }
            Order::Reopen => match append_to(path) {
                Ok(new) => file = new,
                Err(error) => {
                    tracing::error!(%error, "the audit log cannot be reopened; the old file is used")
                }
            },
            Order::End => return,
        }
    }
}
