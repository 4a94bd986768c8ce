//! The life of uploads.

use std::sync::Arc;

use super::*;
use crate::{Cursor, Page, Quota};

const WHAT: &str = "upload";

async fn opened(catalogue: &impl Catalogue) -> UploadRow {
    new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap())
}

pub(crate) async fn an_upload_reads_back<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let asked = upload_row(at(0));
    let row = new_row(catalogue.create_upload(asked.clone()).await.unwrap());
    assert_eq!(row, asked);
    assert_eq!(catalogue.get_upload(&tenant(), asked.id).await.unwrap(), asked);
    assert!(catalogue.is_upload_open(asked.id).await.unwrap());
    assert!(!catalogue.is_upload_open(UploadId(Uuid::new_v4())).await.unwrap());
    let bare = UploadRow {
        declared_format: None,
        size_bytes: None,
        reserved_bytes: 0,
        expected_sha256: None,
        label: Label::default(),
        ..upload_row(at(0))
    };
    assert_eq!(new_row(catalogue.create_upload(bare.clone()).await.unwrap()), bare);
    let too_large = UploadRow { size_bytes: Some(u64::MAX), ..upload_row(at(0)) };
    assert_error!(catalogue.create_upload(too_large).await, Error::OutOfRange { .. });
}

pub(crate) async fn the_same_id_is_the_same_upload<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = opened(&catalogue).await;
    catalogue.extend_upload(first.id, 10, at(1), at(100)).await.unwrap();
    let again = existing_row(catalogue.create_upload(first.clone()).await.unwrap());
    assert_eq!((again.durable_bytes, again.expire_time), (10, at(100)));
    // Times and offsets are no part of the request.
    let later = UploadRow { create_time: at(9), durable_bytes: 3, ..first.clone() };
    existing_row(catalogue.create_upload(later).await.unwrap());
    let others = [
        UploadRow { tenant: other_tenant(), ..first.clone() },
        UploadRow { label: Label::default(), ..first.clone() },
        UploadRow { details: imageops_model::ImageDetails::default(), ..first.clone() },
        UploadRow { declared_format: None, ..first.clone() },
        UploadRow { size_bytes: Some(1001), ..first.clone() },
        UploadRow { expected_md5: Some("3".repeat(32)), ..first.clone() },
        UploadRow { expected_sha256: None, ..first.clone() },
    ];
    for other in others {
        assert_error!(catalogue.create_upload(other).await, Error::Conflict { what: WHAT });
    }
    catalogue.abort_upload(&tenant(), first.id, at(2)).await.unwrap();
    assert_eq!(existing_row(catalogue.create_upload(first).await.unwrap()).state, UploadState::Aborted);
}

/// A length that is told late counts as one that was told at the beginning, and stays.
pub(crate) async fn a_length_is_told_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let quota = Quota { images_max: None, bytes_max: Some(1_000) };
    catalogue.set_quota(None, Some(quota)).await.unwrap();
    let asked = UploadRow { size_bytes: None, archive: None, ..upload_row(at(0)) };
    let id = new_row(catalogue.create_upload(asked.clone()).await.unwrap()).id;
    assert_eq!(catalogue.reserve_upload(id, 100..=800, at(1)).await.unwrap(), 800);
    catalogue.extend_upload(id, 100, at(1), at(61)).await.unwrap();
    assert_eq!(catalogue.declare_upload_size(id, 99, at(2)).await.unwrap().size_bytes, None, "too short");
    assert_error!(
        catalogue.declare_upload_size(id, 1_001, at(2)).await,
        Error::QuotaExceeded { what: "bytes", .. }
    );
    let told = catalogue.declare_upload_size(id, 300, at(2)).await.unwrap();
    assert_eq!((told.size_bytes, told.reserved_bytes, told.durable_bytes), (Some(300), 300, 100));
    assert_eq!(catalogue.get_upload(&tenant(), id).await.unwrap(), told);
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().reserved_bytes, 300);
    assert_eq!(catalogue.declare_upload_size(id, 300, at(3)).await.unwrap(), told);
    assert_eq!(catalogue.declare_upload_size(id, 301, at(3)).await.unwrap(), told, "once");
    // Who repeats the beginning does not have to know.
    let known = existing_row(catalogue.create_upload(asked.clone()).await.unwrap());
    assert_eq!(known.size_bytes, Some(300));
    let other = UploadRow { size_bytes: Some(301), ..asked };
    assert_error!(catalogue.create_upload(other).await, Error::Conflict { what: WHAT });
    // What is held already needs no room again.
    let longer = UploadRow { size_bytes: None, archive: None, ..upload_row(at(0)) };
    let longer = new_row(catalogue.create_upload(longer).await.unwrap()).id;
    assert_eq!(catalogue.reserve_upload(longer, 1..=600, at(4)).await.unwrap(), 600);
    assert_eq!(catalogue.declare_upload_size(longer, 700, at(4)).await.unwrap().reserved_bytes, 700);
    catalogue.abort_upload(&tenant(), id, at(4)).await.unwrap();
    assert_error!(catalogue.declare_upload_size(id, 300, at(5)).await, Error::State { what: WHAT });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn durable_bytes_never_shrink<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let upload = opened(&catalogue).await;
    catalogue.extend_upload(upload.id, 500, at(1), at(61)).await.unwrap();
    catalogue.extend_upload(upload.id, 200, at(2), at(62)).await.unwrap();
    let row = catalogue.get_upload(&tenant(), upload.id).await.unwrap();
    assert_eq!((row.durable_bytes, row.update_time, row.expire_time), (500, at(2), at(62)));
    assert_error!(
        catalogue.extend_upload(upload.id, u64::MAX, at(3), at(63)).await,
        Error::OutOfRange { .. }
    );
    let missing = UploadId(Uuid::new_v4());
    assert_error!(catalogue.extend_upload(missing, 1, at(3), at(63)).await, Error::NotFound { what: WHAT });
}

pub(crate) async fn a_commit_makes_the_image<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let upload = opened(&catalogue).await;
    let image = image_row(tenant());
    let committed = catalogue.commit_upload(upload.id, image.clone(), None, None, at(5)).await.unwrap();
    assert_eq!((&committed.image, &committed.check_job, committed.discard.len()), (&image, &None, 0));
    let committed = committed.upload;
    assert_eq!(
        (committed.state, committed.image, committed.update_time),
        (UploadState::Committed, Some(image.id), at(5))
    );
    assert_eq!(catalogue.get_upload(&tenant(), upload.id).await.unwrap(), committed);
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), image);
    assert!(!catalogue.is_upload_open(upload.id).await.unwrap());
}

pub(crate) async fn a_failed_commit_changes_nothing<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let (first, second) = (opened(&catalogue).await, opened(&catalogue).await);
    let image = image_row(tenant());
    catalogue.commit_upload(first.id, image.clone(), None, None, at(1)).await.unwrap();
    for wrong in [image, image_row(other_tenant())] {
        assert_error!(
            catalogue.commit_upload(second.id, wrong, None, None, at(2)).await,
            Error::Conflict { what: "image" }
        );
    }
    assert_eq!(catalogue.get_upload(&tenant(), second.id).await.unwrap(), second);
    let missing = UploadId(Uuid::new_v4());
    let commit = catalogue.commit_upload(missing, image_row(tenant()), None, None, at(2)).await;
    assert_error!(commit, Error::NotFound { what: WHAT });
}

pub(crate) async fn an_upload_ends_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let committed = opened(&catalogue).await.id;
    catalogue.commit_upload(committed, image_row(tenant()), None, None, at(1)).await.unwrap();
    let aborted = opened(&catalogue).await.id;
    assert_eq!(catalogue.abort_upload(&tenant(), aborted, at(1)).await.unwrap().state, UploadState::Aborted);
    let failed = opened(&catalogue).await.id;
    let row = catalogue.fail_upload(failed, failure(), at(1)).await.unwrap();
    assert_eq!((row.state, row.failure.clone()), (UploadState::Failed, Some(failure())));
    assert_eq!(catalogue.get_upload(&tenant(), failed).await.unwrap(), row);

    for id in [committed, aborted, failed] {
        let before = catalogue.get_upload(&tenant(), id).await.unwrap();
        assert_error!(catalogue.extend_upload(id, 1, at(2), at(3)).await, Error::State { what: WHAT });
        let image = image_row(tenant());
        assert_error!(
            catalogue.commit_upload(id, image.clone(), None, None, at(2)).await,
            Error::State { what: WHAT }
        );
        assert_error!(catalogue.get_image(&tenant(), image.id).await, Error::NotFound { .. });
        assert_error!(catalogue.fail_upload(id, failure(), at(2)).await, Error::State { what: WHAT });
        let abort = catalogue.abort_upload(&tenant(), id, at(2)).await;
        if id == committed {
            assert_error!(abort, Error::State { what: WHAT });
        } else {
            assert_eq!(abort.unwrap(), before, "giving up what has ended changes nothing");
        }
        assert_eq!(catalogue.get_upload(&tenant(), id).await.unwrap(), before);
    }
}

pub(crate) async fn one_of_many_commits_wins<D: Database>() {
    let database = D::new();
    let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
    let id = opened(&*handles[0]).await.id;
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let catalogue = Arc::clone(&handles[n % 2]);
            tokio::spawn(async move {
                let image = image_row(tenant());
                (image.id, catalogue.commit_upload(id, image, None, None, at(1)).await)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        let (image, commit) = task.await.unwrap();
        match commit {
            Ok(_) => winners.push(image),
            Err(Error::State { .. }) => {
                assert_error!(handles[0].get_image(&tenant(), image).await, Error::NotFound { .. });
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(handles[1].get_upload(&tenant(), id).await.unwrap().image, Some(winners[0]));
}

pub(crate) async fn uploads_expire_and_are_forgotten<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let expired = opened(&catalogue).await.id;
    let extended = opened(&catalogue).await.id;
    catalogue.extend_upload(extended, 1, at(50), at(110)).await.unwrap();
    let failed = opened(&catalogue).await.id;
    catalogue.fail_upload(failed, failure(), at(10)).await.unwrap();
    let committed = opened(&catalogue).await.id;
    let image = image_row(tenant());
    catalogue.commit_upload(committed, image.clone(), None, None, at(70)).await.unwrap();

    // Nothing has expired at the very end of its time.
    assert!(catalogue.expire_uploads(at(60), at(0)).await.unwrap().is_empty());
    assert_eq!(catalogue.expire_uploads(at(61), at(20)).await.unwrap(), [expired]);
    assert_eq!(catalogue.get_upload(&tenant(), expired).await.unwrap().state, UploadState::Aborted);
    assert_error!(catalogue.get_upload(&tenant(), failed).await, Error::NotFound { what: WHAT });
    assert!(catalogue.is_upload_open(extended).await.unwrap());
    assert!(catalogue.expire_uploads(at(61), at(71)).await.unwrap().is_empty());
    assert_error!(catalogue.get_upload(&tenant(), committed).await, Error::NotFound { what: WHAT });
    catalogue.get_image(&tenant(), image.id).await.unwrap();
}

pub(crate) async fn lists_are_filtered_and_paged<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut expected = Vec::new();
    for n in 0..9 {
        let row = new_row(catalogue.create_upload(upload_row(at(n / 3))).await.unwrap());
        expected.push((row.create_time, row.id));
    }
    expected.sort_by(|a, b| b.cmp(a));
    let mut seen = Vec::new();
    let mut page = Page { limit: 4, after: None };
    loop {
        let rows = catalogue.list_uploads(&tenant(), &[UploadState::Open], page.clone()).await.unwrap();
        catalogue.create_upload(upload_row(at(100))).await.unwrap();
        let Some(last) = rows.last() else { break };
        page.after = Some(Cursor { create_time: last.create_time, id: last.id.0 });
        seen.extend(rows.iter().map(|row| (row.create_time, row.id)));
    }
    assert_eq!(seen, expected);
    let aborted = expected[0].1;
    catalogue.abort_upload(&tenant(), aborted, at(5)).await.unwrap();
    let states = [UploadState::Aborted, UploadState::Failed];
    let page = Page { limit: 100, after: None };
    let rows = catalogue.list_uploads(&tenant(), &states, page.clone()).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [aborted]);
    assert!(catalogue.list_uploads(&other_tenant(), &[], page).await.unwrap().is_empty());
}

pub(crate) async fn other_tenants_see_no_upload<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let id = opened(&catalogue).await.id;
    assert_error!(catalogue.get_upload(&other_tenant(), id).await, Error::NotFound { what: WHAT });
    assert_error!(catalogue.abort_upload(&other_tenant(), id, at(1)).await, Error::NotFound { what: WHAT });
    assert!(catalogue.is_upload_open(id).await.unwrap());
}
