//! Workers as `server/src/worker` has them: claim, lease, run, end.

use std::cell::Cell;
use std::rc::Rc;

use imageops_catalogue::{Catalogue as _, Error, ImageRow, JobOutcome, JobRow, Lease};
use imageops_model::{ImageId, JobFailure, JobProgress, JobSpec, Lane, Source, Tenant};
use uuid::Uuid;

use super::schedule::Owner;
use super::server::{Life, StoreError};
use super::{Trouble, image_row};

const LEASE_MS: i64 = 30_000;
const HEARTBEAT_MS: i64 = 5_000;
/// How long an idle worker waits for the bell. It hears it within [`BELL_MS`].
const POLL_MS: i64 = 20_000;
const BELL_MS: i64 = 500;
const ATTEMPTS_MAX: u32 = 3;
/// How often the end of a job is tried to be written.
const FINISH_TRIES: u32 = 20;
/// Pieces in which an output is written.
const PIECES: usize = 4;

/// Why a job stops before its end; the first cause counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Someone asked for it.
    Cancelled,
    /// The server was told to stop.
    Shutdown,
    /// Another worker has the job.
    Fenced,
}

/// What a running job looks at.
#[derive(Default)]
pub struct Stop {
    cause: Cell<Option<Cause>>,
    is_over: Cell<bool>,
}

impl Stop {
    /// Asks it to stop.
    pub fn because(&self, cause: Cause) {
        if self.cause.get().is_none() {
            self.cause.set(Some(cause));
        }
    }
}

/// The worker's id of a server, the same in each of its lives.
pub fn identity(number: usize) -> Uuid {
    Uuid::from_u128(1_000 + number as u128)
}

/// What a job makes of the bytes of its source.
pub fn converted(source: &[u8]) -> Vec<u8> {
    source.iter().rev().chain(b"!").copied().collect()
}

/// One worker: claims jobs and runs them until the server is told to stop.
pub async fn dispatch(life: Rc<Life>) {
    let world = &life.world;
    while !life.is_draining() && !world.is_idle.get() {
        let (rung, now) = (life.bell.get(), world.now.get());
        match claim(&life).await {
            Ok(Some(row)) => run(&life, row).await,
            Ok(None) | Err(_) => {
                while life.bell.get() == rung && world.now.get() < now.plus_ms(POLL_MS) {
                    world.sleep(BELL_MS).await;
                }
            }
        }
    }
}

async fn claim(life: &Life) -> Result<Option<JobRow>, Trouble> {
    let (world, worker) = (&life.world, identity(life.number));
    world
        .ask("a job is looked for", |rows| async move {
            let now = world.now.get();
            let lease = Lease { now, until: now.plus_ms(LEASE_MS) };
            let claimed = rows.claim_job(worker, Lane::Work, lease, now, ATTEMPTS_MAX).await;
            if let Ok(Some(row)) = &claimed {
                world.tell(&format!("server {} has {}, attempt {}", life.number, row.id, row.attempt));
                world.reference.borrow_mut().claimed(row);
                world.has_changed.set(true);
            } else {
                // A search that finds nothing may have ended jobs.
                let live = rows.count_jobs().await?;
                let has_ended = live.queued + live.running != world.reference.borrow().live_jobs();
                world.has_changed.set(has_ended || world.has_changed.get());
            }
            claimed
        })
        .await
}

/// A job that was claimed, to its end.
async fn run(life: &Rc<Life>, row: JobRow) {
    let stop = Rc::new(Stop::default());
    life.running.borrow_mut().push(Rc::clone(&stop));
    life.world.spawn(Owner::Server(life.number), keep_lease(Rc::clone(life), row.clone(), Rc::clone(&stop)));
    let result = execute(life, &row, &stop).await;
    stop.is_over.set(true);
    life.running.borrow_mut().retain(|other| !Rc::ptr_eq(other, &stop));
    if result.is_err() {
        beat(life, &row, &stop).await;
    }
    end(life, &row, &stop, result).await;
    // What cannot go now goes with a sweep.
    let _ = life.remove_doomed().await;
}

async fn keep_lease(life: Rc<Life>, row: JobRow, stop: Rc<Stop>) {
    loop {
        life.world.sleep(HEARTBEAT_MS).await;
        if stop.is_over.get() {
            return;
        }
        beat(&life, &row, &stop).await;
    }
}

async fn beat(life: &Life, row: &JobRow, stop: &Stop) {
    let (world, id, attempt) = (&life.world, row.id, row.attempt);
    let answer = world
        .ask(&format!("{id}, attempt {attempt}, goes on"), |rows| async move {
            let now = world.now.get();
            let progress = JobProgress::default();
            let beat = rows.heartbeat_job(id, attempt, &progress, 0, now, now.plus_ms(LEASE_MS)).await;
            world.reference.borrow_mut().wrote(id, attempt, beat.is_ok());
            beat
        })
        .await;
    match answer {
        Ok(beat) if beat.cancel_requested => stop.because(Cause::Cancelled),
        Err(Trouble::Refused(Error::Fenced)) => stop.because(Cause::Fenced),
        // The next one tells.
        Ok(_) | Err(_) => {}
    }
}

/// Why a job has no result.
struct Failure(&'static str);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(match error {
            StoreError::Exists => "STORE_EXISTS",
            StoreError::NotFound => "STORE_NOT_FOUND",
        })
    }
}

fn still_wanted(stop: &Stop) -> Result<(), Failure> {
    if stop.cause.get().is_some() { Err(Failure("STOPPED")) } else { Ok(()) }
}

/// The last look before a name changes hands.
fn publish_allowed(stop: &Stop) -> Result<(), Failure> {
    match stop.cause.get() {
        None | Some(Cause::Shutdown) => Ok(()),
        Some(_) => Err(Failure("STOPPED")),
    }
}

async fn execute(life: &Life, row: &JobRow, stop: &Stop) -> Result<JobOutcome, Failure> {
    let (source, output) = match &row.spec {
        JobSpec::Check(spec) => (&spec.source, None),
        JobSpec::Convert(spec) => (&spec.source, spec.output_image),
        _ => return Err(Failure("INTERNAL")),
    };
    let Source::Image(source) = *source else { return Err(Failure("INTERNAL")) };
    let bytes = read_source(life, source).await?;
    let image = match output {
        None => {
            for _ in 0..PIECES {
                life.world.wait_for_disk().await;
                still_wanted(stop)?;
            }
            None
        }
        Some(output) => Some(make_image(life, row, output, &converted(&bytes), stop).await?),
    };
    Ok(JobOutcome::Succeeded { result: super::digest(&bytes), image, replica: None })
}

/// The bytes of an active image; who has them open reads them to their end.
async fn read_source(life: &Life, image: ImageId) -> Result<Vec<u8>, Failure> {
    let row = life
        .world
        .ask("the source is opened", |rows| async move { rows.get_image(&Tenant::built_in(), image).await })
        .await;
    match row {
        Ok(row) if row.state == imageops_model::ImageState::Active => {
            let blob = row.ready_replica().map(|replica| replica.blob.clone()).unwrap_or_default();
            life.read(&blob).await.ok_or(Failure("BYTES_LOST"))
        }
        Ok(_) => Err(Failure("IMAGE_TRASHED")),
        Err(Trouble::Refused(_)) => Err(Failure("IMAGE_NOT_FOUND")),
        Err(Trouble::Unavailable) => Err(Failure("UNAVAILABLE")),
    }
}

/// Writes and publishes the output under names of the attempt.
async fn make_image(
    life: &Life,
    row: &JobRow,
    output: ImageId,
    bytes: &[u8],
    stop: &Stop,
) -> Result<ImageRow, Failure> {
    let staged = format!("job-{}-{}", output.0, row.attempt);
    let blob = life.world.uuid().to_string();
    let made = async {
        life.discard(&staged).await;
        life.stage(&staged).await;
        let mut offset = 0;
        for piece in bytes.chunks(bytes.len().div_ceil(PIECES)) {
            still_wanted(stop)?;
            life.write(&staged, offset, piece).await?;
            offset += piece.len();
        }
        publish_allowed(stop)?;
        life.publish(&staged, &blob).await?;
        Ok(image_row(&life.world, output, bytes, &blob))
    };
    let made = made.await;
    life.discard(&staged).await;
    made
}

/// Writes how the job ended.
async fn end(life: &Life, row: &JobRow, stop: &Stop, result: Result<JobOutcome, Failure>) {
    let outcome = match (result, stop.cause.get()) {
        // What is complete stays complete.
        (Ok(outcome), _) => outcome,
        (Err(_), Some(Cause::Cancelled)) => JobOutcome::Cancelled,
        (Err(_), Some(Cause::Shutdown)) => return release(life, row).await,
        (Err(_), Some(Cause::Fenced)) => return,
        (Err(failure), None) => failed(failure.0),
    };
    let made: Vec<String> = match &outcome {
        JobOutcome::Succeeded { image, .. } => {
            image.iter().flat_map(|image| &image.replicas).map(|copy| copy.blob.clone()).collect()
        }
        _ => Vec::new(),
    };
    if let Err(reason) = finish(life, row, outcome).await {
        // What was made cannot be kept: nothing of it stays.
        let _ = finish(life, row, failed(reason)).await;
        for blob in made {
            life.remove_unless_referenced(&blob).await;
        }
    }
}

fn failed(reason: &'static str) -> JobOutcome {
    JobOutcome::Failed(JobFailure { code: 13, reason: reason.to_owned(), message: "no result".to_owned() })
}

/// Writes an end; why what was made was not taken.
async fn finish(life: &Life, row: &JobRow, outcome: JobOutcome) -> Result<(), &'static str> {
    let (world, id, attempt) = (&life.world, row.id, row.attempt);
    for tried in 0..FINISH_TRIES {
        let outcome = outcome.clone();
        let finished = world
            .change(&format!("{id}, attempt {attempt}, ends"), |rows| async move {
                let ended = rows.finish_job(id, attempt, outcome, 0, world.now.get()).await;
                world.reference.borrow_mut().wrote(id, attempt, ended.is_ok());
                ended
            })
            .await;
        match finished {
            Err(Trouble::Unavailable) => world.sleep(50 << tried.min(5)).await,
            Err(Trouble::Refused(
                Error::Conflict { .. } | Error::NotFound { what: "image" } | Error::State { what: "image" },
            )) => {
                return Err("REFUSED");
            }
            Ok(_) | Err(Trouble::Refused(_)) => return Ok(()),
        }
    }
    Ok(())
}

async fn release(life: &Life, row: &JobRow) {
    let (world, id, attempt) = (&life.world, row.id, row.attempt);
    // Where it is not taken back its lease runs out.
    let _ = world
        .change(&format!("{id}, attempt {attempt}, is given back"), |rows| async move {
            let released = rows.release_job(id, attempt, 0, world.now.get()).await;
            world.reference.borrow_mut().wrote(id, attempt, released.is_ok());
            released
        })
        .await;
}
