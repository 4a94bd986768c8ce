//! Claims, leases, fencing numbers and how jobs end.

use std::collections::HashSet;
use std::sync::Arc;

use imageops_model::{DrainSpec, ImportSpec, ScrubSpec, SourceUrl};

use super::*;
use crate::{JobCounts, JobOutcome};

fn succeeded(image: Option<ImageRow>) -> JobOutcome {
    JobOutcome::Succeeded { result: "{}".to_owned(), image, replica: None }
}

pub(crate) async fn the_oldest_job_is_claimed_first<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    assert!(
        catalogue.claim_job(worker(), Lane::Work, lease(at(0), at(30)), at(0), 3).await.unwrap().is_none()
    );
    for seconds in [5, 1, 3] {
        catalogue.create_job(new_job(at(seconds)), 10).await.unwrap();
    }
    for seconds in [1, 3, 5] {
        let job =
            catalogue.claim_job(worker(), Lane::Work, lease(at(9), at(39)), at(9), 3).await.unwrap().unwrap();
        assert_eq!(job.create_time, at(seconds));
        assert_eq!((job.state, job.attempt, job.worker), (JobState::Running, 1, Some(worker())));
        assert_eq!((job.lease_time, job.start_time, job.update_time), (Some(at(39)), Some(at(9)), at(9)));
        assert!(job.revision > 1_000_000);
        assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap(), job);
    }
    assert!(
        catalogue.claim_job(worker(), Lane::Work, lease(at(9), at(39)), at(9), 3).await.unwrap().is_none()
    );
    assert_eq!(catalogue.count_jobs().await.unwrap(), JobCounts { queued: 0, running: 3, most: 3 });
}

pub(crate) async fn a_lane_does_not_wait_for_another<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let store = StoreId(Uuid::from_u128(5));
    let specs = [
        (Lane::Scrub, JobSpec::Scrub(ScrubSpec { store })),
        (Lane::Drain, JobSpec::Drain(DrainSpec { store })),
        (Lane::Work, check_spec("disk.img")),
    ];
    for (seconds, (_, spec)) in specs.iter().enumerate() {
        let job = NewJob { spec: spec.clone(), ..new_job(at(seconds as i64)) };
        catalogue.create_job(job, 10).await.unwrap();
    }
    for (lane, spec) in specs.iter().rev() {
        let job =
            catalogue.claim_job(worker(), *lane, lease(at(9), at(39)), at(9), 3).await.unwrap().unwrap();
        assert_eq!(job.spec, *spec);
        assert!(
            catalogue.claim_job(worker(), *lane, lease(at(9), at(39)), at(9), 3).await.unwrap().is_none()
        );
    }
}

pub(crate) async fn a_lease_has_a_clock_of_its_own<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(5)).await;
    // The time of day jumps, the clock of leases does not.
    let claim = async |lease, now| catalogue.claim_job(worker(), Lane::Work, lease, now, 3).await.unwrap();
    assert_eq!(claim(lease(at(20), at(50)), at(31_536_000)).await, None);
    let taken = claim(lease(at(36), at(66)), at(1)).await.unwrap();
    assert_eq!((taken.id, taken.attempt, taken.lease_time), (job.id, 2, Some(at(66))));
    assert_eq!(taken.update_time, at(1));
}

/// SEC-42: a thousand jobs of one tenant are no reason for another to wait.
pub(crate) async fn tenants_take_turns<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job_of = |name: &str, seconds| {
        let tenant = Tenant::new(name).unwrap();
        catalogue.create_job(NewJob { tenant, ..new_job(at(seconds)) }, 2_000)
    };
    let claim = async |now| {
        let job = catalogue
            .claim_job(worker(), Lane::Work, lease(now, now.plus_ms(30_000)), now, 3)
            .await
            .unwrap()?;
        Some((job.tenant.to_string(), job.create_time))
    };
    let of = |name: &str, seconds| Some((name.to_owned(), at(seconds)));
    for seconds in 0..1_000 {
        job_of("b", seconds).await.unwrap();
    }
    assert_eq!(claim(at(2_000)).await, of("b", 0));
    // Later ones of others, before and behind in the order of names.
    job_of("c", 1_001).await.unwrap();
    job_of("a", 1_002).await.unwrap();
    job_of("a", 1_001).await.unwrap();
    assert_eq!(claim(at(2_000)).await, of("c", 1_001));
    assert_eq!(claim(at(2_000)).await, of("a", 1_001));
    assert_eq!(claim(at(2_000)).await, of("b", 1));
    assert_eq!(claim(at(2_000)).await, of("a", 1_002));
    // Alone, a tenant waits for nobody.
    assert_eq!(claim(at(2_000)).await, of("b", 2));
    assert_eq!(claim(at(2_000)).await, of("b", 3));
    // Another handle begins its own round.
    let other = database.open().await;
    let job = other
        .claim_job(worker(), Lane::Work, lease(at(2_000), at(2_030)), at(2_000), 3)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(job.create_time, at(4));
    // Lapsed leases are taken up in turn, too.
    assert_eq!(claim(at(2_031)).await, of("c", 1_001));
    assert_eq!(claim(at(2_031)).await, of("a", 1_001));
    assert_eq!(claim(at(2_031)).await, of("b", 0));
}

/// SEC-42: a full queue is full for the tenant that filled it.
pub(crate) async fn nobody_fills_the_queue_for_others<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let create = |name: String| {
        let tenant = Tenant::new(name).unwrap();
        catalogue.create_job(NewJob { tenant, ..new_job(at(0)) }, 2)
    };
    for n in 0..10 {
        for _ in 0..2 {
            create(format!("tenant-{n}")).await.unwrap();
        }
        assert_error!(create(format!("tenant-{n}")).await, Error::QueueFull);
    }
    assert_error!(create("one-more".to_owned()).await, Error::QueueFull);
}

pub(crate) async fn a_lease_is_not_stolen_before_its_end<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = claimed(&catalogue, at(0)).await;
    for now in [at(0), at(29), at(30)] {
        assert!(
            catalogue
                .claim_job(worker(), Lane::Work, lease(now, now.plus_ms(30_000)), now, 3)
                .await
                .unwrap()
                .is_none()
        );
    }
    let later = Micros(at(30).0 + 1);
    let second = catalogue
        .claim_job(Uuid::from_u128(78), Lane::Work, lease(later, at(61)), later, 3)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((second.id, second.attempt, second.start_time), (first.id, 2, first.start_time));
    assert!(second.revision >= first.revision + 1_000_000);
}

pub(crate) async fn claimers_never_share_a_job<D: Database>() {
    const JOBS: usize = 60;
    let database = D::new();
    let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
    for n in 0..JOBS {
        handles[0].create_job(new_job(at(n as i64)), 1000).await.unwrap();
    }
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let catalogue = Arc::clone(&handles[n % 2]);
            tokio::spawn(async move {
                let mut claims = Vec::new();
                let own = Uuid::from_u128(n as u128);
                while let Some(job) =
                    catalogue.claim_job(own, Lane::Work, lease(at(500), at(530)), at(500), 3).await.unwrap()
                {
                    assert_eq!(job.worker, Some(own));
                    claims.push((job.id, job.attempt));
                }
                claims
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), JOBS);
    assert!(all.iter().all(|(_, attempt)| *attempt == 1));
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), JOBS);
}

pub(crate) async fn a_late_worker_changes_nothing<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let late = claimed(&catalogue, at(0)).await;
    let owner =
        catalogue.claim_job(worker(), Lane::Work, lease(at(40), at(70)), at(40), 3).await.unwrap().unwrap();
    let image = image_row(tenant());
    let beat = catalogue.heartbeat_job(late.id, late.attempt, &progress(50.0), 9, at(41), at(99)).await;
    assert_error!(beat, Error::Fenced);
    let done = catalogue.finish_job(late.id, late.attempt, succeeded(Some(image.clone())), 9, at(41)).await;
    assert_error!(done, Error::Fenced);
    assert_error!(catalogue.release_job(late.id, late.attempt, 9, at(41)).await, Error::Fenced);
    assert_eq!(catalogue.get_job(&tenant(), late.id).await.unwrap(), owner);
    assert_error!(catalogue.get_image(&tenant(), image.id).await, Error::NotFound { what: "image" });
    let missing = JobId(Uuid::new_v4());
    assert_error!(catalogue.release_job(missing, 1, 9, at(41)).await, Error::NotFound { what: "job" });
}

pub(crate) async fn a_heartbeat_extends_and_tells<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    let revision = job.revision + 3;
    let beat = catalogue.heartbeat_job(job.id, 1, &progress(20.0), revision, at(5), at(35)).await.unwrap();
    assert!(!beat.cancel_requested);
    let row = catalogue.get_job(&tenant(), job.id).await.unwrap();
    assert_eq!((row.progress, row.revision, row.lease_time), (progress(20.0), revision, Some(at(35))));
    assert!(
        catalogue.claim_job(worker(), Lane::Work, lease(at(34), at(64)), at(34), 3).await.unwrap().is_none()
    );
    catalogue.cancel_job(&tenant(), job.id, at(6)).await.unwrap();
    let beat = catalogue.heartbeat_job(job.id, 1, &progress(21.0), revision, at(7), at(37)).await.unwrap();
    assert!(beat.cancel_requested);
    // A revision that was shown is never taken back.
    assert!(catalogue.get_job(&tenant(), job.id).await.unwrap().revision > revision);
    // A lease that ran out unnoticed is still the worker's until someone claims the job.
    catalogue.heartbeat_job(job.id, 1, &progress(22.0), revision + 9, at(90), at(120)).await.unwrap();
    assert!(
        catalogue
            .claim_job(worker(), Lane::Work, lease(at(100), at(130)), at(100), 3)
            .await
            .unwrap()
            .is_none()
    );
}

pub(crate) async fn progress_never_falls<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    catalogue.heartbeat_job(job.id, 1, &progress(60.0), 1, at(1), at(31)).await.unwrap();
    let retry =
        catalogue.claim_job(worker(), Lane::Work, lease(at(40), at(70)), at(40), 3).await.unwrap().unwrap();
    assert_eq!(retry.progress.percent, 60.0);
    catalogue.heartbeat_job(job.id, 2, &progress(10.0), 1, at(41), at(71)).await.unwrap();
    assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap().progress.percent, 60.0);
    let done = catalogue.finish_job(job.id, 2, JobOutcome::Failed(failure()), 1, at(42)).await.unwrap();
    assert_eq!(done.progress.percent, 60.0);
}

pub(crate) async fn a_job_ends_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    for outcome in [succeeded(None), JobOutcome::Failed(failure()), JobOutcome::Cancelled] {
        let job = claimed(&catalogue, at(0)).await;
        let last = job.revision + 50;
        let ended = catalogue.finish_job(job.id, job.attempt, outcome.clone(), last, at(9)).await.unwrap();
        assert_eq!(catalogue.get_job(&tenant(), job.id).await.unwrap(), ended);
        assert_eq!((ended.end_time, ended.revision), (Some(at(9)), last));
        assert_eq!((ended.worker, ended.lease_time), (None, None));
        match outcome {
            JobOutcome::Succeeded { result, .. } => {
                assert_eq!((ended.state, ended.result), (JobState::Succeeded, Some(result)));
                assert_eq!(ended.progress.percent, 100.0);
            }
            JobOutcome::Failed(reason) => {
                assert_eq!((ended.state, ended.failure), (JobState::Failed, Some(reason)));
            }
            JobOutcome::Cancelled => assert_eq!(ended.state, JobState::Cancelled),
        }
        for again in [succeeded(None), JobOutcome::Failed(failure()), JobOutcome::Cancelled] {
            assert_error!(
                catalogue.finish_job(job.id, job.attempt, again, last, at(10)).await,
                Error::Fenced
            );
        }
        let beat = catalogue.heartbeat_job(job.id, job.attempt, &progress(1.0), last, at(10), at(40)).await;
        assert_error!(beat, Error::Fenced);
        assert!(
            catalogue
                .claim_job(worker(), Lane::Work, lease(at(1000), at(1030)), at(1000), 3)
                .await
                .unwrap()
                .is_none()
        );
    }
}

/// How long an import takes is its source's to say: one tenant does not hold all workers.
pub(crate) async fn imports_of_one_tenant_leave_room<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    catalogue.limit_imports(2);
    let create = async |of: Tenant, seconds| {
        let wishes = UploadWishes { import: true, ..UploadWishes::default() };
        let upload = UploadRow { tenant: of.clone(), wishes, ..upload_row(at(seconds)) };
        let url = SourceUrl("https://mirror.example/a.img".to_owned());
        let spec = JobSpec::Import(ImportSpec { url, upload: upload.id, image: None });
        let job = NewJob { tenant: of, spec, upload: Some(upload), ..new_job(at(seconds)) };
        catalogue.create_job(job, 100).await.unwrap();
    };
    let claim = async |seconds: i64| {
        let lease = lease(at(seconds), at(seconds + 30));
        let claimed = catalogue.claim_job(worker(), Lane::Import, lease, at(seconds), 9).await.unwrap();
        claimed.map(|job| (job.tenant, job.create_time))
    };
    let busy = || Tenant::new("busy").unwrap();
    for seconds in 0..4 {
        create(busy(), seconds).await;
    }
    assert_eq!(claim(10).await, Some((busy(), at(0))));
    assert_eq!(claim(10).await, Some((busy(), at(1))));
    assert_eq!(claim(10).await, None, "two run");
    create(other_tenant(), 5).await;
    assert_eq!(claim(11).await, Some((other_tenant(), at(5))));
    for seconds in 6..9 {
        create(Tenant::built_in(), seconds).await;
        assert_eq!(
            claim(12).await,
            Some((Tenant::built_in(), at(seconds))),
            "the operator's are not counted"
        );
    }
    // Those whose worker is gone do not count, and are taken up again.
    let again = [claim(41).await, claim(41).await];
    assert!(again.contains(&Some((busy(), at(0)))), "{again:?}");
}

pub(crate) async fn success_brings_the_image<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    let image = image_row(tenant());
    catalogue.finish_job(job.id, 1, succeeded(Some(image.clone())), 1, at(1)).await.unwrap();
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), image);
    assert_error!(catalogue.get_image(&other_tenant(), image.id).await, Error::NotFound { what: "image" });
}

pub(crate) async fn a_taken_image_id_undoes_the_success<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    let image = image_row(tenant());
    catalogue.finish_job(job.id, 1, succeeded(Some(image.clone())), 1, at(1)).await.unwrap();
    let second = claimed(&catalogue, at(2)).await;
    let foreign = image_row(other_tenant());
    for wrong in [image, foreign.clone()] {
        let done = catalogue.finish_job(second.id, 1, succeeded(Some(wrong)), 1, at(3)).await;
        assert_error!(done, Error::Conflict { what: "image" });
    }
    assert_eq!(catalogue.get_job(&tenant(), second.id).await.unwrap(), second);
    assert_error!(catalogue.get_image(&other_tenant(), foreign.id).await, Error::NotFound { what: "image" });
}

pub(crate) async fn attempts_run_out<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let job = claimed(&catalogue, at(0)).await;
    let next = new_row(catalogue.create_job(new_job(at(1)), 10).await.unwrap());
    for attempt in 2..=3 {
        let now = at(100 * i64::from(attempt));
        let again = catalogue
            .claim_job(worker(), Lane::Work, lease(now, now.plus_ms(30_000)), now, 3)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((again.id, again.attempt), (job.id, attempt));
    }
    // The search goes on behind the job that is given up.
    let found = catalogue
        .claim_job(worker(), Lane::Work, lease(at(400), at(430)), at(400), 3)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.id, next.id);
    let failed = catalogue.get_job(&tenant(), job.id).await.unwrap();
    assert_eq!((failed.state, failed.attempt, failed.end_time), (JobState::Failed, 3, Some(at(400))));
    assert_eq!(failed.failure.unwrap().reason, "WORKER_CRASHED");
    assert_error!(catalogue.finish_job(job.id, 3, JobOutcome::Cancelled, 0, at(401)).await, Error::Fenced);
}

pub(crate) async fn a_released_attempt_does_not_count<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let id = claimed(&catalogue, at(0)).await.id;
    for attempt in 1..=5 {
        catalogue.release_job(id, attempt, 0, at(1)).await.unwrap();
        let queued = catalogue.get_job(&tenant(), id).await.unwrap();
        assert_eq!((queued.state, queued.worker, queued.lease_time), (JobState::Queued, None, None));
        assert_error!(catalogue.release_job(id, attempt, 0, at(1)).await, Error::Fenced);
        let again =
            catalogue.claim_job(worker(), Lane::Work, lease(at(2), at(32)), at(2), 1).await.unwrap().unwrap();
        // The fencing number never repeats.
        assert_eq!((again.id, again.attempt), (id, attempt + 1));
    }
    // The last one crashed, and one crash was allowed.
    assert!(
        catalogue
            .claim_job(worker(), Lane::Work, lease(at(100), at(130)), at(100), 1)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(catalogue.get_job(&tenant(), id).await.unwrap().state, JobState::Failed);
}

pub(crate) async fn a_wish_to_cancel_outlives_the_worker<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let crashed = claimed(&catalogue, at(0)).await;
    catalogue.cancel_job(&tenant(), crashed.id, at(1)).await.unwrap();
    let released = claimed(&catalogue, at(2)).await;
    catalogue.cancel_job(&tenant(), released.id, at(3)).await.unwrap();
    catalogue.release_job(released.id, 1, 0, at(4)).await.unwrap();
    assert!(
        catalogue
            .claim_job(worker(), Lane::Work, lease(at(100), at(130)), at(100), 3)
            .await
            .unwrap()
            .is_none()
    );
    for id in [crashed.id, released.id] {
        let row = catalogue.get_job(&tenant(), id).await.unwrap();
        assert_eq!((row.state, row.end_time), (JobState::Cancelled, Some(at(100))));
    }
}

pub(crate) async fn freed_leases_are_claimable_at_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = claimed(&catalogue, at(0)).await;
    let second = claimed(&catalogue, at(1)).await;
    catalogue.create_job(new_job(at(2)), 10).await.unwrap();
    // Another server's lease is its own.
    assert_eq!(catalogue.free_leases(Uuid::from_u128(78), at(3)).await.unwrap(), 0);
    assert_eq!(catalogue.free_leases(worker(), at(3)).await.unwrap(), 2);
    assert_eq!(catalogue.free_leases(worker(), at(3)).await.unwrap(), 0);
    for expected in [first, second] {
        let job =
            catalogue.claim_job(worker(), Lane::Work, lease(at(3), at(33)), at(3), 3).await.unwrap().unwrap();
        assert_eq!((job.id, job.attempt), (expected.id, 2));
    }
    // It was a crash, and counts as one.
    catalogue.free_leases(worker(), at(4)).await.unwrap();
    let left =
        catalogue.claim_job(worker(), Lane::Work, lease(at(4), at(34)), at(4), 2).await.unwrap().unwrap();
    assert_eq!(left.attempt, 1);
}
