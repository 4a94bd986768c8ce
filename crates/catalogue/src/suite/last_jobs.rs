//! What images know of their jobs, and jobs that are the same.

use super::*;
use crate::{JobOutcome, Join, LastCheck};

fn check_of(image: ImageId) -> NewJob {
    let spec = CheckSpec { source: Source::Image(image), md5: true, sha256: true };
    NewJob { spec: JobSpec::Check(spec), ..new_job(at(2)) }
}

fn done(result: &str) -> JobOutcome {
    JobOutcome::Succeeded { result: result.to_owned(), image: None, replica: None }
}

pub(crate) async fn a_result_stays_until_the_next_check_ends<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let check = async || catalogue.get_image(&tenant(), image.id).await.unwrap().check;
    assert_eq!(check().await, None);
    let claim = async || {
        catalogue.claim_job(worker(), Lane::Work, lease(at(3), at(33)), at(3), 3).await.unwrap().unwrap()
    };
    let first = new_row(catalogue.create_job(check_of(image.id), 10).await.unwrap()).id;
    let begun = LastCheck { job: first, result: None, failure: None, time: None };
    assert_eq!(check().await, Some(begun));
    claim().await;
    catalogue.finish_job(first, 1, done("1"), 0, at(4)).await.unwrap();
    let ended = LastCheck { job: first, result: Some("1".to_owned()), failure: None, time: Some(at(4)) };
    assert_eq!(check().await, Some(ended.clone()));
    let second = new_row(catalogue.create_job(check_of(image.id), 10).await.unwrap()).id;
    assert_eq!(check().await, Some(LastCheck { job: second, ..ended.clone() }));
    claim().await;
    let third = new_row(catalogue.create_job(check_of(image.id), 10).await.unwrap()).id;
    // Of the older one nobody wants to know any more.
    catalogue.finish_job(second, 1, done("2"), 0, at(5)).await.unwrap();
    assert_eq!(check().await, Some(LastCheck { job: third, ..ended }));
    claim().await;
    catalogue.finish_job(third, 1, JobOutcome::Failed(failure()), 0, at(6)).await.unwrap();
    let failed = LastCheck { job: third, result: None, failure: Some(failure()), time: Some(at(6)) };
    assert_eq!(check().await, Some(failed));
    // The image is not another one for it.
    let after = catalogue.get_image(&tenant(), image.id).await.unwrap();
    assert_eq!(ImageRow { check: None, ..after }, image);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn every_end_of_a_check_is_told<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let reason = async || {
        let check = catalogue.get_image(&tenant(), image.id).await.unwrap().check.unwrap();
        (check.failure.unwrap().reason, check.time)
    };
    let at_once = NewJob { failure: Some(failure()), ..check_of(image.id) };
    catalogue.create_job(at_once, 10).await.unwrap();
    assert_eq!(reason().await, (failure().reason, Some(at(2))));
    let queued = new_row(catalogue.create_job(check_of(image.id), 10).await.unwrap()).id;
    catalogue.cancel_job(&tenant(), queued, at(3)).await.unwrap();
    assert_eq!(reason().await, ("CANCELLED".to_owned(), Some(at(3))));
    let crashed = new_row(catalogue.create_job(check_of(image.id), 10).await.unwrap()).id;
    catalogue.claim_job(worker(), Lane::Work, lease(at(4), at(5)), at(4), 1).await.unwrap().unwrap();
    assert!(
        catalogue.claim_job(worker(), Lane::Work, lease(at(6), at(36)), at(6), 1).await.unwrap().is_none()
    );
    assert_eq!(catalogue.get_job(&tenant(), crashed).await.unwrap().state, JobState::Failed);
    assert_eq!(reason().await, ("WORKER_CRASHED".to_owned(), Some(at(6))));
    let stopped = new_row(catalogue.create_job(check_of(image.id), 10).await.unwrap()).id;
    catalogue.claim_job(worker(), Lane::Work, lease(at(7), at(37)), at(7), 1).await.unwrap().unwrap();
    catalogue.finish_job(stopped, 1, JobOutcome::Cancelled, 0, at(8)).await.unwrap();
    assert_eq!(reason().await, ("CANCELLED".to_owned(), Some(at(8))));
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_check_is_queued_with_the_image<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let upload = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap()).id;
    let image = image_row(tenant());
    let job = check_of(image.id);
    let committed = catalogue.commit_upload(upload, image, None, Some(job.clone()), at(2)).await.unwrap();
    assert_eq!(committed.check_job.as_ref().map(|job| (job.id, job.state)), Some((job.id, JobState::Queued)));
    assert_eq!(committed.image.check.map(|check| check.job), Some(job.id));
    assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap(), committed.check_job.unwrap());
    // Both or none.
    let upload = new_row(catalogue.create_upload(upload_row(at(3))).await.unwrap()).id;
    let image = image_row(tenant());
    let taken = NewJob { id: job.id, ..check_of(image.id) };
    let refused = catalogue.commit_upload(upload, image.clone(), None, Some(taken), at(4)).await;
    assert_error!(refused, Error::Conflict { what: "job" });
    let absent = catalogue.get_image(&tenant(), image.id).await;
    assert_error!(absent, Error::NotFound { what: "image" });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_living_job_is_the_same_job<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let keyed = || NewJob { coalesce_key: Some("convert a to raw".to_owned()), ..new_job(at(0)) };
    let first = new_row(catalogue.create_job(keyed(), 1).await.unwrap());
    // Whatever the queue.
    assert_eq!(existing_row(catalogue.create_job(keyed(), 0).await.unwrap()).id, first.id);
    let foreign = NewJob { tenant: other_tenant(), create_time: at(1), ..keyed() };
    new_row(catalogue.create_job(foreign, 10).await.unwrap());
    catalogue.claim_job(worker(), Lane::Work, lease(at(1), at(31)), at(1), 3).await.unwrap().unwrap();
    assert_eq!(existing_row(catalogue.create_job(keyed(), 10).await.unwrap()).id, first.id);
    catalogue.finish_job(first.id, 1, done("1"), 0, at(2)).await.unwrap();
    let second = new_row(catalogue.create_job(keyed(), 10).await.unwrap());
    assert_ne!(second.id, first.id);
    catalogue.cancel_job(&tenant(), second.id, at(3)).await.unwrap();
    new_row(catalogue.create_job(keyed(), 10).await.unwrap());
    assert_sound::<D>(&catalogue).await;
}

/// A job that may not be joined loses its key to the one that is made.
pub(crate) async fn which_living_job_is_joined<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let ask = async |key: &str, join, seconds| {
        let new = NewJob { coalesce_key: Some(key.to_owned()), join, ..new_job(at(seconds)) };
        match catalogue.create_job(new, 100).await.unwrap() {
            Created::New(row) | Created::Existing(row) => row.id,
        }
    };
    let claim = async |seconds| {
        let lease = lease(at(seconds), at(seconds + 30));
        catalogue.claim_job(worker(), Lane::Work, lease, at(seconds), 3).await.unwrap().unwrap().id
    };
    for join in [Join::Any, Join::NotCancelled, Join::NotBegun, Join::Newest] {
        let key = format!("{join:?}");
        let first = ask(&key, join, 0).await;
        assert_eq!(ask(&key, join, 1).await, first, "{key}: one that waits");
        let between = ask(&format!("{key} between"), join, 2).await;
        let next = ask(&key, join, 3).await;
        assert_eq!(next == first, join != Join::Newest, "{key}: one behind which another waits");
        assert_eq!(ask(&key, join, 4).await, next, "{key}: the newer one has the key");
        let running = claim(5).await;
        assert_eq!(running, first);
        let next = ask(&key, join, 6).await;
        assert_eq!(next == first, matches!(join, Join::Any | Join::NotCancelled), "{key}: one that runs");
        catalogue.cancel_job(&tenant(), first, at(7)).await.unwrap();
        let last = ask(&key, join, 8).await;
        assert_eq!(last == first, join == Join::Any, "{key}: one that shall end");
        assert_eq!(ask(&key, join, 9).await, last, "{key}: one job for all who ask after that");
        catalogue.finish_job(first, 1, JobOutcome::Cancelled, 0, at(10)).await.unwrap();
        for job in [between, next, last] {
            // Those that are one are cancelled once.
            let _ = catalogue.cancel_job(&tenant(), job, at(11)).await;
        }
    }
    assert_eq!(catalogue.count_jobs().await.unwrap(), crate::JobCounts::default());
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn an_alias_is_unique_for_its_tenant<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let named = || NewJob { alias: Some("f0".repeat(16)), ..new_job(at(0)) };
    let job = new_row(catalogue.create_job(named(), 10).await.unwrap());
    assert_eq!(job.alias, named().alias);
    assert_error!(catalogue.create_job(named(), 10).await, Error::Conflict { what: "alias" });
    let found = async |of: &Tenant, alias: &str| catalogue.find_job_by_alias(of, alias).await.unwrap();
    assert_eq!(found(&tenant(), &"f0".repeat(16)).await, Some(job.clone()));
    assert_eq!(found(&other_tenant(), &"f0".repeat(16)).await, None);
    assert_eq!(found(&tenant(), "f0").await, None);
    let foreign = NewJob { tenant: other_tenant(), ..named() };
    new_row(catalogue.create_job(foreign, 10).await.unwrap());
    // It stays taken until the job is forgotten.
    catalogue.cancel_job(&tenant(), job.id, at(1)).await.unwrap();
    assert_error!(catalogue.create_job(named(), 10).await, Error::Conflict { what: "alias" });
    catalogue.delete_job(&tenant(), job.id).await.unwrap();
    new_row(catalogue.create_job(named(), 10).await.unwrap());
    assert_sound::<D>(&catalogue).await;
}
