//! Access keys.

use imageops_model::{KeyId, Scope};

use super::*;
use crate::KeyRow;

fn key(digest: u8, create_time: Micros) -> KeyRow {
    KeyRow {
        id: KeyId(Uuid::new_v4()),
        secret_sha256: [digest; 32],
        tenant: tenant(),
        scopes: vec![Scope::Read, Scope::Delete],
        label: Label::new("build farm").unwrap(),
        create_time,
        revoke_time: None,
    }
}

pub(crate) async fn a_key_is_found_by_its_digest<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    // Made by another process while this one has the database open.
    let made = key(1, at(0));
    database.open().await.create_key(made.clone()).await.unwrap();
    assert_eq!(catalogue.find_key(&[1; 32]).await.unwrap(), Some(made.clone()));
    assert_eq!(catalogue.find_key(&[2; 32]).await.unwrap(), None);
    let revoked = catalogue.revoke_key(made.id, at(5)).await.unwrap();
    assert_eq!(revoked.revoke_time, Some(at(5)));
    assert_eq!(catalogue.find_key(&[1; 32]).await.unwrap(), None);
    assert_eq!(catalogue.revoke_key(made.id, at(9)).await.unwrap(), revoked);
    let missing = KeyId(Uuid::new_v4());
    assert_error!(catalogue.revoke_key(missing, at(9)).await, Error::NotFound { what: "key" });
}

pub(crate) async fn ids_and_digests_are_unique<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let made = key(1, at(0));
    catalogue.create_key(made.clone()).await.unwrap();
    let same_id = KeyRow { secret_sha256: [2; 32], ..made.clone() };
    assert_error!(catalogue.create_key(same_id).await, Error::Conflict { what: "key" });
    assert_error!(catalogue.create_key(key(1, at(1))).await, Error::Conflict { what: "key" });
    assert_eq!(catalogue.list_keys().await.unwrap(), [made]);
}

pub(crate) async fn keys_are_listed_newest_first<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let (old, new) = (key(1, at(0)), KeyRow { scopes: vec![], tenant: other_tenant(), ..key(2, at(1)) });
    catalogue.create_key(old.clone()).await.unwrap();
    catalogue.create_key(new.clone()).await.unwrap();
    let old = catalogue.revoke_key(old.id, at(2)).await.unwrap();
    assert_eq!(catalogue.list_keys().await.unwrap(), [new, old]);
}
