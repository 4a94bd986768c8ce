//! Access keys.

use imageops_model::{KeyId, Scope};

use super::*;
use crate::{Cursor, KeyProof, KeyRow, Page};

fn key(digest: u8, create_time: Micros) -> KeyRow {
    KeyRow {
        id: KeyId(Uuid::new_v4()),
        proof: KeyProof::Secret,
        proof_sha256: [digest; 32],
        tenant: tenant(),
        scopes: vec![Scope::Read, Scope::Delete],
        label: Label::new("build farm").unwrap(),
        create_time,
        expire_time: None,
        revoke_time: None,
    }
}

fn all() -> Page {
    Page { limit: 100, after: None }
}

pub(crate) async fn a_key_is_found_by_its_digest<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    // Made by another process while this one has the database open.
    let made = key(1, at(0));
    database.open().await.create_key(made.clone()).await.unwrap();
    let find = async |digest| catalogue.find_key(KeyProof::Secret, &[digest; 32], at(4)).await.unwrap();
    assert_eq!(find(1).await, Some(made.clone()));
    assert_eq!(find(2).await, None);
    assert_eq!(catalogue.get_key(None, made.id).await.unwrap(), made);
    let revoked = catalogue.revoke_key(None, made.id, at(5)).await.unwrap();
    assert_eq!(revoked.revoke_time, Some(at(5)));
    assert_eq!(find(1).await, None);
    assert_eq!(catalogue.revoke_key(None, made.id, at(9)).await.unwrap(), revoked);
    let missing = KeyId(Uuid::new_v4());
    assert_error!(catalogue.revoke_key(None, missing, at(9)).await, Error::NotFound { what: "key" });
}

pub(crate) async fn a_key_opens_until_its_time_is_over<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let made = KeyRow { expire_time: Some(at(7)), ..key(1, at(0)) };
    catalogue.create_key(made.clone()).await.unwrap();
    let find = async |now| catalogue.find_key(KeyProof::Secret, &[1; 32], at(now)).await.unwrap();
    assert_eq!(find(6).await, Some(made.clone()));
    assert_eq!(find(7).await, None);
    assert_eq!(find(8).await, None);
    assert_eq!(catalogue.get_key(None, made.id).await.unwrap(), made);
    assert!(!made.is_expired(at(6)) && made.is_expired(at(7)));
}

/// The digest of a certificate is no secret: it must not open what a secret with the same digest would.
pub(crate) async fn a_certificate_is_no_secret<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let made = KeyRow { proof: KeyProof::Certificate, ..key(1, at(0)) };
    catalogue.create_key(made.clone()).await.unwrap();
    let find = async |proof| catalogue.find_key(proof, &[1; 32], at(1)).await.unwrap();
    assert_eq!(find(KeyProof::Secret).await, None);
    assert_eq!(find(KeyProof::Certificate).await, Some(made));
    assert_error!(catalogue.create_key(key(1, at(1))).await, Error::Conflict { what: "key" });
}

pub(crate) async fn ids_and_digests_are_unique<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let made = key(1, at(0));
    catalogue.create_key(made.clone()).await.unwrap();
    let same_id = KeyRow { proof_sha256: [2; 32], ..made.clone() };
    assert_error!(catalogue.create_key(same_id).await, Error::Conflict { what: "key" });
    assert_error!(catalogue.create_key(key(1, at(1))).await, Error::Conflict { what: "key" });
    assert_eq!(catalogue.list_keys(None, all()).await.unwrap(), [made]);
}

pub(crate) async fn keys_are_listed_newest_first<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let (old, new) = (key(1, at(0)), KeyRow { scopes: vec![], tenant: other_tenant(), ..key(2, at(1)) });
    catalogue.create_key(old.clone()).await.unwrap();
    catalogue.create_key(new.clone()).await.unwrap();
    let old = catalogue.revoke_key(None, old.id, at(2)).await.unwrap();
    assert_eq!(catalogue.list_keys(None, all()).await.unwrap(), [new.clone(), old.clone()]);
    let first = Page { limit: 1, after: None };
    assert_eq!(catalogue.list_keys(None, first).await.unwrap(), std::slice::from_ref(&new));
    let after = Cursor { create_time: new.create_time, id: new.id.0 };
    let second = Page { limit: 1, after: Some(after) };
    assert_eq!(catalogue.list_keys(None, second).await.unwrap(), [old]);
}

pub(crate) async fn other_tenants_see_no_key<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let (own, theirs) = (key(1, at(0)), KeyRow { tenant: other_tenant(), ..key(2, at(1)) });
    catalogue.create_key(own.clone()).await.unwrap();
    catalogue.create_key(theirs.clone()).await.unwrap();
    let tenant = tenant();
    assert_eq!(catalogue.list_keys(Some(&tenant), all()).await.unwrap(), std::slice::from_ref(&own));
    assert_eq!(catalogue.get_key(Some(&tenant), own.id).await.unwrap(), own);
    let refused = catalogue.get_key(Some(&tenant), theirs.id).await;
    assert_error!(refused, Error::NotFound { what: "key" });
    let refused = catalogue.revoke_key(Some(&tenant), theirs.id, at(3)).await;
    assert_error!(refused, Error::NotFound { what: "key" });
    assert_eq!(catalogue.get_key(None, theirs.id).await.unwrap(), theirs);
    assert!(catalogue.revoke_key(Some(&tenant), own.id, at(3)).await.unwrap().revoke_time.is_some());
}
