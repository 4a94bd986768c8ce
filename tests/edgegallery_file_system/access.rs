//! Keys and tenants: with `--auth token` the service is as closed as the others.

use crate::support::file_system::{BASE, FileSystem, assert_refused, id_of};
use crate::support::http::{self, Answer};
use crate::support::{Service, fixtures};

fn make_key(service: &Service, scopes: &str, tenant: &str) -> String {
    format!("Bearer {}", service.make_key(scopes, Some(tenant)))
}

fn form(field: &str, file_name: &str, session: &str, data: &[u8]) -> Vec<u8> {
    let head = format!(
        "--X\r\nContent-Disposition: form-data; name=\"identifier\"\r\n\r\n{session}\r\n--X\r\nContent-Disposition: \
         form-data; name=\"filename\"\r\n\r\nm.img\r\n--X\r\nContent-Disposition: form-data; name=\"{field}\"; \
         filename=\"{file_name}\"\r\n\r\n"
    );
    [head.as_bytes(), data, b"\r\n--X--\r\n"].concat()
}

fn call(service: &Service, key: Option<&str>, method: &str, path: &str, body: &[u8]) -> Answer {
    let mut headers = vec![("content-type", "multipart/form-data; boundary=X")];
    headers.extend(key.map(|key| ("authorization", key)));
    http::request(service.http(), method, &format!("{BASE}{path}"), &headers, body)
}

const ID: &str = "/94d6e70d-51f7-4b0d-965f-59dca2c3002c";

#[test]
fn callers_without_a_right_get_no_literal_of_the_service() {
    let service = Service::start_with(&["--auth", "token"]);
    let upload = form("file", "disk.img", "s", b"bytes");
    let chunk = form("part", "1.part", "s", b"bytes");
    let calls = [
        ("POST", String::new(), &upload, "write"),
        ("GET", String::new(), &upload, "read"),
        ("POST", "/upload".to_owned(), &chunk, "write"),
        ("DELETE", "/upload".to_owned(), &chunk, "write"),
        ("POST", "/merge".to_owned(), &chunk, "write"),
        ("GET", ID.to_owned(), &upload, "read"),
        ("DELETE", ID.to_owned(), &upload, "delete"),
        ("GET", format!("{ID}/action/download"), &upload, "read"),
    ];
    for (method, path, body, scope) in &calls {
        let unknown = call(&service, None, method, path, body);
        assert_refused(&unknown, 401, "Unauthorized");
        assert_eq!(unknown.header("www-authenticate"), Some("Bearer"));
        for other in ["read", "write", "delete"].iter().filter(|other| *other != scope) {
            let key = make_key(&service, other, "t");
            assert_refused(&call(&service, Some(&key), method, path, body), 403, "Forbidden");
        }
        let key = make_key(&service, scope, "t");
        let allowed = call(&service, Some(&key), method, path, body);
        assert!(![401, 403].contains(&allowed.status), "{method} {path}: {}", allowed.status);
    }
    // Signs of life ask for no key.
    assert_eq!(call(&service, None, "GET", "/upload", &[]).status, 200);
}

/// SEC-29: the images and sessions of another tenant answer like ones that are not there.
#[test]
fn sec_29_tenants_see_nothing_of_each_other() {
    let service = Service::start_with(&["--auth", "token"]);
    let fs = FileSystem(service.http());
    let (one, other) =
        (make_key(&service, "read,write,delete", "one"), make_key(&service, "read,write,delete", "other"));
    let data = fixtures::raw("tenants");
    let uploaded = call(&service, Some(&one), "POST", "", &form("file", "disk.img", "s", &data));
    assert_eq!(uploaded.status, 200, "{}", uploaded.text());
    let id = format!("/{}", id_of(&uploaded.json()));
    let chunk = call(&service, Some(&one), "POST", "/upload", &form("part", "1.part", "s", &data));
    assert_eq!(chunk.status, 200, "{}", chunk.text());

    assert_eq!(call(&service, Some(&other), "GET", "", &[]).text(), "[]");
    for (method, path) in [("GET", ""), ("GET", "/action/download"), ("POST", "/action/slim"), ("DELETE", "")]
    {
        let theirs = call(&service, Some(&other), method, &format!("{id}{path}"), &[]);
        let nobodys = call(&service, Some(&other), method, &format!("{ID}{path}"), &[]);
        let text = theirs.text().replace(&id[1..], &ID[1..]);
        assert_eq!((theirs.status, text.as_str()), (nobodys.status, nobodys.text()), "{method} {path}");
    }
    let merged = call(&service, Some(&other), "POST", "/merge", &form("x", "x", "s", b"x"));
    assert_refused(&merged, 500, "fail to find the file path");
    assert_eq!(call(&service, Some(&other), "DELETE", "/upload", &form("x", "x", "s", b"x")).status, 200);

    let download = http::request(
        fs.0,
        "GET",
        &format!("{BASE}{id}/action/download"),
        &[("authorization", one.as_str())],
        &[],
    );
    assert!(download.status == 200 && download.body == data, "their delete did nothing");
    let merged = call(&service, Some(&one), "POST", "/merge", &form("x", "x", "s", b"x"));
    assert_eq!(merged.status, 200, "their cancel did nothing: {}", merged.text());
}

/// Who may not write makes the service keep nothing, also where it would have to wait for the end of a form.
#[tokio::test(flavor = "multi_thread")]
async fn sec_37_no_byte_is_kept_for_a_stranger() {
    use std::io::{Read as _, Write as _};
    let service = Service::start_with(&["--auth", "token"]);
    let head = "--X\r\ncontent-disposition: form-data; name=\"part\"; filename=\"1.part\"\r\n\r\n";
    let requests = [
        format!(
            "POST /image-management/v1/images/upload HTTP/1.1\r\nhost: x\r\n\
             content-type: multipart/form-data; boundary=X\r\ncontent-length: 1000000000\r\n\r\n{head}"
        ),
        "POST /v1/uploads HTTP/1.1\r\nhost: x\r\ntus-resumable: 1.0.0\r\nupload-length: 1000000000\r\n\
         content-type: application/offset+octet-stream\r\ncontent-length: 1000000000\r\n\
         upload-checksum: sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=\r\n\r\n"
            .to_owned(),
    ];
    for request in requests {
        let mut stream = std::net::TcpStream::connect(service.http()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        // The answer comes although most of the bytes do not; it may come before these.
        let _ = stream.write_all(&vec![0; 4 << 20]);
        let mut answer = [0; 12];
        stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401");
    }
}
