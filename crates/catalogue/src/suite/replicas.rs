//! Copies of images in stores.

use imageops_model::CopySpec;

use super::*;
use crate::{Damage, JobOutcome};

const WHAT: &str = "replica";

fn store(number: u128) -> StoreId {
    StoreId(Uuid::from_u128(number))
}

/// A copy in a store, under a key of its own.
fn copy(number: u128, seconds: i64) -> Replica {
    let (store, time) = (store(number), at(seconds));
    Replica { store, create_time: time, update_time: time, ..replica(Uuid::new_v4().to_string()) }
}

pub(crate) async fn copies_come_and_go<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let first = image.replicas[0].clone();
    let second = copy(9, 3);
    let add = async |replica: Replica, revision| {
        catalogue.add_replica(&tenant(), image.id, replica, None, revision, at(3)).await
    };
    let remove =
        async |of, revision| catalogue.remove_replica(&tenant(), image.id, of, revision, at(4)).await;
    assert_error!(remove(first.store, None).await, Error::State { what: WHAT });
    assert_error!(add(second.clone(), Some(7)).await, Error::Stale { what: "image" });
    let two = add(second.clone(), Some(1)).await.unwrap();
    assert_eq!((&two.replicas[..], two.revision), (&[first.clone(), second.clone()][..], 2));
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), two);
    // Copies are an operator's doing: the owner pays for one.
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().bytes, image.size_bytes);
    assert_error!(add(copy(9, 3), None).await, Error::Conflict { what: WHAT });
    assert_error!(remove(store(8), None).await, Error::NotFound { what: WHAT });
    assert_error!(remove(first.store, Some(1)).await, Error::Stale { what: "image" });
    let one = remove(first.store, Some(2)).await.unwrap();
    assert_eq!((&one.replicas[..], one.revision), (&[second.clone()][..], 3));
    assert_eq!(catalogue.list_doomed(first.store, 9).await.unwrap(), [first.blob.as_str()]);
    // The same bytes cannot come back while they are doomed.
    assert_error!(add(first.clone(), None).await, Error::Conflict { what: "blob" });
    // One that is not ready is replaced.
    let arriving = Replica { state: ReplicaState::Arriving, ..copy(7, 5) };
    add(arriving.clone(), None).await.unwrap();
    assert_error!(remove(second.store, None).await, Error::State { what: WHAT });
    let ready = copy(7, 6);
    let both = add(ready.clone(), None).await.unwrap();
    assert_eq!(both.replicas, [second.clone(), ready]);
    assert!(catalogue.list_doomed(arriving.store, 9).await.unwrap().contains(&arriving.blob));
    let foreign = catalogue.add_replica(&other_tenant(), image.id, copy(6, 5), None, None, at(5)).await;
    assert_error!(foreign, Error::NotFound { what: "image" });
    let foreign = catalogue.remove_replica(&other_tenant(), image.id, store(7), None, at(5)).await;
    assert_error!(foreign, Error::NotFound { what: "image" });
    catalogue.quarantine_image(&tenant(), image.id, failure(), at(6)).await.unwrap();
    assert_error!(add(copy(6, 5), None).await, Error::State { what: "image" });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_job_brings_a_copy<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let spec = JobSpec::Copy(CopySpec { image: image.id, target: store(9) });
    let job = async || {
        catalogue.create_job(NewJob { spec: spec.clone(), ..new_job(at(2)) }, 10).await.unwrap();
        catalogue.claim_job(worker(), Lane::Work, lease(at(3), at(33)), at(3), 3).await.unwrap().unwrap().id
    };
    let done = |replica: &Replica| JobOutcome::Succeeded {
        result: "{}".to_owned(),
        image: None,
        replica: Some((image.id, replica.clone())),
    };
    let made = copy(9, 4);
    catalogue.finish_job(job().await, 1, done(&made), 0, at(4)).await.unwrap();
    let row = catalogue.get_image(&tenant(), image.id).await.unwrap();
    assert_eq!(row.replicas, [image.replicas[0].clone(), made]);
    // Two made the same copy: the second finds it there, and ends otherwise.
    let second = job().await;
    let twice = catalogue.finish_job(second, 1, done(&copy(9, 5)), 0, at(5)).await;
    assert_error!(twice, Error::Conflict { what: WHAT });
    catalogue.purge_image(&tenant(), image.id, None, true, at(6)).await.unwrap();
    let late = catalogue.finish_job(second, 1, done(&copy(8, 6)), 0, at(7)).await;
    assert_error!(late, Error::NotFound { what: "image" });
    catalogue.finish_job(second, 1, JobOutcome::Cancelled, 0, at(8)).await.unwrap();
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn copies_are_listed_by_store<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut expected = Vec::new();
    for n in 0..5 {
        let owner = if n == 0 { other_tenant() } else { tenant() };
        expected.push(added(&catalogue, image_row(owner)).await);
    }
    let mut elsewhere = image_row(tenant());
    elsewhere.replicas[0].store = store(9);
    let elsewhere = added(&catalogue, elsewhere).await;
    expected.sort_by_key(|image| image.id);
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map(|image: &ImageRow| image.id);
        let page = catalogue.list_replicas(store(5), after, 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    assert_eq!(listed, expected);
    assert_eq!(catalogue.list_replicas(store(9), None, 10).await.unwrap(), [elsewhere]);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn bytes_are_verified_in_turn<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut images = Vec::new();
    for seconds in [30, 10, 20] {
        let mut image = image_row(tenant());
        image.replicas[0].create_time = at(seconds);
        images.push(added(&catalogue, image).await);
    }
    // Shares the bytes of the oldest.
    let mut shared = ImageRow { sha256: images[1].sha256.clone(), ..image_row(tenant()) };
    shared.replicas[0].create_time = at(15);
    added(&catalogue, shared).await;
    let due = async |before, limit| {
        let blobs = catalogue.list_blobs_to_verify(store(5), before, limit).await.unwrap();
        blobs.into_iter().map(|blob| blob.blob).collect::<Vec<_>>()
    };
    let key = |n: usize| images[n].replicas[0].blob.as_str();
    assert_eq!(due(at(10), 10).await, [""; 0]);
    assert_eq!(due(at(30), 10).await, [key(1), key(2)]);
    assert_eq!(due(at(31), 1).await, [key(1)]);
    let first = &catalogue.list_blobs_to_verify(store(5), at(11), 10).await.unwrap()[0];
    assert_eq!((first.image, &first.tenant), (images[1].id, &tenant()));
    assert_eq!((first.size_bytes, &first.sha256), (images[1].size_bytes, &images[1].sha256));
    assert_eq!(first.verify_time, at(10));
    catalogue.mark_verified(store(5), key(1), at(40)).await.unwrap();
    assert_eq!(due(at(40), 10).await, [key(2), key(0)]);
    let row = catalogue.get_image(&tenant(), images[1].id).await.unwrap();
    assert_eq!((row.replicas[0].verify_time, row.revision), (Some(at(40)), 1));
    assert_eq!(catalogue.list_blobs_to_verify(store(9), at(99), 10).await.unwrap(), []);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn damaged_bytes_put_images_into_quarantine<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let alone = added(&catalogue, image_row(tenant())).await;
    let same = || ImageRow { sha256: alone.sha256.clone(), ..image_row(tenant()) };
    let copied = added(&catalogue, same()).await;
    let trashed = added(&catalogue, same()).await;
    catalogue.add_replica(&tenant(), copied.id, copy(9, 2), None, None, at(2)).await.unwrap();
    catalogue.trash_image(&tenant(), trashed.id, None, at(3), at(90)).await.unwrap();
    let (place, key) = (alone.replicas[0].store, alone.replicas[0].blob.clone());
    let marked = catalogue.mark_damaged(place, &key, failure(), at(4)).await.unwrap();
    assert_eq!(marked.len(), 3);
    let damage = async || catalogue.count_damage().await.unwrap();
    // One of the three has another copy, and one lies in the trash.
    assert_eq!(damage().await, Damage { copies: 2, images: 1 });
    let get = async |id| catalogue.get_image(&tenant(), id).await.unwrap();
    for row in marked {
        assert_eq!(get(row.id).await, row);
        let bad = row.replicas.iter().find(|replica| replica.store == place).unwrap();
        assert_eq!((bad.state, bad.update_time), (ReplicaState::Damaged, at(4)));
        let expected = if row.id == alone.id {
            (ImageState::Quarantined, Some(failure()))
        } else if row.id == copied.id {
            assert_eq!(row.ready_replica().unwrap().store, store(9));
            (ImageState::Active, None)
        } else {
            (ImageState::Trashed, Some(failure()))
        };
        assert_eq!((row.state, row.quarantine), expected);
    }
    let restored = catalogue.restore_image(&tenant(), trashed.id, at(5)).await.unwrap();
    assert_eq!(restored.state, ImageState::Quarantined);
    // A second time nothing changes.
    let again = catalogue.mark_damaged(place, &key, failure(), at(6)).await.unwrap();
    assert!(again.contains(&get(alone.id).await));
    assert_eq!(get(alone.id).await.revision, 2);
    assert_error!(catalogue.release_image(&tenant(), alone.id, at(7)).await, Error::State { .. });
    // The good copy is not the last one that may go, the bad one may.
    let last = catalogue.remove_replica(&tenant(), copied.id, store(9), None, at(7)).await;
    assert_error!(last, Error::State { what: WHAT });
    catalogue.remove_replica(&tenant(), copied.id, place, None, at(7)).await.unwrap();
    assert_eq!(catalogue.list_blobs_to_verify(place, at(99), 10).await.unwrap(), []);
    assert_eq!(damage().await, Damage { copies: 2, images: 2 });
    // Someone has put the right bytes back.
    catalogue.mark_verified(place, &key, at(8)).await.unwrap();
    assert_eq!(damage().await, Damage::default());
    let verified = get(alone.id).await;
    assert_eq!((verified.state, verified.replicas[0].state), (ImageState::Quarantined, ReplicaState::Ready));
    let released = catalogue.release_image(&tenant(), alone.id, at(9)).await.unwrap();
    assert_eq!(released.state, ImageState::Active);
    assert_sound::<D>(&catalogue).await;
}
