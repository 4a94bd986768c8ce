//! Random operations on jobs, done in the catalogue and in a few lines of plain code that say what must come of them.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::{JobCounts, JobOutcome};

const ATTEMPTS_MAX: u32 = 2;
const QUEUE_LIMIT: u64 = 4;
const LEASE_MS: i64 = 10_000;
const CASES: usize = 24;

#[derive(Clone, Debug)]
enum Operation {
    Create,
    Wait(i64),
    Claim,
    Heartbeat(usize, u32),
    Finish(usize, u32, bool),
    Release(usize, u32),
    Cancel(usize),
    Delete(usize),
    FreeLeases,
    Reopen,
}

fn any_operation() -> impl Strategy<Value = Operation> {
    // A job by its place, and how many claims ago the worker's was: mostly the current one.
    let late = prop_oneof![5 => Just(0_u32), 1 => 1..3_u32];
    prop_oneof![
        4 => Just(Operation::Create),
        3 => (1..8_i64).prop_map(Operation::Wait),
        6 => Just(Operation::Claim),
        3 => (0..6_usize, late.clone()).prop_map(|(job, late)| Operation::Heartbeat(job, late)),
        2 => (0..6_usize, late.clone(), any::<bool>()).prop_map(|(job, late, good)| Operation::Finish(job, late, good)),
        2 => (0..6_usize, late).prop_map(|(job, late)| Operation::Release(job, late)),
        2 => (0..6_usize).prop_map(Operation::Cancel),
        1 => (0..6_usize).prop_map(Operation::Delete),
        1 => Just(Operation::FreeLeases),
        1 => Just(Operation::Reopen),
    ]
}

/// What the model knows of a job.
#[derive(Clone, Debug)]
struct Known {
    id: JobId,
    state: JobState,
    attempt: u32,
    crashes: u32,
    cancel_requested: bool,
    lease: Option<Micros>,
    revision: u64,
}

impl Known {
    fn is_held_by(&self, attempt: u32) -> bool {
        self.state == JobState::Running && self.attempt == attempt
    }
}

/// The jobs in the order in which they were made.
#[derive(Default)]
struct Model {
    jobs: Vec<Known>,
    now: Micros,
}

impl Model {
    fn active(&self) -> u64 {
        self.jobs.iter().filter(|job| !job.state.is_final()).count() as u64
    }

    /// The job that a claim must answer.
    fn claim(&mut self) -> Option<JobId> {
        for job in &mut self.jobs {
            let is_lapsed = job.state == JobState::Running && job.lease.is_none_or(|end| end < self.now);
            if job.state != JobState::Queued && !is_lapsed {
                continue;
            }
            if is_lapsed {
                job.crashes += 1;
            }
            if job.cancel_requested {
                job.state = JobState::Cancelled;
            } else if is_lapsed && job.crashes >= ATTEMPTS_MAX {
                job.state = JobState::Failed;
            } else {
                job.state = JobState::Running;
                job.attempt += 1;
                job.lease = Some(self.now.plus_ms(LEASE_MS));
                return Some(job.id);
            }
        }
        None
    }
}

pub(crate) async fn random_operations_agree_with_a_model<D: Database>() {
    let mut runner = TestRunner::new(Config::default());
    let operations = prop::collection::vec(any_operation(), 10..60);
    for case in 0..CASES {
        let operations = operations.new_tree(&mut runner).unwrap().current();
        println!("case {case}: {operations:?}");
        run::<D>(operations).await;
    }
}

async fn run<D: Database>(operations: Vec<Operation>) {
    let database = D::new();
    let mut catalogue = database.open().await;
    let mut model = Model { now: at(0), ..Model::default() };
    for operation in operations {
        // Creation times differ, so that the order of jobs is that of their making.
        model.now = Micros(model.now.0 + 1);
        if let Operation::Reopen = operation {
            drop(catalogue);
            catalogue = database.open().await;
        } else {
            step(&catalogue, &mut model, operation).await;
        }
        compare(&catalogue, &mut model).await;
        assert_sound::<D>(&catalogue).await;
    }
}

/// Does one operation at both, and compares the answers.
async fn step(catalogue: &impl Catalogue, model: &mut Model, operation: Operation) {
    let now = model.now;
    let lease_until = now.plus_ms(LEASE_MS);
    match operation {
        Operation::Create => {
            let made = catalogue.create_job(NewJob { reserve_bytes: 10, ..new_job(now) }, QUEUE_LIMIT).await;
            if model.active() >= QUEUE_LIMIT {
                assert_error!(made, Error::QueueFull);
                return;
            }
            let row = new_row(made.unwrap());
            model.jobs.push(Known {
                id: row.id,
                state: JobState::Queued,
                attempt: 0,
                crashes: 0,
                cancel_requested: false,
                lease: None,
                revision: row.revision,
            });
        }
        Operation::Wait(seconds) => model.now = now.plus_ms(seconds * 1000),
        Operation::Claim => {
            let claimed = catalogue
                .claim_job(worker(), Lane::Work, lease(now, lease_until), now, ATTEMPTS_MAX)
                .await
                .unwrap();
            assert_eq!(claimed.map(|row| row.id), model.claim());
        }
        Operation::FreeLeases => {
            let held =
                model.jobs.iter_mut().filter(|job| job.state == JobState::Running && job.lease.is_some());
            let freed = held.map(|job| job.lease = None).count() as u64;
            assert_eq!(catalogue.free_leases(worker(), now).await.unwrap(), freed);
        }
        Operation::Reopen => {}
        Operation::Heartbeat(place, late) => {
            let Some(job) = model.jobs.get_mut(place) else { return };
            let attempt = job.attempt.saturating_sub(late);
            let beat = catalogue
                .heartbeat_job(job.id, attempt, &progress(1.0), job.revision + 1, now, lease_until)
                .await;
            if !job.is_held_by(attempt) {
                assert_error!(beat, Error::Fenced);
                return;
            }
            assert_eq!(beat.unwrap().cancel_requested, job.cancel_requested);
            job.lease = Some(lease_until);
        }
        Operation::Finish(place, late, good) => {
            let Some(job) = model.jobs.get_mut(place) else { return };
            let attempt = job.attempt.saturating_sub(late);
            let (outcome, state) = if good {
                (
                    JobOutcome::Succeeded { result: "1".to_owned(), image: None, replica: None },
                    JobState::Succeeded,
                )
            } else {
                (JobOutcome::Failed(failure()), JobState::Failed)
            };
            let ended = catalogue.finish_job(job.id, attempt, outcome, job.revision + 1, now).await;
            if !job.is_held_by(attempt) {
                assert_error!(ended, Error::Fenced);
                return;
            }
            assert_eq!(ended.unwrap().state, state);
            job.state = state;
        }
        Operation::Release(place, late) => {
            let Some(job) = model.jobs.get_mut(place) else { return };
            let attempt = job.attempt.saturating_sub(late);
            let released = catalogue.release_job(job.id, attempt, 0, now).await;
            if !job.is_held_by(attempt) {
                assert_error!(released, Error::Fenced);
                return;
            }
            released.unwrap();
            job.state = JobState::Queued;
        }
        Operation::Cancel(place) => {
            let Some(job) = model.jobs.get_mut(place) else { return };
            let cancelled = catalogue.cancel_job(&tenant(), job.id, now).await;
            if job.state.is_final() {
                assert_error!(cancelled, Error::State { .. });
                return;
            }
            cancelled.unwrap();
            job.cancel_requested = true;
            if job.state == JobState::Queued {
                job.state = JobState::Cancelled;
            }
        }
        Operation::Delete(place) => {
            let Some(job) = model.jobs.get(place) else { return };
            let deleted = catalogue.delete_job(&tenant(), job.id).await;
            if !job.state.is_final() {
                assert_error!(deleted, Error::State { .. });
                return;
            }
            deleted.unwrap();
            model.jobs.remove(place);
        }
    }
}

async fn compare(catalogue: &impl Catalogue, model: &mut Model) {
    let count = |state: JobState| model.jobs.iter().filter(|job| job.state == state).count() as u64;
    let (queued, running) = (count(JobState::Queued), count(JobState::Running));
    let expected = JobCounts { queued, running, most: queued + running };
    assert_eq!(catalogue.count_jobs().await.unwrap(), expected);
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!(usage.reserved_bytes, 10 * model.active());
    for job in &mut model.jobs {
        let row = catalogue.get_job(&tenant(), job.id).await.unwrap();
        assert_eq!((row.state, row.attempt), (job.state, job.attempt));
        assert_eq!(row.cancel_requested, job.cancel_requested);
        assert_eq!(row.end_time.is_some(), row.state.is_final());
        assert_eq!(row.lease_time, if row.state == JobState::Running { job.lease } else { None });
        assert!(row.revision >= job.revision, "the revision never falls");
        job.revision = row.revision;
    }
}
