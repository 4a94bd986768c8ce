//! Stores that are listed, added and changed by the command line, and stores that are not at their place.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use imageops::v1::{CheckRequest, Image, StoreStatus, UploadMetadata};
use serde_json::Value;
use support::http::{get, request};
use support::jobs::{compress_file, file};
use support::process::Setup;
use support::status::{assert_status, eventually};
use support::stores::{blobs_of, start_with_stores, store};
use support::upload::{metadata, try_upload};
use support::{Service, binary};
use tonic::{Code, Status};

fn imageops(service: &Service, arguments: &[&str]) -> Output {
    Command::new(binary("imageops"))
        .args(arguments)
        .env("IMAGEOPS_SERVER", format!("http://{}", service.grpc()))
        .env_remove("IMAGEOPS_TOKEN")
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn upload_to(service: &Service, name: &str, data: &[u8]) -> Result<Image, Status> {
    let metadata = UploadMetadata { store: name.to_owned(), ..metadata("disk") };
    try_upload(&service.client(), &metadata, data).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_keeps_stores() {
    let roots = tempfile::tempdir().unwrap();
    let place = roots.path().join("fast");
    let (place, root) = (place.to_str().unwrap(), roots.path().to_str().unwrap());
    let service = Service::start_with(&["--store-roots", root]);

    let refused = imageops(&service, &["store", "add", "outside", "/srv/outside"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("--store-roots"));
    let added = json(&imageops(&service, &["store", "add", "fast", place, "--weight", "7", "-o", "json"]));
    assert_eq!((&added["displayName"], &added["weight"]), (&"fast".into(), &7.into()));
    assert_eq!(added["status"], "STORE_STATUS_CONNECTED");
    // Asked for again it is the same store, and stays open.
    let again = json(&imageops(&service, &["store", "add", "fast", place, "--weight", "7", "-o", "json"]));
    assert_eq!((&again["name"], &again["status"]), (&added["name"], &added["status"]));
    let twice = imageops(&service, &["store", "add", "fast", &format!("{place}-2")]);
    assert_eq!(twice.status.code(), Some(1), "the name is taken");

    // The heaviest gets what names no store.
    let image = upload_to(&service, "", b"into the heaviest store").await.unwrap();
    assert_eq!(names(&roots.path().join("fast/blobs")), [image.name.trim_start_matches("images/")]);
    let listed = String::from_utf8(imageops(&service, &["store", "list"]).stdout).unwrap();
    let lines: Vec<_> = listed.lines().skip(1).map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(lines, ["fast", "default"], "{listed}");

    // A limit holds from the moment that it is set.
    let changed = json(&imageops(
        &service,
        &["store", "set", "fast", "--weight", "8", "--limit-bytes", "4096", "-o", "json"],
    ));
    assert_eq!((&changed["weight"], &changed["limitBytes"]), (&8.into(), &"4096".into()));
    let refused = upload_to(&service, "fast", &[7; 10_000]).await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "NO_SPACE");
    let changed = json(&imageops(&service, &["store", "set", "fast", "--no-limit", "-o", "json"]));
    assert_eq!((&changed["weight"], &changed["limitBytes"]), (&8.into(), &Value::Null));
    assert_eq!(imageops(&service, &["store", "set", "fast"]).status.code(), Some(1), "nothing to change");

    // Nothing new once it is disabled; what is there is read, and moved away by a drain.
    json(&imageops(&service, &["store", "disable", "fast", "-o", "json"]));
    let refused = upload_to(&service, "fast", b"more").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let full = imageops(&service, &["store", "remove", "fast"]);
    assert!(String::from_utf8(full.stderr).unwrap().contains("drain it first"));
    let scrubbed = json(&imageops(&service, &["store", "scrub", "fast", "-o", "json"]));
    assert_eq!(scrubbed["scrub"]["verifiedBlobs"], "1");
    let drained = json(&imageops(&service, &["store", "drain", "fast", "-o", "json"]));
    assert_eq!(drained["drain"]["movedImages"], "1");
    assert!(imageops(&service, &["store", "remove", "fast"]).status.success());
    let target = roots.path().join("again");
    let fetched = imageops(&service, &["download", &image.name, target.to_str().unwrap()]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(fs::read(target).unwrap(), b"into the heaviest store");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_where_a_store_no_longer_is() {
    let mut service = start_with_stores(&["disk"], &[]);
    let kept = upload_to(&service, "disk", b"on the disk").await.unwrap();
    let place = blobs_of(&service, "disk").parent().unwrap().to_owned();
    let away = place.with_extension("away");

    // The disk goes, and leaves its empty mount point.
    fs::rename(&place, &away).unwrap();
    fs::create_dir(&place).unwrap();
    let refused = upload_to(&service, "disk", b"lost").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    // Over REST it says the same, and when to come back.
    let answer = request(service.http(), "POST", "/v1/images?store=disk", &[], b"lost");
    let told = answer.json();
    assert_eq!((answer.status, &told["reason"]), (503, &"STORE_DISCONNECTED".into()));
    assert!(told["detail"].as_str().unwrap().starts_with("the store is not there"), "{told}");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(names(&place), [""; 0], "written below the mount point");
    let told = store(&service, "disk").await;
    assert_eq!(told.status(), StoreStatus::Disconnected);
    assert!(!told.status_message.is_empty());
    // Whoever names no store is served by the others.
    upload_to(&service, "", b"elsewhere").await.unwrap();

    // The same at the start of a server, which goes on without it.
    service.kill();
    service.restart();
    assert_eq!(store(&service, "disk").await.status(), StoreStatus::Disconnected);
    assert_eq!(upload_to(&service, "disk", b"lost").await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(names(&place), [""; 0], "written below the mount point");

    // It comes back with all it had.
    service.kill();
    fs::remove_dir(&place).unwrap();
    fs::rename(&away, &place).unwrap();
    service.restart();
    assert_eq!(store(&service, "disk").await.status(), StoreStatus::Connected);
    let data = support::jobs::download(&service.client(), &kept.name).await;
    assert_eq!(data, b"on the disk");
}

/// Reliability rel_13: whoever balances goes on to send readers, and can tell that no writer should come.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_that_takes_bytes_the_server_says_that_it_only_reads() {
    let service = start_with_stores(&["disk"], &[]);
    let kept = upload_to(&service, "disk", b"on the disk").await.unwrap();
    let ready = || get(service.http(), "/readyz");
    let says = |word: &'static str| {
        eventually(word, move || async move { ready().text().starts_with(word).then_some(()) })
    };
    says("ok").await;
    let place = service.data_dir().join("store");
    let away = place.with_extension("away");
    fs::rename(&place, &away).unwrap();
    fs::create_dir(&place).unwrap();
    assert_eq!(upload_to(&service, "default", b"lost").await.unwrap_err().code(), Code::Unavailable);
    assert!(ready().text().starts_with("ok"), "the other store takes bytes");
    json(&imageops(&service, &["store", "disable", "disk", "-o", "json"]));
    says("read-only").await;
    assert_eq!(ready().status, 200);
    assert_eq!(support::jobs::download(&service.client(), &kept.name).await, b"on the disk");
    fs::remove_dir(&place).unwrap();
    fs::rename(&away, &place).unwrap();
    says("ok").await;
    upload_to(&service, "", b"taken again").await.unwrap();
}

/// What one catalogue stored is nothing that another one may tidy up.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_catalogue_is_left_alone() {
    let mut service = start_with_stores(&["disk"], &[]);
    upload_to(&service, "disk", b"on the disk").await.unwrap();
    upload_to(&service, "default", b"in the data directory").await.unwrap();
    let blobs = blobs_of(&service, "disk");
    let kept = [names(&blobs), service.blobs()];
    service.kill();

    // The catalogue is lost, and a server starts with a fresh one.
    let aside = service.scratch().join("aside");
    fs::create_dir(&aside).unwrap();
    let is_catalogue = |name: &String| name.starts_with("catalogue.sqlite");
    let move_catalogue = |from: &Path, to: &Path| {
        for name in names(from).into_iter().filter(is_catalogue) {
            fs::rename(from.join(&name), to.join(&name)).unwrap();
        }
    };
    move_catalogue(service.data_dir(), &aside);
    let refused = service.setup().command().output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("belongs to another catalogue"), "{said}");
    assert_eq!([names(&blobs), service.blobs()], kept);

    // Another server with the same directory.
    let mut setup = Setup::below(binary("imageops-server"), &service.scratch().join("other"));
    fs::create_dir_all(&setup.image_path).unwrap();
    setup.arguments = vec!["--store".to_owned(), format!("disk={}", blobs.parent().unwrap().display())];
    let refused = setup.command().output().unwrap();
    assert!(!refused.status.success());
    assert_eq!(names(&blobs), kept[0]);

    for name in names(service.data_dir()).into_iter().filter(is_catalogue) {
        fs::remove_file(service.data_dir().join(name)).unwrap();
    }
    move_catalogue(&aside, service.data_dir());
    service.restart();
    assert_eq!([names(&blobs), service.blobs()], kept);
}

/// SEC-27: stored bytes are no files, wherever their store lies.
#[tokio::test(flavor = "multi_thread")]
async fn sec_27_a_store_below_the_image_root_cannot_be_named() {
    let service = Service::start_changed(|setup| {
        let place = setup.image_path.join("inside");
        setup.arguments = vec!["--store".to_owned(), format!("inside={}?weight=5", place.display())];
    });
    let image = upload_to(&service, "inside", &[7; 4096]).await.unwrap();
    let path = format!("inside/blobs/{}", image.name.trim_start_matches("images/"));
    assert!(service.image_path().join(&path).is_file());
    let client = service.client();
    let check = CheckRequest { source: file(&path), ..CheckRequest::default() };
    let refused = client.stub().check(check).await.unwrap_err();
    assert_status(&refused, Code::NotFound, "FILE_NOT_FOUND");
    fs::write(service.image_path().join("disk.raw"), [1; 4096]).unwrap();
    let refused = client.stub().compress(compress_file("disk.raw", &path)).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_OUTPUT_FILE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_another_one_is_refused() {
    let roots = tempfile::tempdir().unwrap();
    let service = Service::start_with(&["--store-roots", roots.path().to_str().unwrap()]);
    let place = |name: &str| roots.path().join(name).to_str().unwrap().to_owned();
    json(&imageops(&service, &["store", "add", "one", &place("one"), "-o", "json"]));
    let refused = imageops(&service, &["store", "add", "two", &place("one/blobs/two")]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("lies in the store one"));
    std::os::unix::fs::symlink("/srv", place("link")).unwrap();
    let refused = |name: &str, place: &str| {
        let refused = imageops(&service, &["store", "add", name, place]);
        assert_eq!(refused.status.code(), Some(1));
        String::from_utf8(refused.stderr).unwrap()
    };
    assert!(refused("three", &place("link")).contains("--store-roots"));
    fs::write(place("file"), b"a file").unwrap();
    let said = refused("four", &place("file"));
    assert!(said.contains("a file at this path"), "{said}");
    assert_eq!(fs::read(place("file")).unwrap(), b"a file");
    let said = refused("five", &place("one"));
    assert!(said.contains("is the store one already"), "{said}");
}

/// What all tenants together have tells one of the others.
#[test]
fn what_a_store_holds_is_the_operators_to_know() {
    let service = Service::start_with(&["--auth", "token"]);
    let stores = |scopes: &str, tenant: Option<&str>| {
        let key = format!("Bearer {}", service.make_key(scopes, tenant));
        let data = [7; 5000];
        let headers = [("authorization", &*key)];
        if scopes == "admin" {
            assert_eq!(request(service.http(), "POST", "/v1/images", &headers, &data).status, 201);
        }
        let listed = request(service.http(), "GET", "/v1/stores", &headers, &[]).json();
        let found = request(service.http(), "GET", "/v1/stores/default", &headers, &[]).json();
        assert_eq!(listed["stores"][0], found);
        found
    };
    let told =
        |store: &Value| ["images", "storedBytes", "totalBytes", "freeBytes"].map(|name| store[name].clone());
    let theirs = stores("admin", Some("tenant-one"));
    let reader = stores("read", None);
    for store in [&theirs, &reader] {
        assert_eq!(told(store), [const { Value::Null }; 4], "{store}");
        assert_eq!(store["status"], "STORE_STATUS_CONNECTED");
    }
    assert_eq!(theirs["directory"], Value::Null);
    let ours = stores("admin", None);
    assert_eq!((&ours["images"], &ours["storedBytes"]), (&"2".into(), &"10000".into()), "{ours}");
    assert!(told(&ours).iter().all(Value::is_string), "{ours}");
}
