//! Making, listing, cancelling and forgetting jobs.

use std::collections::HashSet;
use std::sync::Arc;

use imageops_model::{CompressSpec, CompressionChoice, EstimateSpec, JobKind, Label, Source};

use super::*;
use crate::{Cursor, JobCounts, JobOutcome, Page};

pub(crate) async fn a_job_reads_back<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let asked = new_job(at(3));
    let row = new_row(catalogue.create_job(asked.clone(), 1).await.unwrap());
    assert_eq!(row.id, asked.id);
    assert_eq!(row.spec, asked.spec);
    assert_eq!((row.state, row.attempt, row.cancel_requested), (JobState::Queued, 0, false));
    assert_eq!((row.create_time, row.update_time), (at(3), at(3)));
    assert_eq!((row.start_time, row.end_time, row.lease_time, row.worker), (None, None, None, None));
    assert!(row.revision > 0);
    assert_eq!(catalogue.get_job(&tenant(), asked.id).await.unwrap(), row);
    assert_eq!(catalogue.count_jobs().await.unwrap(), JobCounts { queued: 1, running: 0, most: 1 });
    let again = NewJob { spec: check_spec("another"), ..asked };
    assert_error!(catalogue.create_job(again, 10).await, Error::Conflict { what: "job" });
}

pub(crate) async fn a_job_that_failed_at_once_takes_no_place<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let asked = NewJob { failure: Some(failure()), ..new_job(at(0)) };
    let row = new_row(catalogue.create_job(asked, 0).await.unwrap());
    assert_eq!((row.state, row.failure, row.end_time), (JobState::Failed, Some(failure()), Some(at(0))));
    assert!(
        catalogue.claim_job(worker(), Lane::Work, lease(at(1), at(2)), at(1), 3).await.unwrap().is_none()
    );
    assert_eq!(catalogue.count_jobs().await.unwrap(), JobCounts { queued: 0, running: 0, most: 0 });
}

pub(crate) async fn the_same_request_is_the_same_job<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = NewJob { request: request(1, 1), ..new_job(at(0)) };
    let first = new_row(catalogue.create_job(first, 1).await.unwrap());
    // Known before the queue is looked at: a repeated call does not fail because its own job fills the queue.
    let again = NewJob { request: request(1, 1), ..new_job(at(5)) };
    assert_eq!(existing_row(catalogue.create_job(again, 1).await.unwrap()), first);
    let found = catalogue.find_job(&tenant(), request(1, 1).unwrap()).await.unwrap();
    assert_eq!(found.as_ref(), Some(&first));
    assert_eq!(catalogue.find_job(&tenant(), request(7, 1).unwrap()).await.unwrap(), None);
    assert_eq!(catalogue.find_job(&other_tenant(), request(1, 1).unwrap()).await.unwrap(), None);
    assert_error!(
        catalogue.find_job(&tenant(), request(1, 2).unwrap()).await,
        Error::Conflict { what: "job" }
    );
    let other_content = NewJob { request: request(1, 2), ..new_job(at(5)) };
    assert_error!(catalogue.create_job(other_content, 1).await, Error::Conflict { what: "job" });
    // Another tenant's request of the same id is another request.
    let other = NewJob { request: request(1, 2), tenant: other_tenant(), ..new_job(at(5)) };
    new_row(catalogue.create_job(other, 10).await.unwrap());
    // As it is now, not as it was.
    catalogue.cancel_job(&tenant(), first.id, at(6)).await.unwrap();
    let again = NewJob { request: request(1, 1), ..new_job(at(7)) };
    assert_eq!(existing_row(catalogue.create_job(again, 10).await.unwrap()).state, JobState::Cancelled);
    // With the job its key is forgotten.
    catalogue.delete_job(&tenant(), first.id).await.unwrap();
    let again = NewJob { request: request(1, 2), ..new_job(at(8)) };
    new_row(catalogue.create_job(again, 10).await.unwrap());
}

pub(crate) async fn the_queue_limit_holds_under_concurrency<D: Database>() {
    let database = D::new();
    let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let catalogue = Arc::clone(&handles[n % 2]);
            tokio::spawn(async move { catalogue.create_job(new_job(at(n as i64)), 10).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => made += 1,
            Err(Error::QueueFull) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made, 10);
    assert_eq!(handles[0].count_jobs().await.unwrap(), JobCounts { queued: 10, running: 0, most: 10 });
    // Running jobs count too; ended ones do not.
    let job = handles[0]
        .claim_job(worker(), Lane::Work, lease(at(100), at(130)), at(100), 3)
        .await
        .unwrap()
        .unwrap();
    assert_error!(handles[1].create_job(new_job(at(101)), 10).await, Error::QueueFull);
    handles[0].finish_job(job.id, job.attempt, JobOutcome::Cancelled, 0, at(102)).await.unwrap();
    handles[1].create_job(new_job(at(103)), 10).await.unwrap();
}

pub(crate) async fn checks_that_come_unasked_take_no_other_tenants_place<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let busy = Tenant::new("busy").unwrap();
    for n in 0..40 {
        let check = NewJob { tenant: busy.clone(), ..new_job(at(n)) };
        new_row(catalogue.create_job(check, u64::MAX).await.unwrap());
    }
    assert_error!(
        catalogue.create_job(NewJob { tenant: busy, ..new_job(at(40)) }, 2).await,
        Error::QueueFull
    );
    new_row(catalogue.create_job(new_job(at(41)), 2).await.unwrap());
}

pub(crate) async fn one_request_at_many_places_makes_one_job<D: Database>() {
    let database = D::new();
    let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let tasks: Vec<_> = (0..24)
        .map(|n| {
            let catalogue = Arc::clone(&handles[n % 2]);
            let job = NewJob { request: request(9, 9), ..new_job(at(0)) };
            tokio::spawn(async move { catalogue.create_job(job, 100).await.unwrap() })
        })
        .collect();
    let mut ids = HashSet::new();
    let mut new = 0;
    for task in tasks {
        let id = match task.await.unwrap() {
            Created::New(row) => {
                new += 1;
                row.id
            }
            Created::Existing(row) => row.id,
        };
        ids.insert(id);
    }
    assert_eq!((new, ids.len()), (1, 1));
}

pub(crate) async fn pages_are_stable_under_inserts<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut expected = Vec::new();
    // Several in the same microsecond: the id decides.
    for n in 0..25 {
        let row = new_row(catalogue.create_job(new_job(at(n / 4)), 1000).await.unwrap());
        expected.push((row.create_time, row.id));
    }
    expected.sort_by(|a, b| b.cmp(a));
    let mut seen = Vec::new();
    let mut page = Page { limit: 7, after: None };
    loop {
        let rows = catalogue.list_jobs(&tenant(), &[], &[], page.clone()).await.unwrap();
        // Newer ones come while the pages are turned.
        catalogue.create_job(new_job(at(1000)), 1000).await.unwrap();
        seen.extend(rows.iter().map(|row| (row.create_time, row.id)));
        if rows.len() < 7 {
            break;
        }
        let last = rows.last().unwrap();
        page.after = Some(Cursor { create_time: last.create_time, id: last.id.0 });
    }
    assert_eq!(seen, expected);
    // A limit of nothing and one beyond all bounds are brought into bounds.
    let one = catalogue.list_jobs(&tenant(), &[], &[], Page::default()).await.unwrap();
    assert_eq!(one.len(), 1);
    let all = Page { limit: u32::MAX, after: None };
    assert_eq!(catalogue.list_jobs(&tenant(), &[], &[], all).await.unwrap().len(), 29);
}

pub(crate) async fn lists_are_filtered<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let compress = JobSpec::Compress(CompressSpec {
        source: Source::File("a".to_owned()),
        output_file: Some("b".to_owned()),
        output_image: None,
        output_label: Label::default(),
        companion: false,
        compression: CompressionChoice { zstd: true, ..CompressionChoice::default() },
    });
    let check = new_row(catalogue.create_job(new_job(at(0)), 10).await.unwrap()).id;
    let failed = NewJob { failure: Some(failure()), spec: compress.clone(), ..new_job(at(1)) };
    let failed = new_row(catalogue.create_job(failed, 10).await.unwrap());
    assert_eq!(failed.spec, compress);
    let queued = NewJob { spec: compress, ..new_job(at(2)) };
    let queued = new_row(catalogue.create_job(queued, 10).await.unwrap()).id;
    let estimate = JobSpec::Estimate(EstimateSpec {
        source: Source::File("a".to_owned()),
        compression: CompressionChoice::default(),
    });
    let estimate = NewJob { spec: estimate, ..new_job(at(3)) };
    let estimate = new_row(catalogue.create_job(estimate, 10).await.unwrap()).id;
    let list = async |states: &[JobState], kinds: &[JobKind]| {
        let page = Page { limit: 10, after: None };
        let rows = catalogue.list_jobs(&tenant(), states, kinds, page).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(list(&[], &[]).await, [estimate, queued, failed.id, check]);
    assert_eq!(list(&[JobState::Queued], &[]).await, [estimate, queued, check]);
    assert_eq!(list(&[], &[JobKind::Compress]).await, [queued, failed.id]);
    assert_eq!(list(&[], &[JobKind::Estimate]).await, [estimate]);
    assert_eq!(list(&[JobState::Running], &[]).await, []);
    assert_eq!(list(&[JobState::Queued, JobState::Running], &[]).await, [estimate, queued, check]);
    assert_eq!(list(&[JobState::Running, JobState::Queued], &[JobKind::Check]).await, [check]);
    assert_eq!(list(&[JobState::Queued, JobState::Failed], &[JobKind::Compress]).await, [queued, failed.id]);
    assert_eq!(list(&[JobState::Failed, JobState::Failed], &[JobKind::Compress]).await, [failed.id]);
    assert_eq!(list(&[JobState::Failed], &[JobKind::Check]).await, []);
    assert_eq!(list(JobState::ALL, JobKind::ALL).await, [estimate, queued, failed.id, check]);
}

pub(crate) async fn other_tenants_see_no_job<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let id = new_row(catalogue.create_job(new_job(at(0)), 10).await.unwrap()).id;
    let other = other_tenant();
    assert_error!(catalogue.get_job(&other, id).await, Error::NotFound { what: "job" });
    assert_error!(catalogue.cancel_job(&other, id, at(1)).await, Error::NotFound { what: "job" });
    assert_error!(catalogue.delete_job(&other, id).await, Error::NotFound { what: "job" });
    let page = Page { limit: 10, after: None };
    assert!(catalogue.list_jobs(&other, &[], &[], page).await.unwrap().is_empty());
    assert_eq!(catalogue.get_job(&tenant(), id).await.unwrap().state, JobState::Queued);
}

pub(crate) async fn cancel_depends_on_the_state<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let missing = JobId(Uuid::new_v4());
    assert_error!(catalogue.cancel_job(&tenant(), missing, at(0)).await, Error::NotFound { what: "job" });
    let queued = new_row(catalogue.create_job(new_job(at(0)), 10).await.unwrap());
    let cancelled = catalogue.cancel_job(&tenant(), queued.id, at(1)).await.unwrap();
    assert_eq!((cancelled.state, cancelled.end_time), (JobState::Cancelled, Some(at(1))));
    assert!(cancelled.revision > queued.revision);
    assert_error!(catalogue.cancel_job(&tenant(), queued.id, at(2)).await, Error::State { what: "job" });

    let running = claimed(&catalogue, at(3)).await;
    let marked = catalogue.cancel_job(&tenant(), running.id, at(4)).await.unwrap();
    assert_eq!((marked.state, marked.cancel_requested), (JobState::Running, true));
    assert!(marked.revision > running.revision);
    assert_eq!(catalogue.cancel_job(&tenant(), running.id, at(5)).await.unwrap(), marked);
}

pub(crate) async fn only_ended_jobs_are_deleted<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    assert_error!(catalogue.delete_job(&tenant(), job.id).await, Error::State { what: "job" });
    catalogue.finish_job(job.id, job.attempt, JobOutcome::Failed(failure()), 0, at(1)).await.unwrap();
    catalogue.delete_job(&tenant(), job.id).await.unwrap();
    assert_error!(catalogue.get_job(&tenant(), job.id).await, Error::NotFound { what: "job" });
    assert_error!(catalogue.delete_job(&tenant(), job.id).await, Error::NotFound { what: "job" });
}

pub(crate) async fn old_jobs_expire<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    for end in 0..5 {
        let job = NewJob { failure: Some(failure()), ..new_job(at(end)) };
        catalogue.create_job(job, 10).await.unwrap();
    }
    let old_but_queued = new_row(catalogue.create_job(new_job(at(-1000)), 10).await.unwrap());
    assert_eq!(catalogue.expire_jobs(at(3)).await.unwrap(), 3);
    assert_eq!(catalogue.expire_jobs(at(3)).await.unwrap(), 0);
    let page = Page { limit: 10, after: None };
    let left = catalogue.list_jobs(&tenant(), &[], &[], page).await.unwrap();
    assert_eq!(left.iter().map(|row| row.create_time).collect::<Vec<_>>(), [at(4), at(3), at(-1000)]);
    catalogue.get_job(&tenant(), old_but_queued.id).await.unwrap();
}

pub(crate) async fn numbers_out_of_range_are_refused<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    let beat = catalogue.heartbeat_job(job.id, job.attempt, &progress(1.0), u64::MAX, at(1), at(31)).await;
    assert_error!(beat, Error::OutOfRange { .. });
    assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap(), job);
    // A figure that is not a number must not make the row unreadable.
    let odd = JobProgress { percent: f64::NAN, done_bytes: u64::MAX, ..JobProgress::default() };
    catalogue.heartbeat_job(job.id, job.attempt, &odd, 9, at(1), at(31)).await.unwrap();
    let row = catalogue.get_job(&tenant(), job.id).await.unwrap();
    assert_eq!((row.progress.percent, row.progress.done_bytes), (0.0, u64::MAX));
}
