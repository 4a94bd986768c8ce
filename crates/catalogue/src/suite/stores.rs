//! Stores.

use imageops_model::{StoreKind, StoreState};

use super::*;
use crate::{StoreChange, StoreRow, StoreUsage};

const WHAT: &str = "store";

fn store_row(name: &str) -> StoreRow {
    StoreRow {
        id: StoreId(Uuid::new_v4()),
        name: name.to_owned(),
        kind: StoreKind::Directory { path: format!("/srv/{name}") },
        description: "disks in the cellar".to_owned(),
        weight: 10,
        limit_bytes: Some(1 << 40),
        state: StoreState::Enabled,
        revision: 1,
        create_time: at(0),
        update_time: at(0),
    }
}

async fn registered(catalogue: &impl Catalogue, store: StoreRow) -> StoreRow {
    new_row(catalogue.register_store(store).await.unwrap())
}

pub(crate) async fn a_store_reads_back_and_changes<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let asked = store_row("fast");
    let store = registered(&catalogue, asked.clone()).await;
    assert_eq!(store, asked);
    assert_eq!(catalogue.get_store(store.id).await.unwrap(), store);
    assert_eq!(catalogue.find_store("fast").await.unwrap(), Some(store.clone()));
    assert_eq!(catalogue.find_store("slow").await.unwrap(), None);
    let missing = StoreId(Uuid::new_v4());
    assert_error!(catalogue.get_store(missing).await, Error::NotFound { what: WHAT });
    let bucket = StoreKind::Bucket {
        endpoint: "https://s3.example.org".to_owned(),
        region: "eu".to_owned(),
        bucket: "images".to_owned(),
        prefix: String::new(),
        path_style: true,
        allow_http: false,
    };
    let light = StoreRow { weight: -1, limit_bytes: None, kind: bucket, ..store_row("a bucket") };
    let light = registered(&catalogue, light).await;
    let equal = registered(&catalogue, store_row("even")).await;
    assert_eq!(catalogue.list_stores().await.unwrap(), [equal, store.clone(), light.clone()]);

    let change = StoreChange {
        description: Some("gone".to_owned()),
        weight: Some(-5),
        limit_bytes: Some(None),
        state: Some(StoreState::Draining),
    };
    let update = async |change: StoreChange, revision, now| {
        catalogue.update_store(store.id, change, revision, now).await
    };
    let changed = update(change.clone(), Some(1), at(5)).await.unwrap();
    let expected = StoreRow {
        description: "gone".to_owned(),
        weight: -5,
        limit_bytes: None,
        state: StoreState::Draining,
        revision: 2,
        update_time: at(5),
        ..store.clone()
    };
    assert_eq!(changed, expected);
    assert_eq!(catalogue.get_store(store.id).await.unwrap(), expected);
    assert_eq!(update(change.clone(), None, at(6)).await.unwrap(), expected, "the same is no change");
    assert_error!(update(change.clone(), Some(1), at(7)).await, Error::Stale { what: WHAT });
    let nothing = catalogue.update_store(missing, change, None, at(7)).await;
    assert_error!(nothing, Error::NotFound { what: WHAT });
}

pub(crate) async fn names_and_ids_of_stores_are_unique<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let store = registered(&catalogue, store_row("fast")).await;
    assert_eq!(existing_row(catalogue.register_store(store.clone()).await.unwrap()), store);
    let conflicting = [
        StoreRow { name: "slow".to_owned(), ..store.clone() },
        StoreRow { id: StoreId(Uuid::new_v4()), ..store.clone() },
    ];
    for other in conflicting {
        assert_error!(catalogue.register_store(other).await, Error::Conflict { what: WHAT });
    }
    // The same store has moved; what was said of it stays.
    let kind = StoreKind::Directory { path: "/mnt/fast".to_owned() };
    let moved = StoreRow { kind: kind.clone(), weight: 99, update_time: at(4), ..store.clone() };
    let moved = existing_row(catalogue.register_store(moved).await.unwrap());
    assert_eq!(moved, StoreRow { kind, revision: 2, update_time: at(4), ..store });
}

pub(crate) async fn a_store_in_use_is_not_removed<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let store = registered(&catalogue, store_row("fast")).await;
    let inside = |image: ImageRow| {
        let replicas = vec![Replica { store: store.id, ..image.replicas[0].clone() }];
        ImageRow { replicas, size_bytes: 500, ..image }
    };
    let usage = async || catalogue.store_usage(store.id).await.unwrap();
    assert_eq!(usage().await, StoreUsage::default());
    let first = added(&catalogue, inside(image_row(tenant()))).await;
    // Shared bytes are there once.
    let shared = ImageRow { sha256: first.sha256.clone(), ..inside(image_row(tenant())) };
    let shared = added(&catalogue, shared).await;
    let theirs = added(&catalogue, inside(image_row(other_tenant()))).await;
    added(&catalogue, image_row(tenant())).await;
    assert_eq!(usage().await, StoreUsage { images: 3, bytes: 1000 });
    assert_error!(catalogue.remove_store(store.id).await, Error::State { what: WHAT });
    for image in [first, shared, theirs] {
        catalogue.purge_image(&image.tenant, image.id, None, true, at(5)).await.unwrap();
    }
    let upload = UploadRow { store: Some(store.id), ..upload_row(at(0)) };
    let upload = new_row(catalogue.create_upload(upload).await.unwrap()).id;
    assert_error!(catalogue.remove_store(store.id).await, Error::State { what: WHAT });
    catalogue.abort_upload(&tenant(), upload, at(6)).await.unwrap();
    // Nobody could remove its doomed bytes any more.
    assert!(!catalogue.list_doomed(store.id, 10).await.unwrap().is_empty());
    catalogue.remove_store(store.id).await.unwrap();
    assert_eq!(catalogue.list_doomed(store.id, 10).await.unwrap(), [""; 0]);
    assert_error!(catalogue.remove_store(store.id).await, Error::NotFound { what: WHAT });
    registered(&catalogue, store_row("fast")).await;
    assert_sound::<D>(&catalogue).await;
}
