//! The rules of tus 1.0.0, one test for each: the core protocol and the extensions that are spoken here.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::process::Command;

use serde_json::json;

use support::http::{self, Answer};
use support::images::have;
use support::random::Random;
use support::upload::{Stream, digests};
use support::{Service, fixtures};

const VERSION: (&str, &str) = ("tus-resumable", "1.0.0");
const DEFERRED: (&str, &str) = ("upload-defer-length", "1");
const BYTES: (&str, &str) = ("content-type", "application/offset+octet-stream");

struct Tus(SocketAddr);

impl Tus {
    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        http::request(self.0, method, path, headers, body)
    }

    /// Creates an upload and answers where it is.
    #[track_caller]
    fn create(&self, length: usize, headers: &[(&str, &str)]) -> String {
        let length = length.to_string();
        let headers = [&[VERSION, ("upload-length", &length)], headers].concat();
        let answer = self.request("POST", "/v1/uploads", &headers, &[]);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.header("location").unwrap().to_owned()
    }

    fn patch(&self, upload: &str, offset: usize, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let offset = offset.to_string();
        let headers = [&[VERSION, BYTES, ("upload-offset", &offset)], headers].concat();
        self.request("PATCH", upload, &headers, body)
    }

    /// A request whose body comes in pieces of these lengths, and tells none beforehand.
    fn chunked(&self, method: &str, path: &str, headers: &str, body: &[u8], pieces: &[usize]) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.0).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTus-Resumable: 1.0.0\r\n{headers}\
             Content-Type: application/offset+octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut rest = body;
        for &length in pieces {
            let (piece, behind) = rest.split_at(length);
            stream.write_all(format!("{length:x}\r\n").as_bytes()).unwrap();
            stream.write_all(piece).unwrap();
            stream.write_all(b"\r\n").unwrap();
            rest = behind;
        }
        assert!(rest.is_empty());
        stream.write_all(b"0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn head(&self, upload: &str) -> Answer {
        self.request("HEAD", upload, &[VERSION], &[])
    }

    #[track_caller]
    fn assert_offset(&self, upload: &str, offset: usize) {
        let answer = self.head(upload);
        assert_eq!((answer.status, answer.header("upload-offset")), (200, Some(&*offset.to_string())));
    }
}

/// A digest as `Upload-Checksum` has it.
fn base64_of(hex_digest: &str) -> String {
    let output = Command::new("python3")
        .args([
            "-c",
            "import base64,sys; print(base64.b64encode(bytes.fromhex(sys.argv[1])).decode())",
            hex_digest,
        ])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// HEAD tells the offset, the length and the metadata, and is never cached.
#[test]
fn core_head() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(1000, &[("upload-metadata", "filename d29ybGQuaW1n")]);
    for offset in [0, 600] {
        if offset > 0 {
            assert_eq!(tus.patch(&upload, 0, &[], &[7; 600]).status, 204);
        }
        let answer = tus.head(&upload);
        assert_eq!(answer.status, 200);
        for (name, value) in [
            ("upload-offset", &*offset.to_string()),
            ("upload-length", "1000"),
            ("cache-control", "no-store"),
            ("tus-resumable", "1.0.0"),
            ("upload-metadata", "filename d29ybGQuaW1n"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
    }
    // What is not there has no offset.
    let unknown = tus.head("/v1/uploads/00000000-0000-4000-8000-000000000000");
    assert_eq!((unknown.status, unknown.header("upload-offset")), (404, None));
    assert_eq!(unknown.header("cache-control"), Some("no-store"));
}

/// PATCH goes on where the upload stands, and answers 204 with the new offset.
#[test]
fn core_patch() {
    let service = Service::start();
    let tus = Tus(service.http());
    let data = fixtures::raw("tus patch");
    let upload = tus.create(data.len(), &[]);
    let mut offset = 0;
    for piece in data.chunks(20_000) {
        let answer = tus.patch(&upload, offset, &[], piece);
        offset += piece.len();
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!(answer.header("upload-offset"), Some(&*offset.to_string()));
        assert_eq!(answer.header("tus-resumable"), Some("1.0.0"));
    }
    let image = tus.head(&upload).header("imageops-image").unwrap().to_owned();
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body, data);
    // A client that lost the last answer says it again without bytes.
    let again = tus.patch(&upload, data.len(), &[], &[]);
    assert_eq!((again.status, again.header("imageops-image")), (204, Some(&*image)));
}

#[test]
fn core_patch_at_another_offset_is_409_and_changes_nothing() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(1000, &[]);
    assert_eq!(tus.patch(&upload, 0, &[], &[7; 10]).status, 204);
    for offset in [0, 9, 11, 1000] {
        let answer = tus.patch(&upload, offset, &[], &[8; 10]);
        assert_eq!((answer.status, answer.header("upload-offset")), (409, Some("10")), "{offset}");
        assert_eq!(answer.json()["reason"], "WRONG_OFFSET");
    }
    tus.assert_offset(&upload, 10);
}

#[test]
fn core_patch_of_another_type_is_415() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(1000, &[]);
    for content_type in ["application/octet-stream", "text/plain", ""] {
        let headers = [VERSION, ("upload-offset", "0"), ("content-type", content_type)];
        assert_eq!(tus.request("PATCH", &upload, &headers, b"x").status, 415, "{content_type}");
    }
    tus.assert_offset(&upload, 0);
}

#[test]
fn core_patch_of_what_is_not_there_is_404() {
    let service = Service::start();
    let tus = Tus(service.http());
    for upload in ["/v1/uploads/00000000-0000-4000-8000-000000000000", "/v1/uploads/x"] {
        assert_eq!(tus.patch(upload, 0, &[], b"x").status, 404);
    }
}

#[test]
fn core_offsets_and_lengths_are_numbers_of_bytes() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(1000, &[]);
    for offset in ["", "-1", "+1", "1.0", "0x1", "one", "99999999999999999999"] {
        let headers = [VERSION, BYTES, ("upload-offset", offset)];
        assert_eq!(tus.request("PATCH", &upload, &headers, b"x").status, 400, "{offset}");
        let headers = [VERSION, ("upload-length", offset)];
        assert_eq!(tus.request("POST", "/v1/uploads", &headers, &[]).status, 400, "{offset}");
    }
    assert_eq!(tus.request("PATCH", &upload, &[VERSION, BYTES], b"x").status, 400);
    let past = tus.patch(&upload, 0, &[], &[7; 1001]);
    assert_eq!((past.status, &past.json()["reason"]), (413, &json!("SIZE_MISMATCH")));
}

/// A body whose length is not told may have bytes past the end of the upload: it is refused, and the upload goes on.
#[test]
fn core_patch_past_the_end_is_413_and_ends_nothing() {
    let service = Service::start();
    let tus = Tus(service.http());
    let data = Random::new("tus past the end").bytes(3 << 20);
    // With one byte too many, and with much: whole pieces of what is kept, and what the server would take for the end.
    for (surplus, sent) in
        [(1, vec![data.len() + 1]), (5, vec![data.len(), 5]), (4 << 20, vec![2 << 20, 5 << 20])]
    {
        let upload = tus.create(data.len(), &[]);
        let mut body = data.clone();
        body.resize(data.len() + surplus, 7);
        let answer = tus.chunked("PATCH", &upload, "Upload-Offset: 0\r\n", &body, &sent);
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("SIZE_MISMATCH"), "{answer}");

        let head = tus.head(&upload);
        assert_eq!((head.status, head.header("imageops-image")), (200, None));
        let offset: usize = head.header("upload-offset").unwrap().parse().unwrap();
        assert!(offset < data.len(), "what came with too much never makes the upload whole");
        let whole = tus.patch(&upload, offset, &[], &data[offset..]);
        assert_eq!(whole.status, 204, "{}", whole.text());
        let image = whole.header("imageops-image").unwrap();
        assert!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body == data);
    }
}

/// A creation that is refused for its bytes told nobody where the upload is: it leaves none, unless its client has named it.
#[test]
fn creation_with_bytes_past_the_end_leaves_nothing() {
    let service = Service::start();
    let tus = Tus(service.http());
    let data = Random::new("tus created past the end").bytes(2 << 20);
    let create = |headers: &str| {
        let headers = format!("Upload-Length: {}\r\n{headers}", data.len() - 1);
        let answer = tus.chunked("POST", "/v1/uploads", &headers, &data, &[1 << 20, 1 << 20]);
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    };
    create("");
    assert_eq!(tus.request("GET", "/v1/uploads?state=open", &[], &[]).json(), json!({}));
    assert_eq!(service.staged(), [""; 0]);
    let id = uuid::Uuid::new_v4();
    create(&format!("Idempotency-Key: {id}\r\n"));
    let upload = format!("/v1/uploads/{id}");
    let offset: usize = tus.head(&upload).header("upload-offset").unwrap().parse().unwrap();
    assert_eq!(tus.patch(&upload, offset, &[], &data[offset..data.len() - 1]).status, 204);
}

/// Whoever may only read is told the offset, and makes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn core_head_with_a_key_that_only_reads_makes_no_image() {
    let service = Service::start_with(&["--auth", "token"]);
    let key = |scopes: &str| format!("Bearer {}", service.make_key(scopes, None));
    let (reader, writer) = (key("read"), key("read,write"));
    let tus = Tus(service.http());
    let data = fixtures::raw("tus whole");
    let upload = tus.create(data.len(), &[("authorization", &writer)]);
    // All the bytes, and no commit: as when the server went down between the two.
    let client = service.client_with_key(writer.trim_start_matches("Bearer "));
    let name = upload.trim_start_matches("/v1/");
    let stream = Stream::resume(&client, name, 0).await;
    assert!(stream.chunks(0, &data).await);
    stream.close().await.unwrap();

    let head = |key: &str| tus.request("HEAD", &upload, &[VERSION, ("authorization", key)], &[]);
    for _ in 0..2 {
        let answer = head(&reader);
        assert_eq!((answer.status, answer.header("imageops-image")), (200, None));
        assert_eq!(answer.header("upload-offset"), Some(&*data.len().to_string()));
    }
    let answer = head(&writer);
    let image = answer.header("imageops-image").unwrap();
    assert_eq!(head(&reader).header("imageops-image"), Some(image));
    let content = [("authorization", &*reader)];
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &content, &[]).body, data);
}

/// OPTIONS tells versions, extensions and checksums, and needs no version itself.
#[test]
fn core_options() {
    let service = Service::start();
    let tus = Tus(service.http());
    let answer = tus.request("OPTIONS", "/v1/uploads", &[], &[]);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("tus-version"), Some("1.0.0"));
    let extensions = "checksum,creation,creation-defer-length,creation-with-upload,expiration,termination";
    assert_eq!(answer.header("tus-extension"), Some(extensions));
    assert_eq!(answer.header("tus-checksum-algorithm"), Some("sha1,md5,sha256,crc32c"));
    assert_eq!(tus.request("OPTIONS", "/v1/uploads", &[("tus-resumable", "0.2.2")], &[]).status, 204);
}

/// Another version is 412, tells the right one, and does nothing.
#[test]
fn core_versions() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(1000, &[]);
    for version in [&[("tus-resumable", "0.2.2")][..], &[]] {
        let patch = [&[BYTES, ("upload-offset", "0")], version].concat();
        let create = [&[("upload-length", "5")], version].concat();
        for answer in
            [tus.request("PATCH", &upload, &patch, b"x"), tus.request("POST", "/v1/uploads", &create, &[])]
        {
            assert_eq!((answer.status, answer.header("tus-version")), (412, Some("1.0.0")));
            assert_eq!(answer.header("tus-resumable"), Some("1.0.0"));
        }
    }
    for method in ["HEAD", "DELETE"] {
        assert_eq!(tus.request(method, &upload, &[("tus-resumable", "0.2.2")], &[]).status, 412, "{method}");
    }
    tus.assert_offset(&upload, 0);
}

/// POST with X-HTTP-Method-Override is the method that it names.
#[test]
fn core_method_override() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(10, &[]);
    let with = |method| [VERSION, BYTES, ("upload-offset", "0"), ("x-http-method-override", method)];
    assert_eq!(tus.request("POST", &upload, &with("PATCH"), &[7; 4]).status, 204);
    let head = tus.request("POST", &upload, &with("HEAD"), &[]);
    assert_eq!(head.header("upload-offset"), Some("4"));
    assert_eq!(tus.request("POST", &upload, &with("PUT"), &[]).status, 405);
    assert_eq!(tus.request("POST", &upload, &with("DELETE"), &[]).status, 204);
    assert_eq!(tus.head(&upload).status, 410);
}

/// A request that breaks off leaves what came, and the upload goes on behind it.
#[test]
fn core_interrupted_requests_lose_nothing() {
    use std::io::Write as _;
    let service = Service::start();
    let tus = Tus(service.http());
    let data = fixtures::raw("tus interrupted");
    let upload = tus.create(data.len(), &[]);
    let mut stream = std::net::TcpStream::connect(tus.0).unwrap();
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {}\r\n\r\n",
        data.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&data[..30_000]).unwrap();
    drop(stream);
    let deadline = std::time::Instant::now() + support::DEADLINE;
    let offset = loop {
        let offset: usize = tus.head(&upload).header("upload-offset").unwrap().parse().unwrap();
        if offset > 0 {
            break offset;
        }
        assert!(std::time::Instant::now() < deadline, "nothing became durable");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let rest = tus.patch(&upload, offset, &[], &data[offset..]);
    assert_eq!(rest.status, 204, "{}", rest.text());
    let image = rest.header("imageops-image").unwrap();
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body, data);
}

#[test]
fn creation() {
    let service = Service::start();
    let tus = Tus(service.http());
    let metadata = ("upload-metadata", "filename d29ybGQuaW1n,is_confidential,filetype aW1hZ2U=");
    let answer = tus.request("POST", "/v1/uploads", &[VERSION, ("upload-length", "11"), metadata], &[]);
    assert_eq!((answer.status, answer.header("tus-resumable")), (201, Some("1.0.0")));
    let upload = answer.header("location").unwrap();
    assert!(upload.starts_with("/v1/uploads/"), "{upload}");
    tus.assert_offset(upload, 0);
    let patched = tus.patch(upload, 0, &[], b"hello world");
    let image = format!("/v1/{}", patched.header("imageops-image").unwrap());
    assert_eq!(tus.request("GET", &image, &[], &[]).json()["displayName"], "world.img");

    for headers in [
        &[VERSION][..],
        &[VERSION, ("upload-defer-length", "0")],
        &[VERSION, ("upload-defer-length", "1"), ("upload-length", "5")],
        &[VERSION, ("upload-length", "0")],
        &[VERSION, ("upload-length", "5"), ("upload-metadata", "filename !")],
        &[VERSION, ("upload-length", "5"), ("upload-metadata", "a YQ==,a YQ==")],
        // An extension that OPTIONS does not tell of.
        &[VERSION, ("upload-length", "5"), ("upload-concat", "partial")],
        &[VERSION, ("upload-concat", "final;/v1/uploads/a /v1/uploads/b")],
    ] {
        assert_eq!(tus.request("POST", "/v1/uploads", headers, &[]).status, 400, "{headers:?}");
    }
    let small = Service::start_with(&["--upload-max-bytes", "1000"]);
    let large = [VERSION, ("upload-length", "1001")];
    assert_eq!(http::request(small.http(), "POST", "/v1/uploads", &large, &[]).status, 413);
}

/// The length comes with any later request, once; until then HEAD says that it does not know it.
#[test]
fn creation_defer_length() {
    let service = Service::start();
    let tus = Tus(service.http());
    let data = fixtures::raw("tus deferred");
    let length = data.len().to_string();
    let told = ("upload-length", &*length);
    let begin = || {
        let created = tus.request("POST", "/v1/uploads", &[VERSION, DEFERRED], &[]);
        assert_eq!(created.status, 201, "{}", created.text());
        created.header("location").unwrap().to_owned()
    };
    let known = |upload: &str| {
        let answer = tus.head(upload);
        assert_eq!(answer.status, 200);
        ["upload-length", "upload-defer-length"].map(|name| answer.header(name).map(str::to_owned))
    };
    let (deferred, tells) = ([None, Some("1".to_owned())], [Some(length.clone()), None]);

    let upload = begin();
    assert_eq!(known(&upload), deferred);
    assert_eq!(tus.patch(&upload, 0, &[], &data[..1_000]).status, 204);
    assert_eq!(known(&upload), deferred);
    // Fewer than there are, none, and what is no number: nothing is taken.
    for bad in ["999", "0", "-1", "", "1e9"] {
        assert_eq!(tus.patch(&upload, 1_000, &[("upload-length", bad)], b"x").status, 400, "{bad}");
    }
    let past = tus.patch(&upload, 1_000, &[("upload-length", "1001")], &data[1_000..1_002]);
    assert_eq!((past.status, known(&upload)), (413, deferred.clone()));
    let elsewhere = tus.patch(&upload, 5, &[told], b"x");
    assert_eq!((elsewhere.status, known(&upload)), (409, deferred));
    tus.assert_offset(&upload, 1_000);

    assert_eq!(tus.patch(&upload, 1_000, &[told], &data[1_000..2_000]).status, 204);
    assert_eq!(known(&upload), tells);
    let other = (data.len() + 1).to_string();
    assert_eq!(tus.patch(&upload, 2_000, &[("upload-length", &*other)], b"x").status, 400);
    assert_eq!(known(&upload), tells);
    let mut service = service;
    service.restart();
    let tus = Tus(service.http());
    // Who says it again says nothing new.
    let whole = tus.patch(&upload, 2_000, &[told], &data[2_000..]);
    assert_eq!((whole.status, whole.header("upload-offset")), (204, Some(&*length)));
    let image = whole.header("imageops-image").unwrap().to_owned();
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body, data);
    let again = tus.patch(&upload, data.len(), &[told], &[]);
    assert_eq!((again.status, again.header("imageops-image")), (204, Some(&*image)));
}

/// A client that learns of the end behind the last byte tells the length without one.
#[test]
fn creation_defer_length_ends_without_bytes() {
    let service = Service::start();
    let tus = Tus(service.http());
    let data = fixtures::raw("tus deferred, in one go");
    let created = tus.request("POST", "/v1/uploads", &[VERSION, BYTES, DEFERRED], &data);
    let length = data.len().to_string();
    assert_eq!((created.status, created.header("upload-offset")), (201, Some(&*length)));
    assert_eq!(created.header("imageops-image"), None);
    let upload = created.header("location").unwrap();
    let ended = tus.patch(upload, data.len(), &[("upload-length", &length)], &[]);
    assert_eq!(ended.status, 204, "{}", ended.text());
    let image = ended.header("imageops-image").unwrap();
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body, data);

    let small = Service::start_with(&["--upload-max-bytes", "1000"]);
    let tus = Tus(small.http());
    let created = tus.request("POST", "/v1/uploads", &[VERSION, BYTES, DEFERRED], b"hello");
    let upload = created.header("location").unwrap();
    assert_eq!(tus.patch(upload, 5, &[("upload-length", "1001")], b"x").status, 413);
    tus.assert_offset(upload, 5);
}

#[test]
fn creation_with_upload() {
    let service = Service::start();
    let tus = Tus(service.http());
    let answer = tus.request("POST", "/v1/uploads", &[VERSION, BYTES, ("upload-length", "11")], b"hello");
    assert_eq!((answer.status, answer.header("upload-offset")), (201, Some("5")));
    let upload = answer.header("location").unwrap();
    assert_eq!(tus.patch(upload, 5, &[], b" world").status, 204);

    let whole = tus.request("POST", "/v1/uploads", &[VERSION, BYTES, ("upload-length", "5")], b"hello");
    assert_eq!((whole.status, whole.header("upload-offset")), (201, Some("5")));
    let image = whole.header("imageops-image").unwrap();
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body, b"hello");

    let other = [VERSION, ("content-type", "text/plain"), ("upload-length", "5")];
    assert_eq!(tus.request("POST", "/v1/uploads", &other, b"hello").status, 415);
    let past = tus.request("POST", "/v1/uploads", &[VERSION, BYTES, ("upload-length", "4")], b"hello");
    assert_eq!(past.status, 413);
}

#[test]
fn expiration() {
    let service = Service::start();
    let tus = Tus(service.http());
    let created = tus.request("POST", "/v1/uploads", &[VERSION, ("upload-length", "11")], &[]);
    let upload = created.header("location").unwrap();
    let patched = tus.patch(upload, 0, &[], b"hello");
    for answer in [&created, &patched, &tus.head(upload)] {
        let expires = answer.header("upload-expires").unwrap();
        assert!(expires.ends_with(" GMT") && expires.len() == 29, "{expires}");
    }
}

#[test]
fn termination() {
    let service = Service::start();
    let tus = Tus(service.http());
    let upload = tus.create(1000, &[]);
    assert_eq!(tus.patch(&upload, 0, &[], &[7; 600]).status, 204);
    let answer = tus.request("DELETE", &upload, &[VERSION], &[]);
    assert_eq!((answer.status, answer.header("tus-resumable")), (204, Some("1.0.0")));
    assert_eq!(service.staged(), [""; 0], "its bytes are gone");
    // For all who come later it is gone.
    assert_eq!(tus.head(&upload).status, 410);
    assert_eq!(tus.patch(&upload, 600, &[], &[7; 400]).status, 410);
    assert_eq!(tus.request("DELETE", &upload, &[VERSION], &[]).status, 410);
    let unknown = "/v1/uploads/00000000-0000-4000-8000-000000000000";
    assert_eq!(tus.request("DELETE", unknown, &[VERSION], &[]).status, 404);
}

#[test]
fn checksum() {
    if !have("python3") {
        return;
    }
    let service = Service::start();
    let tus = Tus(service.http());
    let data = fixtures::raw("tus checksum");
    let (first, second) = data.split_at(40_000);
    let upload = tus.create(data.len(), &[]);
    let right = digests(first);
    let wrong = format!("sha256 {}", base64_of(&right.sha256));
    let mismatch = tus.patch(&upload, 0, &[("upload-checksum", &wrong)], second);
    assert_eq!((mismatch.status, &mismatch.json()["reason"]), (460, &json!("UPLOAD_CHECKSUM")));
    assert_eq!(mismatch.header("tus-resumable"), Some("1.0.0"));
    tus.assert_offset(&upload, 0);
    for bad in ["sha512 AAAA", "sha256", "sha256 !", "sha1 AAAA"] {
        assert_eq!(tus.patch(&upload, 0, &[("upload-checksum", bad)], first).status, 400, "{bad}");
    }
    let kept = tus.patch(&upload, 0, &[("upload-checksum", &wrong)], first);
    assert_eq!((kept.status, kept.header("upload-offset")), (204, Some("40000")));
    let md5 = format!("md5 {}", base64_of(&digests(second).md5));
    let whole = tus.patch(&upload, 40_000, &[("upload-checksum", &md5)], second);
    assert_eq!(whole.status, 204, "{}", whole.text());
    let image = whole.header("imageops-image").unwrap();
    assert_eq!(tus.request("GET", &format!("/v1/{image}/content"), &[], &[]).body, data);

    // The same with the creation: nothing is begun with bytes that are wrong.
    let length = data.len().to_string();
    let create = [VERSION, BYTES, ("upload-length", &*length), ("upload-checksum", &*md5)];
    assert_eq!(tus.request("POST", "/v1/uploads", &create, first).status, 460);
    assert_eq!(tus.request("GET", "/v1/uploads?state=open", &[], &[]).json(), json!({}));
    let created = tus.request("POST", "/v1/uploads", &create, second);
    assert_eq!((created.status, created.header("upload-offset")), (201, Some(&*second.len().to_string())));
    let crc = format!("crc32c {}", base64_of(&format!("{:08x}", crc32c::crc32c(first))));
    let location = created.header("location").unwrap();
    assert_eq!(tus.patch(location, second.len(), &[("upload-checksum", &crc)], first).status, 204);
    let names = support::names_in(service.data_dir());
    assert!(!names.iter().any(|name| name.starts_with(".tmp")), "{names:?}");
}

/// Bytes that are refused while they come are refused by an answer, not by a broken connection.
#[test]
fn a_refusal_in_the_middle_is_told() {
    let service = Service::start();
    let tus = Tus(service.http());
    let image = fixtures::with_backing_file(64 << 20);
    let length = image.len().to_string();
    let create = [VERSION, BYTES, ("upload-length", &*length)];
    let refused = http::send_whole(tus.0, "POST", "/v1/uploads", &create, &image);
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (422, Some("UNSAFE_BACKING_FILE")));
    let upload = tus.create(image.len(), &[]);
    let patch = [VERSION, BYTES, ("upload-offset", "0")];
    // The last one is refused before a byte of it is looked at.
    for (status, reason) in [(422, "UNSAFE_BACKING_FILE"), (410, "UNSAFE_BACKING_FILE")] {
        let refused = http::send_whole(tus.0, "PATCH", &upload, &patch, &image);
        assert_eq!((refused.status, refused.json()["reason"].as_str()), (status, Some(reason)));
    }
    assert_eq!(tus.head(&upload).status, 410);
    assert_eq!(service.staged(), [""; 0]);
}
