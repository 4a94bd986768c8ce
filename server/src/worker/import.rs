//! An import job: the bytes behind a URL become an image, as those of an upload do.
//!
//! The job has an upload of its own, which holds the quota and says what the image is to be; its row ends with the job's. An
//! attempt begins at the first byte: what an attempt before it had staged is cut off, since nobody knows whether the source
//! still has the same file. Within an attempt a fetch goes on after cuts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imageops_catalogue::{JobOutcome, JobRow, UploadRow};
use imageops_fetch::{Error, Fetch, Url};
use imageops_model::{ImageId, ImportSpec, JobId, JobPhase, UploadState};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::run::result_of;
use super::tracker::Tracker;
use super::{Stop, StopCause, publish_allowed, still_wanted};
use crate::app::{App, blocking};
use crate::failure::{Failure, Result, stopped};
use crate::upload::{CommitError, Grant, Ingest, Promise, Session, Step, commit, judge_prefix, store_of};
use crate::{reason, sources};

/// How often a file is fetched from its first byte on, when it changed or broke off where it cannot be gone on with.
const STARTS_MAX: u32 = 3;
/// Bytes that a source of known length, and what is unpacked, has a second for, beside the time that any job has.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// How often a wish to stop is looked for.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// What of the whole job is done when the image is there, fetched and unpacked.
const IMAGE_SHARE: f64 = 0.95;
/// What of the whole job is fetching, where an archive is fetched.
const ARCHIVE_SHARE: f64 = 0.5;

/// What an import job leaves in its row.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImportOutcome {
    /// The image.
    pub image: ImageId,
    /// Bytes that were fetched.
    pub fetched_bytes: u64,
    /// The check that was started with the image.
    pub check_job: Option<JobId>,
}

/// Imports what a URL leads to.
pub(super) async fn import(
    app: &Arc<App>,
    row: &JobRow,
    spec: &ImportSpec,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    // Whoever gives the upload up asks for it here, as of a stream.
    let session = app.uploads.session(spec.upload);
    let hold = session.take_over().await;
    let upload = app.catalogue.get_upload(&row.tenant, spec.upload).await?;
    if let Some(image) = upload.image {
        // An attempt crashed behind its commit.
        let image = app.catalogue.get_image(&row.tenant, image).await?;
        let check_job = image.check.as_ref().map(|check| check.job);
        return done(&ImportOutcome { image: image.id, fetched_bytes: image.size_bytes, check_job });
    }
    if upload.state != UploadState::Open {
        return Err(given_up());
    }
    let import = Import { app, upload: &upload, spec, stop, tracker };
    let made = import.make(&session, hold.number()).await;
    app.uploads.forget(upload.id);
    if made.is_err() && stop.cause() != Some(StopCause::Fenced) {
        app.discard_staged(upload.id).await;
    }
    done(&made?)
}

fn done(outcome: &ImportOutcome) -> Result<JobOutcome> {
    Ok(JobOutcome::Succeeded { result: result_of(outcome)?, image: None, replica: None })
}

fn given_up() -> Failure {
    let message = "what was to be imported was given up meanwhile";
    Failure::new(Code::FailedPrecondition, reason::UPLOAD_ENDED, message)
}

fn too_long(time: Duration) -> Failure {
    let message = format!("the import took longer than {} seconds", time.as_secs());
    Failure::new(Code::DeadlineExceeded, reason::TIMEOUT, message)
}

struct Import<'a> {
    app: &'a Arc<App>,
    upload: &'a UploadRow,
    spec: &'a ImportSpec,
    stop: &'a Stop,
    tracker: &'a Tracker,
}

/// Why a file did not come.
enum Broken {
    Source(Error),
    Ours(Failure),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Source(error)
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Ours(failure)
    }
}

impl Import<'_> {
    async fn make(&self, session: &Session, number: u64) -> Result<ImportOutcome> {
        let mut ingest = tokio::select! {
            fetched = self.fetch() => fetched?,
            () = session.lost(number) => return Err(given_up()),
            () = self.told_to_stop() => return Err(stopped()),
        };
        let fetched_bytes = ingest.received_bytes();
        let upload = self.app.catalogue.get_upload(&self.upload.tenant, self.upload.id).await?;
        let promises = [Promise::of(&upload)];
        let began = Instant::now();
        let watch = |step: Step| {
            if session.is_lost(number) {
                return Err(given_up());
            }
            self.step(step, fetched_bytes, began)
        };
        match commit(self.app, &upload, &mut ingest, &promises, BTreeMap::new(), &watch).await {
            Ok(committed) => Ok(ImportOutcome {
                image: committed.image.id,
                fetched_bytes,
                check_job: committed.check_job.map(|job| job.id),
            }),
            Err(CommitError::Refused(failure) | CommitError::Other(failure)) => Err(failure),
        }
    }

    /// Tells where the commit is, and ends it where it may not go on.
    fn step(&self, step: Step, fetched_bytes: u64, began: Instant) -> Result<()> {
        match step {
            Step::Unpacking { done_bytes, read_bytes } => {
                still_wanted(self.stop)?;
                let time = self.time_for(Some(done_bytes));
                if began.elapsed() > time {
                    return Err(too_long(time));
                }
                let fraction = (read_bytes as f64 / fetched_bytes.max(1) as f64).min(1.0);
                let fraction = ARCHIVE_SHARE + (IMAGE_SHARE - ARCHIVE_SHARE) * fraction;
                self.tracker.update(JobPhase::Copying, done_bytes, 0, fraction);
            }
            Step::Publishing => {
                publish_allowed(self.stop)?;
                self.tracker.publishing();
            }
        }
        Ok(())
    }

    async fn told_to_stop(&self) {
        while self.stop.cause().is_none() {
            sleep(STOP_INTERVAL).await;
        }
    }

    /// All of the file, staged.
    async fn fetch(&self) -> Result<Ingest> {
        // Read again: what the operator allows may have changed since it was asked for.
        let url = self.app.sources.gate().read(&self.spec.url.0).map_err(sources::refusal)?;
        let mut start = 1;
        loop {
            match self.fetch_once(&url, start).await {
                Ok(ingest) => return Ok(ingest),
                Err(Broken::Ours(failure)) => return Err(failure),
                Err(Broken::Source(error)) if error.is_worth_a_restart() && start < STARTS_MAX => {
                    tracing::info!(url = ?self.spec.url, %error, "an import begins again");
                    start += 1;
                }
                Err(Broken::Source(error)) => {
                    tracing::info!(url = ?self.spec.url, %error, "a source failed");
                    return Err(sources::refusal(error));
                }
            }
        }
    }

    async fn fetch_once(&self, url: &Url, start: u32) -> Result<Ingest, Broken> {
        let sources = &self.app.sources;
        let fetch = if start == 1 { sources.open(url).await? } else { sources.open_as_one(url).await? };
        let total_bytes = fetch.total_bytes();
        let mut ingest = self.stage().await?;
        let time = self.time_for(total_bytes);
        let poured = timeout(time, self.pour(fetch, &mut ingest)).await;
        if ingest.is_broken() {
            self.app.stores.suspect(store_of(self.app, self.upload));
        }
        match poured {
            Ok(poured) => poured?,
            Err(_) => return Err(too_long(time).into()),
        }
        Ok(ingest)
    }

    /// The time that any job has, and more for a long file.
    fn time_for(&self, total_bytes: Option<u64>) -> Duration {
        let any = Duration::from_secs_f64(self.app.config.job_timeout_seconds);
        any.saturating_add(Duration::from_secs(total_bytes.unwrap_or(0) / BYTES_PER_SECOND_MIN))
    }

    /// The staged file of the upload, empty.
    async fn stage(&self) -> Result<Ingest> {
        let id = store_of(self.app, self.upload);
        let (store, key) = (self.app.stores.writable(id)?, self.upload.id.0.to_string());
        let file = blocking(move || store.stage_anew(&key)).await?;
        let file = file.inspect_err(|error| self.app.stores.report(id, error))?;
        Ingest::open(file, 0, self.upload.wishes.sha512).await
    }

    /// Takes the bytes as they come.
    async fn pour(&self, mut fetch: Fetch, ingest: &mut Ingest) -> Result<(), Broken> {
        let total_bytes = fetch.total_bytes();
        let mut grant = Grant::of(self.upload);
        if let Some(total_bytes) = total_bytes {
            self.check_length(total_bytes, true)?;
            grant.cover(self.app, self.upload, total_bytes).await?;
        }
        self.tell(0, total_bytes);
        while let Some(data) = fetch.next().await? {
            let length = ingest.received_bytes() + data.len() as u64;
            self.check_length(length, false)?;
            grant.cover(self.app, self.upload, length).await?;
            let prefix = ingest.push(data).await?;
            if let Some(prefix) = prefix.filter(|_| self.upload.archive.is_none()) {
                judge_prefix(self.upload, &prefix)?;
            }
            ingest.flush_some().await?;
            self.tell(length, total_bytes);
        }
        Ok(())
    }

    /// Compares a length with the one that was promised; `whole`: it is that of all of the file.
    fn check_length(&self, length: u64, whole: bool) -> Result<()> {
        match self.upload.size_bytes {
            Some(promised) if length > promised || (whole && length != promised) => {
                let message = format!("the source has another length than the promised {promised} bytes");
                Err(Failure::new(Code::InvalidArgument, reason::SIZE_MISMATCH, message))
            }
            _ => Ok(()),
        }
    }

    fn tell(&self, done_bytes: u64, total_bytes: Option<u64>) {
        let fraction = match total_bytes {
            Some(total_bytes) if total_bytes > 0 => done_bytes as f64 / total_bytes as f64,
            _ => 0.0,
        };
        let total_bytes = total_bytes.unwrap_or(0);
        let share = if self.upload.archive.is_some() { ARCHIVE_SHARE } else { IMAGE_SHARE };
        self.tracker.update(JobPhase::Fetching, done_bytes, total_bytes, fraction * share);
    }
}
