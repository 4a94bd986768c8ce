//! The native API over REST: records before their bytes, parts, other formats, copies, stores, quotas.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use imageops::v1::GetUsageRequest;
use serde_json::{Value, json};

use support::http::{self, Answer};
use support::images::{assert_same_content, have, qemu_img};
use support::status::eventually;
use support::upload::digests;
use support::{Service, fixtures};

struct Rest(std::net::SocketAddr);

impl Rest {
    fn call(&self, method: &str, path: &str) -> Answer {
        http::request(self.0, method, path, &[], &[])
    }

    fn put(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        http::request(self.0, "PUT", path, headers, body)
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        http::request(self.0, method, path, &headers, body.to_string().as_bytes())
    }

    /// The job of an answer, at its end.
    #[track_caller]
    fn job(&self, started: &Answer) -> Value {
        assert_eq!(started.status, 202, "{}", started.text());
        let ended = http::get(self.0, &format!("{}?wait=60s", started.header("location").unwrap())).json();
        assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended}");
        ended
    }
}

#[track_caller]
fn id_of(image: &Value) -> &str {
    image["name"].as_str().unwrap().strip_prefix("images/").unwrap()
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)), "{}", answer.text());
}

#[test]
fn a_record_comes_before_its_bytes() {
    let service = Service::start();
    let rest = Rest(service.http());
    let data = fixtures::raw("a record");
    let wanted = uuid::Uuid::new_v4();
    let facts = json!({"diskFormat": "raw", "minDiskGib": 4});
    let record = json!({"name": format!("images/{wanted}"), "displayName": "later", "labels": {"team": "edge"}, "facts": facts});
    let created = rest.json("POST", "/v1/images", &record);
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.header("location"), Some(&*format!("/v1/images/{wanted}")));
    let image = created.json();
    assert_eq!((&image["state"], id_of(&image)), (&json!("IMAGE_STATE_QUEUED"), &*wanted.to_string()));
    assert_eq!(created.header("etag").unwrap().trim_matches('"'), image["etag"]);
    assert_eq!(rest.json("POST", "/v1/images", &record).json()["name"], image["name"], "the same again");
    assert_eq!(
        rest.json("POST", "/v1/images", &json!({"name": image["name"], "displayName": "x"})).status,
        409
    );

    let content = format!("/v1/images/{wanted}/content");
    assert_eq!(rest.call("GET", &content).status, 409, "there are no bytes yet");
    let wrong = [("x-checksum-sha256", &*digests(b"others").sha256)];
    assert_problem(&rest.put(&content, &wrong, &data), 422, "DIGEST_MISMATCH");
    let other = "1".repeat(128);
    let refused = rest.put(&content, &[("x-checksum-sha512", &*other)], &data);
    assert_problem(&refused, 422, "DIGEST_MISMATCH");
    assert_problem(&rest.put(&format!("{content}?sha512={other}"), &[], &data), 422, "DIGEST_MISMATCH");
    let right = digests(&data);
    let headers = [("x-checksum-sha256", &*right.sha256), ("x-checksum-md5", &*right.md5)];
    let filled = rest.put(&format!("{content}?format=raw&check=true&sha512=true"), &headers, &data);
    assert_eq!(filled.status, 200, "{}", filled.text());
    let image = filled.json();
    assert_eq!((&image["state"], &image["displayName"]), (&json!("IMAGE_STATE_ACTIVE"), &json!("later")));
    assert_eq!((&image["labels"]["team"], &image["facts"]["minDiskGib"]), (&json!("edge"), &json!(4)));
    assert_eq!(image["digests"]["sha512"].as_str().unwrap().len(), 128);
    assert_eq!(rest.call("GET", &content).body, data);
    assert_problem(&rest.put(&content, &[], &data), 409, "IMAGE_NOT_QUEUED");

    let check = filled.header("imageops-check-job").unwrap().replace("jobs/", "/v1/jobs/");
    assert_eq!(rest.call("GET", &format!("{check}?wait=60s")).json()["state"], "JOB_STATE_SUCCEEDED");
    let work = rest.call("GET", &format!("/v1/images/{wanted}/work")).json();
    assert_eq!(work["check"]["state"], "IMAGE_WORK_STATE_SUCCEEDED", "{work}");
    assert_eq!(work["check"]["result"]["outcome"], "CHECK_OUTCOME_NOT_SUPPORTED");
    let listed = rest.call("GET", "/v1/images?with_work=true&label=team=edge").json();
    assert_eq!((&listed["images"][0]["name"], &listed["works"][0]), (&image["name"], &work));

    assert_eq!(rest.call("DELETE", &format!("/v1/images/{wanted}?purge=true")).status, 200);
    assert_eq!(rest.call("GET", &format!("/v1/images/{wanted}")).status, 404);
}

#[test]
fn hidden_images_are_found_when_they_are_asked_for() {
    let service = Service::start();
    let rest = Rest(service.http());
    for hidden in [true, false] {
        let record = json!({"displayName": format!("hidden {hidden}"), "facts": {"hidden": hidden}});
        assert_eq!(rest.json("POST", "/v1/images", &record).status, 201);
    }
    for (query, names) in [
        ("hidden=true", vec!["hidden true"]),
        ("hidden=false", vec!["hidden false"]),
        ("order=oldest", vec!["hidden true", "hidden false"]),
    ] {
        let listed = rest.call("GET", &format!("/v1/images?{query}")).json();
        let found: Vec<_> =
            listed["images"].as_array().unwrap().iter().map(|image| &image["displayName"]).collect();
        assert_eq!(found, names, "{query}");
    }
}

/// One key with two values is a question without an answer, and a label that nobody has said.
#[test]
fn a_label_that_comes_twice_with_two_values_is_refused() {
    let service = Service::start();
    let rest = Rest(service.http());
    let data = fixtures::raw("labels");
    for (labels, status) in [
        ("label=k=1&label=k=2", 400),
        ("label=k=1&label=k=", 400),
        ("property=k=1&property=k=2", 400),
        ("label=k=1&label=k=1&label=l=2&property=k=3", 201),
    ] {
        let answer = http::request(rest.0, "POST", &format!("/v1/images?{labels}"), &[], &data);
        assert_eq!(answer.status, status, "{labels}: {}", answer.text());
    }
    for (labels, found) in [("label=k=1&label=l=2", 1), ("label=k=1&label=k=1", 1), ("label=k=2", 0)] {
        let listed = rest.call("GET", &format!("/v1/images?{labels}")).json();
        assert_eq!(listed["images"].as_array().map_or(0, Vec::len), found, "{labels}");
    }
    let refused = rest.call("GET", "/v1/images?label=k=1&label=k=2");
    assert_problem(&refused, 400, "INVALID_ARGUMENT");
    let violation = &refused.json()["violations"][0];
    assert_eq!(violation["field"], "label");
    assert!(violation["description"].as_str().unwrap().contains("twice"), "{violation}");
}

#[test]
fn parts_are_put_and_composed() {
    let service = Service::start();
    let rest = Rest(service.http());
    let data = fixtures::raw("parts");
    let session = "/v1/sessions/a%20session:with:colons";
    for (number, part) in (1..).zip(data.chunks(20_000)) {
        let stored = rest.put(&format!("{session}/parts/{number}"), &[], part);
        assert_eq!(
            (stored.status, &stored.json()["state"]),
            (200, &json!("UPLOAD_STATE_STORED")),
            "{}",
            stored.text()
        );
    }
    let wrong = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
    assert_problem(&rest.put(&format!("{session}/parts/9"), &wrong, b"x"), 422, "DIGEST_MISMATCH");
    assert_eq!(rest.put(&format!("{session}/parts/0"), &[], b"x").status, 400);
    let listed = rest.call("GET", session).json();
    let numbers: Vec<_> =
        listed["uploads"].as_array().unwrap().iter().map(|part| part["part"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);

    let wished = json!({"displayName": "composed", "expectedDigests": {"sha256": digests(&data).sha256}, "check": true});
    let composed = rest.json("POST", &format!("{session}:compose"), &wished);
    assert_eq!(composed.status, 201, "{}", composed.text());
    assert!(composed.header("imageops-check-job").is_some());
    let content = format!("{}/content", composed.header("location").unwrap());
    assert_eq!(rest.call("GET", &content).body, data);
    assert_problem(&rest.json("POST", &format!("{session}:compose"), &wished), 404, "SESSION_NOT_FOUND");

    for number in [1, 3] {
        rest.put(&format!("/v1/sessions/gap/parts/{number}"), &[], b"x");
    }
    assert_problem(&rest.json("POST", "/v1/sessions/gap:compose", &json!({})), 409, "PART_MISSING");
    assert_eq!(rest.call("DELETE", "/v1/sessions/gap").json()["parts"], 2);
    assert_eq!(rest.call("DELETE", "/v1/sessions/gap").json(), json!({}));
    assert_eq!(rest.call("GET", "/v1/sessions/gap").json(), json!({}));
}

#[test]
fn images_go_out_in_another_format_and_in_a_zip() {
    let service = Service::start();
    let rest = Rest(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let Some(zip) = fixtures::zip(service.scratch(), &[("d/disk.qcow2", &good)]) else { return };
    let headers = [("content-type", "application/octet-stream")];
    let image = http::request(rest.0, "POST", "/v1/images?archive=zip", &headers, &zip).json();
    assert_eq!(image["displayName"], "disk.qcow2");
    let content = format!("/v1/images/{}/content", id_of(&image));
    assert_eq!(rest.call("GET", &content).body, good);

    let raw = rest.call("GET", &format!("{content}?format=raw"));
    assert_eq!((raw.status, raw.body.len()), (200, 64 << 20));
    assert_eq!(raw.header("content-disposition"), Some("attachment; filename=\"disk.raw\""));
    let (source, target) = (service.scratch().join("good.qcow2"), service.scratch().join("disk.raw"));
    std::fs::write(&target, &raw.body).unwrap();
    assert_same_content(&source, &target);
    let range = [("range", "bytes=1048570-1048580")];
    let part = http::request(rest.0, "GET", &format!("{content}?format=raw"), &range, &[]);
    assert_eq!((part.status, part.body), (206, raw.body[1_048_570..=1_048_580].to_vec()));
    assert_eq!(rest.call("GET", &format!("{content}?format=qcow2")).body, good, "it is that already");

    if have("python3") {
        let zipped = rest.call("GET", &format!("{content}?format=raw&archive=zip"));
        assert_eq!(zipped.header("content-length"), Some(&*zipped.body.len().to_string()));
        assert_eq!(zipped.header("content-type"), Some("application/zip"));
        let entries = fixtures::unzip(service.scratch(), &zipped.body);
        assert!(entries.len() == 1 && entries[0].0 == "disk/disk.raw" && entries[0].2 == raw.body);
    }
    let converted = json!({"source": {"image": image["name"]}, "format": "IMAGE_FORMAT_RAW"});
    let job = rest.job(&rest.json("POST", "/v1/conversions", &converted));
    let output = job["convert"]["outputImage"].as_str().unwrap();
    assert!(rest.call("GET", &format!("/v1/{output}/content")).body == raw.body);
    assert!(qemu_img(["info".as_ref(), target.as_os_str()]).status.success());
}

/// RFC 9110, 13.1.4, and the order of 13.2.2.
#[test]
fn a_date_that_the_image_must_not_be_later_than_is_kept() {
    let service = Service::start();
    let rest = Rest(service.http());
    let data = fixtures::raw("dates");
    let image = http::request(rest.0, "POST", "/v1/images", &[], &data).json();
    let content = format!("/v1/images/{}/content", id_of(&image));
    let head = rest.call("HEAD", &content);
    let (etag, date) = (head.header("etag").unwrap(), head.header("last-modified").unwrap());
    let (before, range) = ("Sat, 01 Jan 2000 00:00:00 GMT", ("range", "bytes=0-3"));
    let since = |date| ("if-unmodified-since", date);
    for (headers, status) in [
        (vec![since(date)], 200),
        (vec![since(before)], 412),
        (vec![since(before), range], 412),
        (vec![since(date), range], 206),
        (vec![since("yesterday")], 200),
        // A tag decides alone, and both come before what the caller has.
        (vec![since(before), ("if-match", etag)], 200),
        (vec![since(date), ("if-match", "\"other\"")], 412),
        (vec![since(before), ("if-none-match", etag)], 412),
        (vec![since(date), ("if-none-match", etag)], 304),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = http::request(rest.0, method, &content, &headers, &[]);
            // HEAD has no ranges.
            let status = if (method, status) == ("HEAD", 206) { 200 } else { status };
            assert_eq!(answer.status, status, "{method} {headers:?}");
        }
    }
    let refused = http::request(rest.0, "GET", &content, &[since(before)], &[]);
    assert_problem(&refused, 412, "PRECONDITION_FAILED");
    let legacy = format!("/image-management/v1/images/{}/action/download", id_of(&image));
    assert_eq!(http::request(rest.0, "GET", &legacy, &[since(before)], &[]).status, 412);
    assert_eq!(http::request(rest.0, "GET", &legacy, &[since(date)], &[]).body, data);
}

#[test]
fn stores_are_registered_changed_drained_and_forgotten() {
    let roots = tempfile::tempdir().unwrap();
    let service = Service::start_with(&["--store-roots", roots.path().to_str().unwrap()]);
    let rest = Rest(service.http());
    let place = roots.path().join("fast");
    let fast = json!({"displayName": "fast", "weight": -5, "directory": {"path": place}});
    let registered = rest.json("POST", "/v1/stores", &fast);
    assert_eq!(registered.status, 201, "{}", registered.text());
    let location = registered.header("location").unwrap().to_owned();
    let elsewhere = json!({"displayName": "fast", "directory": {"path": roots.path().join("other")}});
    assert_problem(&rest.json("POST", "/v1/stores", &elsewhere), 409, "STORE_EXISTS");
    assert_eq!(rest.call("GET", &location).json()["displayName"], "fast");
    let stores = rest.call("GET", "/v1/stores").json();
    assert_eq!(stores["stores"].as_array().unwrap().len(), 2);

    let found = rest.call("GET", "/v1/stores/fast");
    let etag = found.header("etag").unwrap().to_owned();
    let change = json!({"description": "for hot images"}).to_string();
    let headers = [("content-type", "application/json"), ("if-match", &*etag)];
    let changed = http::request(rest.0, "PATCH", "/v1/stores/fast", &headers, change.as_bytes());
    assert_eq!(
        (changed.status, &changed.json()["description"]),
        (200, &json!("for hot images")),
        "{}",
        changed.text()
    );
    let stale = http::request(rest.0, "PATCH", "/v1/stores/fast", &headers, change.as_bytes());
    assert_problem(&stale, 412, "STALE_ETAG");

    let data = fixtures::raw("a copy");
    let image = http::request(rest.0, "POST", "/v1/images", &[], &data).json();
    let path = format!("/v1/images/{}", id_of(&image));
    assert_eq!(image["replicas"].as_array().unwrap().len(), 1);
    let job = rest.job(&rest.json("POST", &format!("{path}:copy"), &json!({"store": "fast"})));
    assert_eq!(job["kind"], "JOB_KIND_COPY");
    assert_eq!(rest.call("GET", &path).json()["replicas"].as_array().unwrap().len(), 2);
    assert_problem(&rest.call("DELETE", "/v1/stores/fast"), 409, "STORE_NOT_EMPTY");
    assert_eq!(rest.job(&rest.call("POST", "/v1/stores/fast:scrub"))["scrub"]["verifiedBlobs"], "1");
    let home =
        stores["stores"].as_array().unwrap().iter().find(|store| store["displayName"] != "fast").unwrap();
    let home = home["displayName"].as_str().unwrap();
    let left = rest.call("DELETE", &format!("{path}/replicas/{home}"));
    assert_eq!((left.status, left.json()["replicas"].as_array().unwrap().len()), (200, 1), "{}", left.text());
    assert_problem(&rest.call("DELETE", &format!("{path}/replicas/fast")), 409, "LAST_REPLICA");
    assert_eq!(rest.call("GET", &format!("{path}/content")).body, data);
    rest.job(&rest.call("POST", &format!("{location}:drain")));
    assert_eq!(rest.call("GET", &format!("{path}/content")).body, data);
    assert_eq!(rest.call("DELETE", "/v1/stores/fast").status, 204);
    assert_problem(&rest.call("GET", "/v1/stores/fast"), 404, "STORE_NOT_FOUND");
}

#[test]
fn sec_14_quotas_are_set_and_kept() {
    let service = Service::start();
    let rest = Rest(service.http());
    let usage = rest.call("GET", "/v1/usage").json();
    let tenant = usage["tenant"].as_str().unwrap();
    let set =
        rest.json("PUT", &format!("/v1/quotas/{tenant}"), &json!({"imagesMax": "1", "bytesMax": "100000"}));
    assert_eq!((set.status, &set.json()["imagesMax"]), (200, &json!("1")), "{}", set.text());
    let data = fixtures::raw("a quota");
    assert_eq!(http::request(rest.0, "POST", "/v1/images", &[], &data).status, 201);
    assert_problem(&http::request(rest.0, "POST", "/v1/images", &[], &data), 429, "QUOTA_EXCEEDED");
    let usage = rest.call("GET", &format!("/v1/usage?tenant={tenant}")).json();
    assert_eq!((&usage["images"], &usage["bytes"]), (&json!("1"), &json!("65536")));
    assert_eq!(rest.json("PUT", "/v1/quotas", &json!({})).status, 204);
    assert_eq!(rest.json("PUT", &format!("/v1/quotas/{tenant}"), &json!({})).status, 200);
    assert_eq!(http::request(rest.0, "POST", "/v1/images", &[], &data).status, 201);
}

/// Bytes that are refused are taken to their end all the same: the answer comes to clients that send all before they look.
#[test]
fn a_refusal_is_told_to_whoever_is_still_sending() {
    let service = Service::start();
    let rest = Rest(service.http());
    let image = fixtures::with_backing_file(64 << 20);
    let form = |before: &str| {
        let head = "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.img\"\r\n\r\n";
        [before.as_bytes(), head.as_bytes(), &image, b"\r\n--X--\r\n"].concat()
    };
    let unknown = "--X\r\nContent-Disposition: form-data; name=\"colour\"\r\n\r\nred\r\n";
    let (multipart, plain) = ("multipart/form-data; boundary=X", "application/octet-stream");
    for (path, content_type, body, status, reason) in [
        ("/v1/images", multipart, form(""), 422, "UNSAFE_BACKING_FILE"),
        ("/v1/images", multipart, form(unknown), 400, "INVALID_ARGUMENT"),
        ("/v1/images", "multipart/form-data", form(""), 400, "MALFORMED_FORM"),
        ("/v1/images?colour=red", multipart, form(""), 400, "INVALID_ARGUMENT"),
        ("/v1/images", plain, image.clone(), 422, "UNSAFE_BACKING_FILE"),
        ("/v1/images?format=floppy", plain, image.clone(), 400, "INVALID_ARGUMENT"),
        ("/v1/images", "text/plain", image.clone(), 415, "UNSUPPORTED_MEDIA_TYPE"),
    ] {
        let refused = http::send_whole(rest.0, "POST", path, &[("content-type", content_type)], &body);
        assert_problem(&refused, status, reason);
    }
    let part = http::send_whole(rest.0, "PUT", "/v1/sessions/s/parts/0", &[], &image);
    assert_problem(&part, 400, "INVALID_ARGUMENT");
}

/// A range is not the whole, and a coded body not the image: stored as if they were, nobody would notice.
#[test]
fn what_a_head_says_of_its_body_is_heeded() {
    let service = Service::start();
    let rest = Rest(service.http());
    let image = fixtures::raw("a body");
    let plain = ("content-type", "application/octet-stream");
    let send = |header| http::send_whole(rest.0, "POST", "/v1/images", &[plain, header], &image);
    assert_problem(&send(("content-range", "bytes 0-9/100")), 400, "INVALID_ARGUMENT");
    assert_problem(&send(("content-encoding", "gzip")), 415, "UNSUPPORTED_MEDIA_TYPE");
    assert_problem(&send(("host", "another")), 400, "INVALID_ARGUMENT");
    let legacy =
        http::send_whole(rest.0, "POST", "/image-management/v1/images", &[("content-encoding", "br")], b"x");
    assert_eq!(legacy.status, 415, "{}", legacy.text());
    assert!(service.image_names().is_empty());
    assert_eq!(send(("content-encoding", "identity")).status, 201);
    let nothing = http::request(rest.0, "GET", "/v1/images", &[("content-encoding", "gzip")], &[]);
    assert_eq!(nothing.status, 200, "there is no body to be coded");

    for (head, status) in [
        ("transfer-encoding: gzip, chunked\r\nhost: x\r\n", "501"),
        ("transfer-encoding: chunked\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(rest.0).unwrap();
        let head = format!("POST /v1/images HTTP/1.1\r\nconnection: close\r\n{head}\r\n0\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// An upload that nobody can go on with leaves nothing: neither bytes nor a hold on the quota.
#[tokio::test(flavor = "multi_thread")]
async fn what_broke_without_a_name_is_given_up() {
    let service = Service::start();
    let client = service.client();
    let begin = |query: &str| {
        let mut stream = TcpStream::connect(service.http()).unwrap();
        let head = format!(
            "POST /v1/images{query} HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
             content-length: 4000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![7; 2_000_000]).unwrap();
        stream
    };
    let used = async || {
        let usage = client.images().get_usage(GetUsageRequest::default()).await.unwrap();
        usage.into_inner().usage.unwrap().reserved_bytes
    };
    let (nameless, id) = (begin(""), uuid::Uuid::new_v4());
    let named = begin(&format!("?request_id={id}"));
    eventually("two uploads", || async { (used().await == 8_000_000).then_some(()) }).await;
    drop((nameless, named));
    eventually("one upload", || async {
        (used().await == 4_000_000 && service.staged() == [id.to_string()]).then_some(())
    })
    .await;
}
