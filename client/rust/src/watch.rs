//! A watch that comes back after the connection broke.

use std::time::Duration;

use futures::Stream;
use futures::stream::try_unfold;
use imageops::v1::{Job, WatchEvent, WatchStatusRequest, WatchStatusResponse};
use tonic::{Status, Streaming};

use crate::client::{Client, is_final};
use crate::error::{Error, Result};
use crate::retry::{Attempts, RetryPolicy};

/// How long a watch may be silent before its connection counts as broken: three heartbeats of the server.
const SILENCE_MAX: Duration = Duration::from_secs(30);

impl Client {
    /// Follows a job: the job as it is, then each change after `after_revision` (0: all), up to the final state, which
    /// is the last item.
    ///
    /// Comes back with the last revision seen when the connection breaks or the server goes down; the watch itself
    /// fails only after a bounded number of attempts without news. A job that fails is not a failure of its watch.
    pub fn watch(&self, job: &str, after_revision: u64) -> impl Stream<Item = Result<Job>> + Send + use<> {
        let watch = Watch {
            client: self.clone(),
            policy: self.retry().clone(),
            job: job.to_owned(),
            after_revision,
            stream: None,
            failures: 0,
            ended: false,
        };
        try_unfold(watch, |mut watch| async move { Ok(watch.next().await?.map(|job| (job, watch))) })
    }
}

struct Watch {
    client: Client,
    policy: RetryPolicy,
    job: String,
    after_revision: u64,
    stream: Option<Streaming<WatchStatusResponse>>,
    failures: u32,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Result<Option<Job>> {
        if self.ended {
            return Ok(None);
        }
        loop {
            let error = match self.receive().await {
                Ok(response) => match self.take(response) {
                    Some(job) => return Ok(Some(job)),
                    None => continue,
                },
                Err(error) => error,
            };
            self.stream = None;
            let policy = self.policy.clone();
            let mut attempts = Attempts::with_failures(&policy, self.failures);
            attempts.pause_after(error).await?;
            self.failures = attempts.failures();
        }
    }

    /// The next message, over a new call where there is none.
    async fn receive(&mut self) -> Result<WatchStatusResponse> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let request =
                    WatchStatusRequest { job: self.job.clone(), after_revision: self.after_revision };
                self.stream.insert(self.client.stub().watch_status(request).await?.into_inner())
            }
        };
        match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
            Ok(message) => {
                message?.ok_or_else(|| Status::unavailable("the watch ended before the job did").into())
            }
            Err(_) => Err(Error::from(Status::unavailable("the watch fell silent"))),
        }
    }

    /// What a message tells the caller; nothing for a heartbeat and for what was seen already.
    fn take(&mut self, response: WatchStatusResponse) -> Option<Job> {
        if response.event() == WatchEvent::Heartbeat || response.revision > self.after_revision {
            self.failures = 0;
        }
        let job = response.job?;
        self.ended = is_final(job.state());
        // A final state ends the watch even if its revision was seen: the caller would wait for ever.
        if job.revision <= self.after_revision && !self.ended {
            return None;
        }
        self.after_revision = job.revision;
        Some(job)
    }
}
