//! The gateway as a program of its own, in front of a server that goes away.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use support::gateway::Gateway;
use support::http::request;
use support::status::eventually;
use support::{Service, fixtures};

/// Clients retry what is unavailable; what a server cannot do, they give up.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_unavailable() {
    let mut service = Service::start();
    let gateway = Gateway::before(&service);
    let tus = [("tus-resumable", "1.0.0"), ("upload-length", "30000000")];
    let created = request(gateway.http, "POST", "/v1/uploads", &tus, &[]);
    let upload = created.header("location").unwrap().to_owned();
    let tus = "Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n";
    let requests = [("POST", "/v1/images", ""), ("PATCH", &*upload, tus)];
    let mut streams = requests.map(|(method, path, headers)| {
        let mut stream = TcpStream::connect(gateway.http).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 30000000\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![7; 2_000_000]).unwrap();
        stream
    });
    eventually("bytes of both", || async { (service.staged().len() == 2).then_some(()) }).await;
    service.kill();
    for stream in &mut streams {
        stream.write_all(&vec![7; 28_000_000]).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.contains("\"reason\":\"UNAVAILABLE\"") && answer.contains("retry-after: "),
            "{answer}"
        );
    }
    let listed = request(gateway.http, "GET", "/v1/images", &[], &[]);
    assert_eq!((listed.status, listed.header("retry-after")), (503, Some("2")), "{}", listed.text());

    service.restart();
    let data = fixtures::raw("a server that is back");
    let taken = || async {
        let answer = request(gateway.http, "POST", "/v1/images", &[], &data);
        (answer.status == 201).then_some(())
    };
    eventually("the server that is back", taken).await;
}
