//! What the EdgeGallery file-system service refuses without asking anyone.

use imageops_gateway::GatewayConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Answer, Gateway, start};

const FS: &str = "/image-management/v1/images";
const ZERO: &str = "00000000-0000-0000-0000-000000000000";
const FORM: &str = "Content-Type: multipart/form-data; boundary=X\r\n";

/// A form of text fields, and files where a name stands in front: `name:field`.
fn form(fields: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| match name.split_once(':') {
        Some((file, name)) => {
            format!(
                "--X\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{file}\"\r\n\r\n{value}\r\n"
            )
        }
        None => format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"),
    };
    fields.iter().map(part).collect::<String>() + "--X--\r\n"
}

async fn send(gateway: &Gateway, method: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    gateway.ask(method, &format!("{FS}{path}"), FORM, &form(fields)).await
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, literal: &str) {
    assert_eq!((answer.status, answer.body.as_str()), (status, &*format!("\"{literal}\"")));
    assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
}

#[tokio::test]
async fn uploads_need_a_file_with_a_name_that_can_be() {
    let gateway = start(GatewayConfig::default()).await;
    let no_file = "Upload package file error";
    for fields in
        [&[("userId", "u1")][..], &[("file", "disk.img")], &[(":file", "x")], &[("a.img:other", "x")]]
    {
        assert_refused(&send(&gateway, "POST", "", fields).await, 400, no_file);
    }
    for (headers, body) in [("", ""), (FORM, "rubbish"), ("Content-Type: application/json\r\n", "{}")] {
        assert_refused(&gateway.ask("POST", FS, headers, body).await, 400, no_file);
    }
    let bad_name = "File shouldn't contains any extension or filename is larger than max size";
    let long = format!("{}.img:file", "n".repeat(125));
    for name in ["disk.vmdk:file", "disk:file", "disk.QCOW2:file", ".zip:file", "..zip:file", &long] {
        assert_refused(&send(&gateway, "POST", "", &[(name, "x")]).await, 400, bad_name);
    }
    let refused = "fail to upload package";
    for priority in ["A", "B"] {
        let fields = [("priority", priority), ("disk.img:file", "x")];
        assert_refused(&send(&gateway, "POST", "", &fields).await, 500, refused);
        let query = format!("?priority={priority}");
        assert_refused(&send(&gateway, "POST", &query, &[("disk.img:file", "x")]).await, 500, refused);
    }
    // Without a server nothing can be kept.
    assert_refused(&send(&gateway, "POST", "", &[("disk.img:file", "x")]).await, 500, refused);
}

#[tokio::test]
async fn images_of_500_gib_are_refused_before_they_come() {
    let gateway = start(GatewayConfig::default()).await;
    let head = format!("POST {FS} HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: 600000000000\r\n\r\n");
    let part = "--X\r\nContent-Disposition: form-data; name=file; filename=a.img\r\n\r\nbytes";
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all((head + part).as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.ends_with("\"File size is larger than max size\""), "{answer}");
}

/// Most clients look for an answer when they have sent all.
#[tokio::test]
async fn a_refused_client_may_send_its_file_to_the_end() {
    let gateway = start(GatewayConfig::default()).await;
    let file = "x".repeat(16 << 20);
    let answer = send(&gateway, "POST", "", &[("disk.vmdk:file", &file)]).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    let answer = send(&gateway, "POST", "/upload", &[("one.part:part", &file)]).await;
    assert_refused(&answer, 400, "Upload package file error");
}

#[tokio::test]
async fn sec_25_chunks_and_sessions_are_named_strictly() {
    let gateway = start(GatewayConfig::default()).await;
    let nothing = "Upload package file error";
    assert_refused(&send(&gateway, "POST", "/upload", &[("identifier", "s")]).await, 400, nothing);
    for name in ["-1", "0", "01", "1000000000", "1e3", " 1", "1 ", "../1"] {
        let fields = [("identifier", "s"), (&*format!("{name}.part:part"), "x")];
        assert_refused(&send(&gateway, "POST", "/upload", &fields).await, 400, nothing);
    }
    for session in ["", ".", "..", "../..", "a/b", "a\\b", "a\u{1}", &"s".repeat(256)] {
        for fields in
            [[("identifier", session), ("1.part:part", "x")], [("1.part:part", "x"), ("identifier", session)]]
        {
            assert_refused(&send(&gateway, "POST", "/upload", &fields).await, 400, nothing);
        }
        let unnamed = send(&gateway, "DELETE", "/upload", &[("identifier", session)]).await;
        assert_refused(&unnamed, 400, "identifier is required");
        let merged =
            send(&gateway, "POST", "/merge", &[("identifier", session), ("filename", "m.img")]).await;
        assert_refused(&merged, 500, "fail to find the file path");
    }
    assert_refused(
        &gateway.ask("DELETE", &format!("{FS}/upload"), "", "").await,
        400,
        "identifier is required",
    );
    // Whether the session stands before the chunk or behind, a chunk that cannot be kept says so.
    for fields in [[("identifier", "s"), ("1.part:part", "x")], [("1.part:part", "x"), ("identifier", "s")]] {
        assert_refused(
            &send(&gateway, "POST", "/upload", &fields).await,
            500,
            "fail to save chunk file part",
        );
    }
}

#[tokio::test]
async fn merges_need_the_name_of_an_image() {
    let gateway = start(GatewayConfig::default()).await;
    let bad = "File should only be image file or filename is larger than max size";
    for name in ["", "m.exe", "m", ".img", "a/m.img", "a\\m.img", "m.img\u{1}"] {
        let fields = [("identifier", "s"), ("filename", name)];
        assert_refused(&send(&gateway, "POST", "/merge", &fields).await, 400, bad);
    }
    assert_refused(&gateway.ask("POST", &format!("{FS}/merge?identifier=s"), "", "").await, 400, bad);
    let encoded = "Content-Type: application/x-www-form-urlencoded\r\n";
    let answer = gateway.ask("POST", &format!("{FS}/merge"), encoded, "identifier=s&filename=m.exe").await;
    assert_refused(&answer, 400, bad);
    let cloud = [("identifier", "s"), ("filename", "m.img"), ("priority", "A")];
    assert_refused(&send(&gateway, "POST", "/merge", &cloud).await, 500, "fail to find the file path");
}

#[tokio::test]
async fn ids_that_cannot_be_are_unknown() {
    let gateway = start(GatewayConfig::default()).await;
    for id in ["x", "1", "..%2f..", &ZERO[1..], "upload/action/download"] {
        let answer = gateway.ask("GET", &format!("{FS}/{id}/action/download"), "", "").await;
        assert!(answer.status == 404, "{id}");
    }
    assert_refused(
        &gateway.ask("GET", &format!("{FS}/x/action/download"), "", "").await,
        404,
        "file path doesn't exist",
    );
    assert_refused(
        &gateway.ask("POST", &format!("{FS}/x/action/slim/"), "", "").await,
        404,
        "file path doesn't exist",
    );
    let literal = "there is no record in database with imageId: a\\\"b";
    assert_refused(&gateway.ask("GET", &format!("{FS}/a%22b"), "", "").await, 404, literal);
    let deleted = gateway.ask("DELETE", &format!("{FS}/x"), "", "").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (200, "delete success"));
    // Those that can be are not unknown while nobody can be asked.
    for path in [format!("/{ZERO}"), format!("/{ZERO}/action/download"), String::new()] {
        assert_eq!(gateway.ask("GET", &format!("{FS}{path}"), "", "").await.status, 503, "{path}");
    }
}

#[tokio::test]
async fn texts_of_life_methods_and_slashes() {
    let gateway = start(GatewayConfig::default()).await;
    for (path, text) in [
        ("/upload", "Upload get request received."),
        ("/upload/", "Upload get request received."),
        ("/merge", "Merge get request received."),
        ("/merge/", "Merge get request received."),
    ] {
        let answer = gateway.ask("GET", &format!("{FS}{path}"), "", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, text));
        assert!(answer.head.contains("content-type: text/plain; charset=utf-8"), "{}", answer.head);
        let head = gateway.ask("HEAD", &format!("{FS}{path}"), "", "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    }
    for (method, path) in [
        ("PUT", "/merge"),
        ("DELETE", "/merge"),
        ("PUT", "/upload/"),
        ("DELETE", ""),
        ("GET", "/x/action/slim"),
        ("POST", "/x"),
    ] {
        let answer = gateway.ask(method, &format!("{FS}{path}"), "", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (405, "Method Not Allowed\n"), "{method} {path}");
        assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
        assert!(answer.head.contains("\r\nallow: "), "{}", answer.head);
    }
    for path in ["/x/action", "/x/action/shrink", "/a/b/c/d"] {
        let answer = gateway.ask("GET", &format!("{FS}{path}"), "", "").await;
        assert!(answer.status == 404 && answer.head.contains("content-type: text/html"), "{path}");
    }
    let long = format!("{FS}?x={}", "a".repeat(9000));
    assert_refused(&gateway.ask("GET", &long, "", "").await, 414, "URI Too Long");
}

#[tokio::test]
async fn sec_41_pages_of_others_get_no_credentials() {
    let gateway = start(GatewayConfig::default()).await;
    let origin = "Origin: https://portal.example\r\nAccess-Control-Request-Method: DELETE\r\n";
    for path in ["", "/", "/upload", &format!("/{ZERO}"), &format!("/{ZERO}/action/slim/")] {
        let answer = gateway.ask("OPTIONS", &format!("{FS}{path}"), origin, "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
        assert!(answer.head.contains("access-control-allow-origin: *\r\n"), "{}", answer.head);
        assert!(
            answer.head.contains("access-control-allow-methods: put,patch,post,get,head,delete,options\r\n")
        );
        assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
        assert!(!answer.head.contains("allow-credentials"), "{}", answer.head);
    }
    let exposed = gateway.ask("GET", &format!("{FS}/upload"), origin, "").await;
    assert!(exposed.head.contains("access-control-expose-headers: content-length"), "{}", exposed.head);
}
