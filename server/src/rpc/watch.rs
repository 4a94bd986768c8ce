//! WatchStatus and WaitJob.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use imageops::v1;
use imageops_catalogue::JobRow;
use imageops_model::JobId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Answers, jobs, parse_name};
use crate::app::App;
use crate::auth::Caller;
use crate::failure::{Failure, Result};
use crate::hub::Subscription;
use crate::{reason, wire};

/// Shortest time between two changes of one watch.
const COALESCE: Duration = Duration::from_millis(200);
/// A watch that has nothing to say says so after this time.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A watcher that reads nothing for so long is let go.
const SLOW_READER: Duration = Duration::from_secs(60);
/// Longest wait of WaitJob.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Boxed: a channel makes room for 32 messages however few it may hold, and there are thousands of watches.
type Sender = mpsc::Sender<Box<Result<v1::WatchStatusResponse, Status>>>;

/// WatchStatus: snapshot, changes, heartbeats, end.
pub(super) async fn watch(
    app: &Arc<App>,
    caller: &Caller,
    request: v1::WatchStatusRequest,
) -> Result<Answers<v1::WatchStatusResponse>> {
    let id = parse_name("job", &request.job)?;
    let watcher = Watcher {
        subscription: app.hub.subscribe(id),
        app: Arc::clone(app),
        caller: caller.clone(),
        id,
        seen_revision: request.after_revision,
    };
    // A job that runs here is known without a query: thousands may come back at once.
    let is_theirs = |row: &Arc<JobRow>| row.tenant == caller.tenant && row.revision >= request.after_revision;
    let first = match app.hub.newest(id).filter(is_theirs) {
        Some(row) => JobRow::clone(&row),
        None => jobs::find(app, caller, id).await?,
    };
    // One message of room: what does not fit is replaced by what is newer.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let app = Arc::clone(&watcher.app);
        let end = tokio::select! {
            end = watcher.run(first, &sender) => end,
            () = app.shutdown.cancelled() => Err(shutting_down()),
            () = sender.closed() => Ok(()),
        };
        if let Err(failure) = end {
            let _ = timeout(SLOW_READER, sender.send(Box::new(Err(failure.into())))).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver).map(|answer| *answer)))
}

struct Watcher {
    app: Arc<App>,
    caller: Caller,
    id: JobId,
    subscription: Subscription,
    seen_revision: u64,
}

impl Watcher {
    async fn run(mut self, first: JobRow, sender: &Sender) -> Result<()> {
        let seen = first.revision <= self.seen_revision && !first.state.is_final();
        let mut message = self.message(v1::WatchEvent::Snapshot, &first)?;
        if seen {
            message.job = None;
        }
        send(sender, message).await?;
        self.seen_revision = self.seen_revision.max(first.revision);
        let mut ended = first.state.is_final();
        while !ended {
            let pause = Instant::now() + COALESCE;
            match self.next().await? {
                Some(row) => {
                    ended = row.state.is_final();
                    self.seen_revision = row.revision;
                    send(sender, self.message(v1::WatchEvent::Change, &row)?).await?;
                }
                None => {
                    let heartbeat = v1::WatchStatusResponse {
                        event: v1::WatchEvent::Heartbeat.into(),
                        revision: self.seen_revision,
                        job: None,
                    };
                    send(sender, heartbeat).await?;
                }
            }
            if !ended {
                sleep_until(pause).await;
            }
        }
        Ok(())
    }

    /// The next state that was not seen; `None` when it is time for a heartbeat.
    async fn next(&mut self) -> Result<Option<JobRow>> {
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            match timeout_at(heartbeat, self.subscription.changed()).await {
                Ok(Some(row)) if row.revision > self.seen_revision => return Ok(Some(JobRow::clone(&row))),
                Ok(Some(_)) => {}
                // Nothing more comes from the hub, or nothing came for long: the catalogue knows.
                Ok(None) | Err(_) => {
                    self.subscription = self.app.hub.subscribe(self.id);
                    let row = jobs::find(&self.app, &self.caller, self.id).await?;
                    if row.revision > self.seen_revision {
                        return Ok(Some(row));
                    }
                    if Instant::now() >= heartbeat {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn message(&self, event: v1::WatchEvent, row: &JobRow) -> Result<v1::WatchStatusResponse> {
        let job = wire::job(row, &self.app.config)?;
        Ok(v1::WatchStatusResponse { event: event.into(), revision: row.revision, job: Some(job) })
    }
}

async fn send(sender: &Sender, message: v1::WatchStatusResponse) -> Result<()> {
    match timeout(SLOW_READER, sender.send(Box::new(Ok(message)))).await {
        Ok(_) => Ok(()),
        Err(_) => {
            let message = format!("nothing was read for {} seconds", SLOW_READER.as_secs());
            Err(Failure::new(Code::DeadlineExceeded, reason::IDLE, message))
        }
    }
}

/// What long calls end with when the server goes down.
pub(super) fn shutting_down() -> Failure {
    Failure::new(Code::Unavailable, reason::SHUTTING_DOWN, "the server is going down; come back")
        .retry_after(Duration::from_secs(1))
}

/// WaitJob: the job when it has ended, or as it is after the time.
pub(super) async fn wait(app: &Arc<App>, caller: &Caller, request: v1::WaitJobRequest) -> Result<v1::Job> {
    let id = parse_name("name", &request.name)?;
    let limit = match request.timeout {
        Some(limit) => wire::read_duration("timeout", limit)?.min(WAIT_MAX),
        None => WAIT_MAX,
    };
    let row = ended(app, caller, id, Instant::now() + limit).await?;
    wire::job(&row, &app.config)
}

/// The job when it has ended, or as it is at the deadline.
pub(super) async fn ended(app: &Arc<App>, caller: &Caller, id: JobId, deadline: Instant) -> Result<JobRow> {
    loop {
        let mut subscription = app.hub.subscribe(id);
        let row = jobs::find(app, caller, id).await?;
        if row.state.is_final() || Instant::now() >= deadline {
            return Ok(row);
        }
        // The catalogue is asked now and then, should another process run the job.
        let look_again = deadline.min(Instant::now() + HEARTBEAT);
        let ended = async {
            while let Some(row) = subscription.changed().await {
                if row.state.is_final() {
                    break;
                }
            }
        };
        tokio::select! {
            _ = timeout_at(look_again, ended) => {}
            () = app.shutdown.cancelled() => return Err(shutting_down()),
        }
    }
}
