//! Uploads in parts.

use std::sync::Arc;

use super::*;
use crate::{Quota, UploadPart};

const SESSION: &str = "session";

fn place(number: u32) -> UploadPart {
    UploadPart { session: "a disk".to_owned(), number }
}

fn part_row(number: u32, size_bytes: u64) -> UploadRow {
    let part = Some(place(number));
    UploadRow { part, size_bytes: Some(size_bytes), archive: None, ..upload_row(at(0)) }
}

fn whole_row(size_bytes: Option<u64>) -> UploadRow {
    UploadRow { size_bytes, archive: None, ..upload_row(at(0)) }
}

/// Uploads a part and stores it.
async fn stored(catalogue: &impl Catalogue, part: UploadRow) -> UploadId {
    let (size_bytes, place) = (part.size_bytes.unwrap(), part.part.clone().unwrap());
    let id = new_row(catalogue.create_upload(part).await.unwrap()).id;
    catalogue.extend_upload(id, size_bytes, at(1), at(61)).await.unwrap();
    assert_eq!(catalogue.store_part(id, &place, at(2)).await.unwrap(), []);
    id
}

async fn numbers(catalogue: &impl Catalogue) -> Vec<u32> {
    let parts = catalogue.list_parts(&tenant(), "a disk").await.unwrap();
    parts.into_iter().map(|part| part.part.unwrap().number).collect()
}

pub(crate) async fn parts_are_joined_in_order<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut ids = Vec::new();
    for number in [2, 10, 1] {
        ids.push(stored(&catalogue, part_row(number, 100)).await);
    }
    let late = new_row(catalogue.create_upload(part_row(3, 100)).await.unwrap()).id;
    assert_eq!(numbers(&catalogue).await, [1, 2, 10]);
    let (whole, parts) = catalogue.begin_compose(whole_row(None), "a disk", at(3)).await.unwrap();
    let whole = new_row(whole);
    assert_eq!((whole.composes.as_deref(), whole.part.clone()), (Some("a disk"), None));
    assert_eq!(parts.iter().map(|part| part.id).collect::<Vec<_>>(), [ids[2], ids[0], ids[1]]);
    assert_eq!(parts[0].state, UploadState::Stored);
    assert!(catalogue.is_upload_open(ids[0]).await.unwrap(), "its staged bytes are wanted");
    // Asked again, the same is answered.
    let again = UploadRow { id: whole.id, ..whole_row(None) };
    let (again, parts_again) = catalogue.begin_compose(again, "a disk", at(3)).await.unwrap();
    assert_eq!((existing_row(again), parts_again), (whole.clone(), parts));

    let image = ImageRow { size_bytes: 300, ..image_row(tenant()) };
    let committed = catalogue.commit_upload(whole.id, image.clone(), None, None, at(4)).await.unwrap();
    assert_eq!(committed.discard, [ids[2], ids[0], ids[1], late]);
    assert_eq!(committed.upload.state, UploadState::Committed);
    for id in &ids {
        let part = catalogue.get_upload(&tenant(), *id).await.unwrap();
        assert_eq!((part.state, part.image), (UploadState::Committed, Some(image.id)));
        assert!(!catalogue.is_upload_open(*id).await.unwrap());
    }
    assert_eq!(catalogue.get_upload(&tenant(), late).await.unwrap().state, UploadState::Aborted);
    assert_eq!(numbers(&catalogue).await, [0; 0]);
    let gone = catalogue.begin_compose(whole_row(None), "a disk", at(5)).await;
    assert_error!(gone, Error::NotFound { what: SESSION });
    // The name is free for another one.
    stored(&catalogue, part_row(1, 5)).await;
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_part_takes_the_place_of_the_one_before<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = stored(&catalogue, part_row(7, 100)).await;
    let second = new_row(catalogue.create_upload(part_row(7, 400)).await.unwrap()).id;
    catalogue.extend_upload(second, 300, at(1), at(61)).await.unwrap();
    assert_eq!(catalogue.store_part(second, &place(7), at(3)).await.unwrap(), [first]);
    assert_eq!(catalogue.get_upload(&tenant(), first).await.unwrap().state, UploadState::Aborted);
    let parts = catalogue.list_parts(&tenant(), "a disk").await.unwrap();
    assert_eq!((parts.len(), parts[0].id, parts[0].reserved_bytes), (1, second, 300));
    assert_error!(catalogue.store_part(second, &place(7), at(4)).await, Error::State { what: "upload" });
    assert_error!(catalogue.store_part(first, &place(7), at(4)).await, Error::State { what: "upload" });
    let other = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap()).id;
    assert_error!(catalogue.store_part(other, &place(7), at(4)).await, Error::State { what: "upload" });
    let elsewhere = new_row(catalogue.create_upload(part_row(8, 100)).await.unwrap()).id;
    assert_error!(catalogue.store_part(elsewhere, &place(7), at(4)).await, Error::State { what: "upload" });
    // A stored part takes no more bytes and makes no image by itself.
    assert_error!(catalogue.extend_upload(second, 400, at(5), at(65)).await, Error::State { .. });
    let alone = catalogue.commit_upload(second, image_row(tenant()), None, None, at(5)).await;
    assert_error!(alone, Error::State { what: "upload" });
    catalogue.abort_upload(&tenant(), second, at(6)).await.unwrap();
    assert_eq!(numbers(&catalogue).await, [0; 0]);
    assert_sound::<D>(&catalogue).await;
}

/// A part whose place is told behind its bytes is in the end what it would be had it been told before.
pub(crate) async fn a_part_can_be_named_behind_its_bytes<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    catalogue.set_quota(None, Some(Quota { images_max: Some(1), bytes_max: Some(500) })).await.unwrap();
    let declared = stored(&catalogue, part_row(1, 100)).await;
    let becoming = || {
        let wishes = UploadWishes { becomes_part: true, ..UploadWishes::default() };
        UploadRow { wishes, ..whole_row(None) }
    };
    let asked = becoming();
    let named = new_row(catalogue.create_upload(asked.clone()).await.unwrap()).id;
    let other = new_row(catalogue.create_upload(becoming()).await.unwrap()).id;
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().reserved_images, 0, "parts are no images");
    // An image after all, as far as its metadata tell.
    let plain = whole_row(None);
    let surprise = new_row(catalogue.create_upload(plain.clone()).await.unwrap()).id;
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().reserved_images, 1);
    for id in [named, other, surprise] {
        assert_eq!(catalogue.reserve_upload(id, 30..=30, at(1)).await.unwrap(), 30);
        catalogue.extend_upload(id, 30, at(1), at(61)).await.unwrap();
    }
    assert_eq!(numbers(&catalogue).await, [1], "not before the place is known");
    assert_eq!(catalogue.store_part(named, &place(1), at(2)).await.unwrap(), [declared]);
    assert_eq!(catalogue.store_part(other, &place(2), at(2)).await.unwrap(), []);
    assert_eq!(catalogue.store_part(surprise, &place(1), at(3)).await.unwrap(), [named]);
    assert_error!(catalogue.store_part(surprise, &place(3), at(3)).await, Error::State { what: "upload" });
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.reserved_images, usage.reserved_bytes), (0, 60));
    // The same request again finds it; another one does not.
    for (id, request) in [(named, &asked), (surprise, &plain)] {
        let known = existing_row(catalogue.create_upload(request.clone()).await.unwrap());
        assert_eq!((known.id, known.part), (id, Some(place(1))));
        let other = UploadRow { part: Some(place(1)), ..request.clone() };
        assert_error!(catalogue.create_upload(other).await, Error::Conflict { .. });
    }
    let (_, parts) = catalogue.begin_compose(whole_row(None), "a disk", at(4)).await.unwrap();
    assert_eq!(parts.iter().map(|part| part.id).collect::<Vec<_>>(), [surprise, other]);
    // Meanwhile the session takes none.
    let late = new_row(catalogue.create_upload(becoming()).await.unwrap()).id;
    assert_error!(catalogue.store_part(late, &place(3), at(5)).await, Error::State { what: SESSION });
    let late = catalogue.get_upload(&tenant(), late).await.unwrap();
    assert_eq!((late.state, late.part), (UploadState::Open, None));
    assert_sound::<D>(&catalogue).await;
}

/// What is for something else is no part.
pub(crate) async fn only_plain_uploads_become_parts<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    stored(&catalogue, part_row(1, 100)).await;
    let begun = catalogue.begin_compose(whole_row(None), "a disk", at(3)).await.unwrap();
    let record = super::records::record_row(tenant());
    catalogue.create_image(record.clone(), false).await.unwrap();
    let filling = UploadRow { record: Some(record.id), ..whole_row(None) };
    let mut others = vec![new_row(begun.0).id];
    for upload in [filling, UploadRow { archive: Some(Archive::Zip), ..whole_row(None) }] {
        others.push(new_row(catalogue.create_upload(upload).await.unwrap()).id);
    }
    for id in others {
        let place = UploadPart { session: "another disk".to_owned(), number: 1 };
        assert_error!(catalogue.store_part(id, &place, at(4)).await, Error::State { what: "upload" });
        assert_eq!(catalogue.get_upload(&tenant(), id).await.unwrap().state, UploadState::Open);
    }
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn rel_28_one_of_many_compositions_wins<D: Database>() {
    let database = D::new();
    let handles = [Arc::new(database.open().await), Arc::new(database.open().await)];
    stored(&*handles[0], part_row(1, 100)).await;
    stored(&*handles[0], part_row(2, 100)).await;
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let catalogue = Arc::clone(&handles[n % 2]);
            tokio::spawn(async move { catalogue.begin_compose(whole_row(None), "a disk", at(3)).await })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok((whole, parts)) => {
                assert_eq!(parts.len(), 2);
                winners.push(new_row(whole).id);
            }
            Err(Error::State { what: SESSION }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1);
    let image = ImageRow { size_bytes: 200, ..image_row(tenant()) };
    handles[1].commit_upload(winners[0], image, None, None, at(4)).await.unwrap();
    assert_sound::<D>(&handles[0]).await;
}

pub(crate) async fn rel_28_nothing_changes_a_session_that_is_composed<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = stored(&catalogue, part_row(1, 100)).await;
    let open = new_row(catalogue.create_upload(part_row(2, 100)).await.unwrap()).id;
    let begun = catalogue.begin_compose(whole_row(None), "a disk", at(3)).await.unwrap();
    let whole = new_row(begun.0).id;
    let refused = catalogue.create_upload(part_row(3, 100)).await;
    assert_error!(refused, Error::State { what: SESSION });
    assert_error!(catalogue.store_part(open, &place(2), at(4)).await, Error::State { what: SESSION });
    assert_error!(catalogue.abort_upload(&tenant(), first, at(4)).await, Error::State { what: SESSION });
    let sneaked = UploadRow { composes: Some("a disk".to_owned()), ..whole_row(None) };
    assert_error!(catalogue.create_upload(sneaked).await, Error::State { what: SESSION });
    // What ends without an image leaves the session as it was.
    for n in 0..3 {
        let whole = if n == 0 {
            whole
        } else {
            new_row(catalogue.begin_compose(whole_row(None), "a disk", at(5)).await.unwrap().0).id
        };
        match n {
            0 => drop(catalogue.abort_upload(&tenant(), whole, at(6)).await.unwrap()),
            1 => drop(catalogue.fail_upload(whole, failure(), at(6)).await.unwrap()),
            // The open part has expired as well, the session has not.
            _ => {
                let mut expired = catalogue.expire_uploads(at(62), at(0)).await.unwrap();
                expired.sort();
                let mut expected = [whole, open];
                expected.sort();
                assert_eq!(expired, expected);
            }
        }
        assert_eq!(numbers(&catalogue).await, [1]);
    }
    stored(&catalogue, part_row(2, 100)).await;
    assert_eq!(numbers(&catalogue).await, [1, 2]);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn rel_28_a_session_can_be_given_up_while_it_is_composed<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let first = stored(&catalogue, part_row(1, 100)).await;
    let open = new_row(catalogue.create_upload(part_row(2, 100)).await.unwrap()).id;
    let begun = catalogue.begin_compose(whole_row(None), "a disk", at(3)).await.unwrap();
    let whole = new_row(begun.0).id;
    let mut aborted = catalogue.abort_session(&tenant(), "a disk", at(4)).await.unwrap();
    aborted.sort();
    let mut expected = [first, open, whole];
    expected.sort();
    assert_eq!(aborted, expected);
    for id in expected {
        assert_eq!(catalogue.get_upload(&tenant(), id).await.unwrap().state, UploadState::Aborted);
    }
    let late = catalogue.commit_upload(whole, image_row(tenant()), None, None, at(5)).await;
    assert_error!(late, Error::State { what: "upload" });
    assert_eq!(catalogue.abort_session(&tenant(), "a disk", at(6)).await.unwrap(), []);
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.reserved_images, usage.reserved_bytes), (0, 0));
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_session_of_many_parts_is_given_up_to_the_last<D: Database>() {
    const PARTS: u32 = 201;
    let database = D::new();
    let catalogue = database.open().await;
    for number in 1..=PARTS {
        stored(&catalogue, part_row(number, 1)).await;
    }
    let aborted = catalogue.abort_session(&tenant(), "a disk", at(4)).await.unwrap();
    assert_eq!(aborted.len(), PARTS as usize);
    assert!(numbers(&catalogue).await.is_empty());
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_composition_that_nobody_goes_on_with_frees_its_session<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let part = stored(&catalogue, part_row(1, 100)).await;
    let begun = catalogue.begin_compose(whole_row(None), "a disk", at(3)).await.unwrap();
    let whole = new_row(begun.0).id;
    assert!(!catalogue.abort_composition(part, at(4)).await.unwrap(), "a part joins nothing");
    assert!(catalogue.abort_composition(whole, at(4)).await.unwrap());
    assert!(!catalogue.abort_composition(whole, at(5)).await.unwrap(), "once");
    assert_eq!(catalogue.list_parts(&tenant(), "a disk").await.unwrap().len(), 1);
    catalogue.begin_compose(whole_row(None), "a disk", at(6)).await.unwrap();
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn parts_need_the_quota_once<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let quota = Quota { images_max: Some(1), bytes_max: Some(1000) };
    catalogue.set_quota(None, Some(quota)).await.unwrap();
    stored(&catalogue, part_row(1, 600)).await;
    // Less came than was declared: only that is held.
    let short = new_row(catalogue.create_upload(part_row(2, 400)).await.unwrap()).id;
    assert_error!(
        catalogue.create_upload(part_row(3, 1)).await,
        Error::QuotaExceeded { what: "bytes", limit: 1000, used: 1000 }
    );
    catalogue.extend_upload(short, 300, at(1), at(61)).await.unwrap();
    catalogue.store_part(short, &place(2), at(2)).await.unwrap();
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().reserved_bytes, 900);
    let refused = catalogue.begin_compose(whole_row(Some(1001)), "a disk", at(3)).await;
    assert_error!(refused, Error::QuotaExceeded { what: "bytes", limit: 1000, used: 900 });
    let begun = catalogue.begin_compose(whole_row(Some(950)), "a disk", at(3)).await.unwrap();
    let whole = new_row(begun.0);
    assert_eq!(whole.reserved_bytes, 50);
    assert_eq!(catalogue.reserve_upload(whole.id, 1..=950, at(4)).await.unwrap(), 950);
    assert_eq!(catalogue.reserve_upload(whole.id, 1..=2000, at(4)).await.unwrap(), 1000);
    let image = ImageRow { size_bytes: 1000, ..image_row(tenant()) };
    catalogue.commit_upload(whole.id, image, None, None, at(5)).await.unwrap();
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.images, usage.bytes), (1, 1000));
    assert_eq!((usage.reserved_images, usage.reserved_bytes), (0, 0));
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn sessions_expire_with_their_parts<D: Database>() {
    const DAY: i64 = 86_400;
    let database = D::new();
    let catalogue = database.open().await;
    let first = stored(&catalogue, part_row(1, 100)).await;
    let second = stored(&catalogue, part_row(2, 100)).await;
    assert_eq!(catalogue.expire_uploads(at(DAY), at(DAY)).await.unwrap(), []);
    assert_eq!(numbers(&catalogue).await, [1, 2], "stored parts are not forgotten");
    // A day after the last part came.
    assert_eq!(catalogue.expire_uploads(at(DAY + 2), at(0)).await.unwrap(), []);
    let mut expired = catalogue.expire_uploads(at(DAY + 3), at(0)).await.unwrap();
    expired.sort();
    let mut expected = [first, second];
    expected.sort();
    assert_eq!(expired, expected);
    assert_eq!(numbers(&catalogue).await, [0; 0]);
    // Bytes that still come keep a session alive for longer.
    let long = new_row(catalogue.create_upload(part_row(1, 100)).await.unwrap()).id;
    catalogue.extend_upload(long, 50, at(5), at(9 * DAY)).await.unwrap();
    catalogue.store_part(long, &place(1), at(6)).await.unwrap();
    assert_eq!(catalogue.expire_uploads(at(9 * DAY), at(0)).await.unwrap(), []);
    assert_eq!(catalogue.expire_uploads(at(9 * DAY + 1), at(0)).await.unwrap(), [long]);
    assert_sound::<D>(&catalogue).await;
}

/// More than one transaction takes.
pub(crate) async fn what_expires_goes_in_one_call<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut expected = Vec::new();
    for _ in 0..101 {
        expected.push(new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap()).id);
    }
    for session in ["a", "b", "c"] {
        for number in 1..=2 {
            let part = UploadPart { session: session.to_owned(), number };
            expected.push(stored(&catalogue, UploadRow { part: Some(part), ..part_row(number, 100) }).await);
        }
    }
    let late = at(9 * 86_400);
    let mut expired = catalogue.expire_uploads(late, at(0)).await.unwrap();
    expired.sort();
    expected.sort();
    assert_eq!(expired, expected);
    assert_eq!(catalogue.expire_uploads(late, at(0)).await.unwrap(), []);
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap(), crate::Usage::default());
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn sec_29_sessions_of_two_tenants_are_two<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let own = stored(&catalogue, part_row(1, 100)).await;
    let other = UploadRow { tenant: other_tenant(), ..whole_row(None) };
    let foreign = catalogue.begin_compose(other.clone(), "a disk", at(3)).await;
    assert_error!(foreign, Error::NotFound { what: SESSION });
    assert_eq!(catalogue.list_parts(&other_tenant(), "a disk").await.unwrap(), []);
    assert_eq!(catalogue.abort_session(&other_tenant(), "a disk", at(3)).await.unwrap(), []);
    let theirs = UploadRow { tenant: other_tenant(), ..part_row(1, 50) };
    stored(&catalogue, theirs).await;
    let (_, parts) = catalogue.begin_compose(other, "a disk", at(4)).await.unwrap();
    assert_eq!((parts.len(), parts[0].durable_bytes), (1, 50));
    assert_eq!(catalogue.list_parts(&tenant(), "a disk").await.unwrap()[0].id, own);
    assert_sound::<D>(&catalogue).await;
}
