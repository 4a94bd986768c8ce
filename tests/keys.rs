//! The life of keys: made, listed, revoked, ended, by command, by call, over REST and on the command line.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use imageops::v1::{CreateKeyRequest, KeyScope, KeyState, ListJobsRequest, ListKeysRequest};
use tonic::Code;

use support::http::request;
use support::status::eventually;
use support::{Service, binary};

fn start() -> Service {
    // Everything that could be logged is: secrets must not be among it.
    Service::start_with(&["--auth", "token", "--log", "trace"])
}

/// Runs `imageops-server key …` beside the running server; what it printed.
fn key_command(service: &Service, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(binary("imageops-server"))
        .arg("--data-dir")
        .arg(service.data_dir())
        .arg("key")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_revoked_key_is_out_at_once() {
    let service = start();
    let key = service.make_key("admin", None);
    let client = service.client_with_key(&key);
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
    let (_, list, _) = key_command(&service, &["list"]);
    assert!(list.contains("active") && !list.contains(&key), "{list}");
    let id = list.split_whitespace().next().unwrap();
    let (revoked, said, _) = key_command(&service, &["revoke", id]);
    assert!(revoked && said.contains("revoked"), "{said}");
    let refused = client.list_jobs(ListJobsRequest::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    let (_, list, _) = key_command(&service, &["list"]);
    assert!(list.contains("revoked"), "{list}");
    for wrong in
        [&["revoke", "keys/none"][..], &["create", "--scopes", "everything"], &["create", "--label", "a\nb"]]
    {
        let (done, _, said) = key_command(&service, wrong);
        assert!(!done && said.trim_end().lines().count() == 1, "{wrong:?}: {said}");
    }
}

/// A list of another directory would say that there is no key, and leave a catalogue behind.
#[test]
fn keys_are_looked_for_where_a_server_is() {
    let scratch = tempfile::tempdir().unwrap();
    let elsewhere = scratch.path().join("elsewhere");
    let command = |arguments: &[&str]| {
        Command::new(binary("imageops-server"))
            .arg("--data-dir")
            .arg(&elsewhere)
            .args(arguments)
            .output()
            .unwrap()
    };
    let listed = command(&["key", "list"]);
    let said = String::from_utf8(listed.stderr).unwrap();
    assert!(listed.status.code() == Some(76) && said.contains("--data-dir"), "{said}");
    assert!(!elsewhere.exists());
    assert!(command(&["key", "create"]).status.success());
    assert!(String::from_utf8(command(&["key", "list"]).stdout).unwrap().contains("active"));
}

/// The life of a key over gRPC: made, shown once, used within its scopes, revoked.
#[tokio::test]
async fn keys_are_made_and_revoked_by_call() {
    let service = start();
    let operator = service.client_with_key(&service.make_key("admin", None));
    let request = CreateKeyRequest {
        tenant: "tenant-one".to_owned(),
        scopes: vec![KeyScope::Admin.into(), KeyScope::Read.into(), KeyScope::Read.into()],
        display_name: "build farm".to_owned(),
        ..CreateKeyRequest::default()
    };
    let made = operator.create_key(request.clone()).await.unwrap();
    let key = made.key.unwrap();
    assert_eq!((key.tenant.as_str(), key.display_name.as_str()), ("tenant-one", "build farm"));
    assert_eq!(key.scopes().collect::<Vec<_>>(), [KeyScope::Read, KeyScope::Admin]);
    assert_eq!((key.state(), key.expire_time), (KeyState::Active, None));
    let theirs = service.client_with_key(&made.secret);
    assert_eq!(theirs.get_key(&key.name).await.unwrap(), key);
    // An administrator of a tenant makes keys of that tenant, and needs not name it.
    let reader = CreateKeyRequest { scopes: vec![KeyScope::Read.into()], ..CreateKeyRequest::default() };
    let reader = theirs.create_key(reader).await.unwrap();
    assert_eq!(reader.key.as_ref().unwrap().tenant, "tenant-one");
    let refused = service.client_with_key(&reader.secret).list_keys(ListKeysRequest::default()).await;
    assert_eq!(refused.unwrap_err().reason(), "SCOPE_MISSING");

    // Pages, newest first, hold each key once; those of all tenants for the operator.
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let page = ListKeysRequest { page_size: 1, page_token: token, ..ListKeysRequest::default() };
        let page = operator.list_keys(page).await.unwrap();
        names.extend(page.keys.into_iter().map(|key| key.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 3);
    assert_eq!(names[..2], [reader.key.unwrap().name, key.name.clone()]);
    let of_theirs = theirs.list_keys(ListKeysRequest::default()).await.unwrap().keys;
    assert_eq!(of_theirs.len(), 2);
    assert!(!format!("{of_theirs:?}").contains(&made.secret[4..]), "a secret was kept");

    let revoked = operator.revoke_key(&key.name).await.unwrap();
    assert_eq!(revoked.state(), KeyState::Revoked);
    assert_eq!(operator.revoke_key(&key.name).await.unwrap(), revoked);
    let refused = theirs.list_keys(ListKeysRequest::default()).await.unwrap_err();
    assert_eq!(refused.reason(), "UNAUTHENTICATED");

    // The second of two requests with one id cannot have the secret.
    let id = uuid::Uuid::new_v4();
    let again = CreateKeyRequest { request_id: id.to_string(), ..request.clone() };
    let made = operator.create_key(again.clone()).await.unwrap();
    assert_eq!(made.key.unwrap().name, format!("keys/{id}"));
    let refused = operator.create_key(again).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::AlreadyExists, "KEY_EXISTS"));
    for wrong in [
        CreateKeyRequest { scopes: vec![], ..request.clone() },
        CreateKeyRequest { scopes: vec![0], ..request.clone() },
        CreateKeyRequest { tenant: "a b".to_owned(), ..request.clone() },
        CreateKeyRequest { display_name: "a\nb".to_owned(), ..request.clone() },
        CreateKeyRequest { expire_time: Some(Default::default()), ..request.clone() },
        CreateKeyRequest { certificate_sha256: "abc".to_owned(), ..request },
    ] {
        let refused = operator.create_key(wrong).await.unwrap_err();
        assert_eq!((refused.code(), refused.reason()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
    }
}

/// A key whose time is over opens nothing, and says so in the list.
#[tokio::test]
async fn a_key_ends_at_its_time() {
    let service = start();
    let operator = service.client_with_key(&service.make_key("admin", None));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut expire_time = CreateKeyRequest::default().expire_time.unwrap_or_default();
    expire_time.seconds = i64::try_from(now.as_secs() + 2).unwrap();
    let request = CreateKeyRequest {
        scopes: vec![KeyScope::Read.into()],
        expire_time: Some(expire_time),
        ..CreateKeyRequest::default()
    };
    let made = operator.create_key(request.clone()).await.unwrap();
    let key = made.key.unwrap();
    assert_eq!(key.expire_time, request.expire_time);
    let client = service.client_with_key(&made.secret);
    let refused =
        eventually("the end of the key", async || client.list_jobs(ListJobsRequest::default()).await.err())
            .await;
    assert_eq!(refused.reason(), "UNAUTHENTICATED");
    assert_eq!(operator.get_key(&key.name).await.unwrap().state(), KeyState::Expired);
}

/// The same over REST.
#[tokio::test]
async fn rest_makes_and_revokes_keys() {
    let service = start();
    let admin = format!("Bearer {}", service.make_key("admin", None));
    let call = |method: &str, path: &str, key: &str, body: &str| {
        let headers = [("content-type", "application/json"), ("authorization", key)];
        request(service.http(), method, path, &headers, body.as_bytes())
    };
    let made = call("POST", "/v1/keys", &admin, r#"{"tenant":"t","scopes":["KEY_SCOPE_READ"]}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let body = made.json();
    let name = body["key"]["name"].as_str().unwrap();
    let path = format!("/v1/{name}");
    assert_eq!(made.header("location"), Some(path.as_str()));
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let key = format!("Bearer {}", body["secret"].as_str().unwrap());
    assert_eq!(call("GET", "/v1/jobs", &key, "").status, 200);
    assert_eq!(call("GET", "/v1/keys", &key, "").status, 403);
    assert_eq!(call("GET", &path, &admin, "").json()["tenant"], "t");
    let list = call("GET", "/v1/keys?tenant=t&page_size=10", &admin, "").json();
    assert_eq!(list["keys"].as_array().unwrap().len(), 1);
    let revoked = call("POST", &format!("{path}:revoke"), &admin, "");
    assert_eq!((revoked.status, revoked.json()["state"].as_str()), (200, Some("KEY_STATE_REVOKED")));
    assert_eq!(call("GET", "/v1/jobs", &key, "").status, 401);
    assert_eq!(call("POST", "/v1/keys", &admin, r#"{"scopes":[]}"#).status, 400);
    assert_eq!(call("POST", &path, &admin, "").status, 405);
    assert_eq!(call("GET", "/v1/keys/none", &admin, "").status, 404);
    let unknown = format!("/v1/keys/{}", uuid::Uuid::new_v4());
    assert_eq!(call("GET", &unknown, &admin, "").json()["reason"], "KEY_NOT_FOUND");
}

/// The same on the command line of a caller.
#[tokio::test]
async fn the_command_line_makes_and_revokes_keys() {
    let service = start();
    let admin = service.make_key("admin", None);
    let run = |arguments: &[&str]| {
        let output = Command::new(binary("imageops"))
            .args(["--server", &format!("http://{}", service.grpc()), "key"])
            .args(arguments)
            .env("IMAGEOPS_TOKEN", &admin)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (made, secret, said) =
        run(&["create", "--scopes", "read,write", "--tenant", "t", "--label", "ci", "--expiry-days", "9"]);
    assert!(made && said.contains("keys/") && said.contains("tenant t"), "{said}");
    let secret = secret.trim();
    assert!(secret.starts_with("iok_") && !said.contains(secret), "{secret}");
    let client = service.client_with_key(secret);
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
    let (_, list, _) = run(&["list", "--tenant", "t"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains("read,write") && list.contains("ci") && !list.contains(secret), "{list}");
    let name = list.split_whitespace().find(|word| word.starts_with("keys/")).unwrap();
    let (_, shown, _) = run(&["show", name]);
    assert!(shown.contains("active") && shown.contains("expires"), "{shown}");
    let (revoked, shown, _) = run(&["revoke", name.trim_start_matches("keys/")]);
    assert!(revoked && shown.contains("revoked"), "{shown}");
    client.list_jobs(ListJobsRequest::default()).await.unwrap_err();
    let (listed, keys, _) = run(&["--output", "json", "list"]);
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert!(listed && keys.as_array().unwrap().len() == 2, "{keys}");
}
