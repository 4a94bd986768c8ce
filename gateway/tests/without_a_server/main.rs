//! What the gateway answers by itself, over a real socket, while no server is there behind it.
#![allow(clippy::unwrap_used)]

mod file_system;

use std::net::SocketAddr;
use std::time::Duration;

use imageops_client::{ConnectOptions, Connection};
use imageops_gateway::{Door, Drained, GatewayConfig, Limits, Origins};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const OPS: &str = "/api/v1/vmimage";

struct Gateway {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Drained>,
}

async fn start(config: GatewayConfig) -> Gateway {
    // A listener that is closed again: its port refuses connections.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let connection =
        Connection::connect_lazy(&format!("http://{nobody}"), ConnectOptions::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (limits, stop) = (config.limits.clone(), shutdown.clone());
    let router = imageops_gateway::router(connection, config);
    let served =
        tokio::spawn(
            async move { imageops_gateway::serve(listener, Door::plain(), router, &limits, stop).await },
        );
    Gateway { address, shutdown, served }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Gateway {
    /// One request as it stands, and the answer to its end.
    async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n"
        );
        self.raw(format!("{head}{headers}\r\n{body}").as_bytes()).await
    }

    async fn post_json(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, "Content-Type: application/json\r\n", body).await
    }
}

#[tokio::test]
async fn an_upload_of_nothing_is_refused_before_it_begins() {
    let gateway = start(GatewayConfig::default()).await;
    let headers = "Tus-Resumable: 1.0.0\r\nUpload-Length: 0\r\n";
    let answer = gateway.ask("POST", "/v1/uploads", headers, "").await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(answer.body.contains("at least one byte"), "{}", answer.body);
    assert!(answer.head.contains("tus-resumable: 1.0.0"), "{}", answer.head);
}

/// It is never silent for as long as the time-out of silence: what ends the request is that too little comes.
#[tokio::test]
async fn sec_37_a_body_that_trickles_is_ended() {
    let limits = Limits { body_pace_period: Duration::from_secs(1), ..Limits::default() };
    let gateway = start(GatewayConfig { limits, ..GatewayConfig::default() }).await;
    let (mut answers, mut client) = TcpStream::connect(gateway.address).await.unwrap().into_split();
    let head = "POST /v1/checks HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nContent-Type: application/json\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let trickle = async {
        // The gateway goes away in the end.
        while client.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut answer = vec![0; 4096];
    let length = tokio::select! {
        length = answers.read(&mut answer) => length.unwrap(),
        () = trickle => panic!("expected an answer"),
    };
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("BODY_INCOMPLETE"), "{answer}");
}

#[tokio::test]
async fn legacy_refusals_have_their_literals() {
    let gateway = start(GatewayConfig::default()).await;
    let lack_input = "Lacking inputImageName in request body.";
    for body in ["{}", r#"{"inputImageName":""}"#, r#"{"inputImageName":5}"#, "[]", "null"] {
        let answer = gateway.post_json(&format!("{OPS}/check"), body).await;
        assert_eq!((answer.status, answer.body.as_str()), (500, lack_input), "{body}");
        assert!(answer.head.contains("content-type: text/html; charset=utf-8"), "{}", answer.head);
        assert!(answer.head.contains("x-content-type-options: nosniff"));
    }
    let answer = gateway.ask("POST", &format!("{OPS}/check"), "Content-Type: text/plain\r\n", "{bad").await;
    assert_eq!((answer.status, answer.body.as_str()), (500, lack_input));
    for body in ["", "{bad", r#"{"inputImageName":"a","inputImageName":"b"}"#] {
        assert_eq!(gateway.post_json(&format!("{OPS}/check"), body).await.status, 400, "{body}");
    }
    let answer = gateway.post_json(&format!("{OPS}/compress"), r#"{"inputImageName":"a"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (500, "Lacking outputImageName in request body."));
    let answer = gateway.post_json(&format!("{OPS}/compress"), r#"{"outputImageName":"a"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (500, lack_input));
    let long = format!(r#"{{"inputImageName":"{}"}}"#, "a".repeat(1 << 20));
    assert_eq!(gateway.post_json(&format!("{OPS}/check"), &long).await.status, 413);
}

#[tokio::test]
async fn legacy_paths_and_methods() {
    let gateway = start(GatewayConfig::default()).await;
    let answer = gateway.ask("GET", &format!("{OPS}/check"), "", "").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: ") && answer.head.contains("post"), "{}", answer.head);
    assert_eq!(gateway.ask("DELETE", &format!("{OPS}/check/x"), "", "").await.status, 405);
    for path in ["/nothing", "/check/", "/check/x/", "/compress/x/", "/check/x/y", ""] {
        let answer = gateway.ask("GET", &format!("{OPS}{path}"), "", "").await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.head.contains("content-type: text/html"), "{path}");
    }
    // Ids that cannot be are unknown without asking anyone.
    for id in ["unknown", "..", "%2e%2e%2fetc", "00000000000000000000000000000000", "%00"] {
        let answer = gateway.ask("GET", &format!("{OPS}/check/{id}"), "", "").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (500, "Check failed, nonexistent request ID"),
            "{id}"
        );
        let answer = gateway.ask("GET", &format!("{OPS}/compress/{id}"), "", "").await;
        let want = "{\"msg\":\"Compress Failed, nonexistent request ID\",\"rate\":0,\"status\":2}\n";
        assert_eq!((answer.status, answer.body.as_str()), (200, want), "{id}");
    }
    let answer = gateway.ask("HEAD", &format!("{OPS}/compress/unknown"), "", "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_start_without_a_server_failed_and_an_id_is_not_unknown() {
    let gateway = start(GatewayConfig::default()).await;
    let answer = gateway.post_json(&format!("{OPS}/check"), r#"{"inputImageName":"a.img"}"#).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("{\"msg\":\"Check Failed\",\"requestId\":\""), "{}", answer.body);
    assert!(answer.body.ends_with("\",\"status\":1}\n"), "{}", answer.body);
    let both = r#"{"inputImageName":"a.img","outputImageName":"b.img"}"#;
    let answer = gateway.post_json(&format!("{OPS}/compress"), both).await;
    assert!(answer.body.starts_with("{\"msg\":\"Compress Failed\",\"requestId\":\""), "{}", answer.body);
    let id = "00000000-0000-4000-8000-000000000000";
    assert_eq!(gateway.ask("GET", &format!("{OPS}/compress/{id}"), "", "").await.status, 503);
}

#[tokio::test]
async fn chunked_bodies_and_asking_before_sending_work() {
    let gateway = start(GatewayConfig::default()).await;
    let head =
        format!("POST {OPS}/check HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/json\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n1\r\n}}\r\n0\r\n\r\n");
    assert_eq!(gateway.raw(chunked.as_bytes()).await.status, 500);

    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(format!("{head}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("Lacking inputImageName in request body."), "{rest}");
}

#[tokio::test]
async fn pages_may_call_the_legacy_paths_and_no_others() {
    let gateway = start(GatewayConfig::default()).await;
    let origin = "Origin: https://portal.example\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = gateway.ask("OPTIONS", &format!("{OPS}/check"), origin, "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert!(answer.head.contains("access-control-allow-origin: *"), "{}", answer.head);
    assert!(answer.head.contains("access-control-allow-methods: "), "{}", answer.head);
    assert!(!answer.head.contains("allow-credentials"));
    for path in ["/v1/jobs", "/healthz"] {
        assert!(!gateway.ask("GET", path, origin, "").await.head.contains("access-control"), "{path}");
    }

    let list = Origins::List(vec!["https://portal.example".to_owned()]);
    let gateway = start(GatewayConfig { cors_origins: list, ..GatewayConfig::default() }).await;
    let answer = gateway.ask("GET", &format!("{OPS}/compress/x"), origin, "").await;
    assert!(answer.head.contains("access-control-allow-origin: https://portal.example"), "{}", answer.head);
    assert!(answer.head.contains("vary: origin"));
    let answer =
        gateway.ask("GET", &format!("{OPS}/compress/x"), "Origin: https://evil.example\r\n", "").await;
    assert!(!answer.head.contains("access-control-allow-origin"), "{}", answer.head);
}

#[tokio::test]
async fn native_refusals_are_problems() {
    let gateway = start(GatewayConfig::default()).await;
    let long = format!("/v1/jobs?page_token={}", "a".repeat(9000));
    let id = "/v1/jobs/00000000-0000-4000-8000-000000000000";
    let content = "/v1/images/00000000-0000-4000-8000-000000000000/content".to_owned();
    let deep = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    for (method, path, body, status, reason) in [
        ("GET", "/v1/nothing", "", 404, "NOT_FOUND"),
        ("GET", "/elsewhere", "", 404, "NOT_FOUND"),
        ("GET", "/v1/jobs/x", "", 404, "NOT_FOUND"),
        ("PUT", "/v1/jobs", "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", id, "", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/v1/jobs?colour=red", "", 400, "INVALID_ARGUMENT"),
        ("GET", "/v1/jobs?state=unspecified", "", 400, "INVALID_ARGUMENT"),
        ("GET", &long, "", 414, "QUERY_TOO_LONG"),
        ("GET", &format!("{id}?wait=soon"), "", 400, "INVALID_ARGUMENT"),
        ("POST", &format!("{id}:explode"), "", 404, "NOT_FOUND"),
        ("POST", "/v1/checks", "{bad", 400, "MALFORMED_JSON"),
        ("POST", "/v1/checks", r#"{"colour":"red"}"#, 400, "MALFORMED_JSON"),
        ("POST", "/v1/checks", r#"{"requestId":"a","requestId":"a"}"#, 400, "MALFORMED_JSON"),
        ("POST", "/v1/checks", &deep, 400, "MALFORMED_JSON"),
        ("POST", "/v1/checks", "{}", 503, "UNAVAILABLE"),
        ("POST", "/v1/images", "{}", 503, "UNAVAILABLE"),
        ("POST", "/v1/images", r#"{"colour":"red"}"#, 400, "MALFORMED_JSON"),
        ("POST", "/v1/images?tag=a", "{}", 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/images/x:copy", "{}", 404, "NOT_FOUND"),
        ("PUT", &content, "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("PUT", &format!("{content}?label=a=b"), "", 400, "INVALID_ARGUMENT"),
        ("GET", &format!("{content}?format=vmdk"), "", 400, "INVALID_ARGUMENT"),
        ("GET", &format!("{content}?archive=tar"), "", 400, "INVALID_ARGUMENT"),
        ("GET", "/v1/images?hidden=maybe", "", 400, "INVALID_ARGUMENT"),
        ("PUT", "/v1/sessions/s/parts/one", "", 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/sessions/s", "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/sessions/s:compose", r#"{"session":"t"}"#, 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/stores/fast", "", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/v1/stores/fast:explode", "", 404, "NOT_FOUND"),
        ("PATCH", "/v1/stores/fast", r#"{"name":"slow"}"#, 400, "INVALID_ARGUMENT"),
        ("PUT", "/v1/quotas/t", r#"{"tenant":"u"}"#, 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/images?format=floppy", "", 400, "INVALID_ARGUMENT"),
        ("POST", "/v1/uploads", "", 412, "TUS_VERSION"),
        ("GET", "/readyz", "", 503, "UPSTREAM_UNREACHABLE"),
        ("GET", "/metrics", "", 404, "NOT_FOUND"),
    ] {
        let answer = gateway.ask(method, path, "Content-Type: application/json\r\n", body).await;
        assert_eq!(answer.status, status, "{method} {path:.60} {}", answer.body);
        assert!(answer.head.contains("content-type: application/problem+json"), "{path:.60}");
        assert!(answer.head.contains("x-request-id: "), "{path:.60}");
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (&problem["reason"], &problem["status"]),
            (&reason.into(), &status.into()),
            "{method} {path:.60}"
        );
        assert!(!answer.body.contains("127.0.0.1"), "{}", answer.body);
    }
}

#[tokio::test]
async fn promised_digests_are_read_before_the_bytes() {
    let gateway = start(GatewayConfig::default()).await;
    for header in ["Content-MD5: AAAA", "Repr-Digest: sha-256=AAAA", "X-Checksum-Sha512: 00"] {
        let answer = gateway.ask("POST", "/v1/images", &format!("{header}\r\n"), "bytes").await;
        assert_eq!(answer.status, 400, "{header}");
        let name = header.split(':').next().unwrap();
        assert!(answer.body.contains(&format!("\"field\":\"{name}\"")), "{}", answer.body);
    }
}

#[tokio::test]
async fn the_id_of_a_request_comes_back_when_it_can_stand_in_a_header() {
    let gateway = start(GatewayConfig::default()).await;
    let answer = gateway.ask("GET", "/healthz", "X-Request-Id: abc-1\r\n", "").await;
    assert!(answer.status == 200 && answer.head.contains("x-request-id: abc-1"), "{}", answer.head);
    let long = format!("X-Request-Id: {}\r\n", "a".repeat(200));
    assert!(!gateway.ask("GET", "/healthz", &long, "").await.head.contains("aaaa"));
}

#[tokio::test]
async fn tus_tells_what_it_speaks() {
    let gateway = start(GatewayConfig::default()).await;
    let answer = gateway.ask("OPTIONS", "/v1/uploads", "", "").await;
    assert_eq!(answer.status, 204);
    assert!(answer.head.contains("tus-version: 1.0.0"), "{}", answer.head);
    let extensions = "checksum,creation,creation-defer-length,creation-with-upload,expiration,termination";
    assert!(answer.head.contains(&format!("tus-extension: {extensions}")), "{}", answer.head);
    let headers = "Tus-Resumable: 1.0.0\r\nUpload-Length: nine\r\n";
    let answer = gateway.ask("POST", "/v1/uploads", headers, "").await;
    assert!(answer.status == 400 && answer.head.contains("tus-resumable: 1.0.0"), "{}", answer.head);
    let longer =
        "Tus-Resumable: 1.0.0\r\nUpload-Length: 3\r\nContent-Type: application/offset+octet-stream\r\n";
    assert_eq!(gateway.ask("POST", "/v1/uploads", longer, "four").await.status, 413);
}

#[tokio::test]
async fn the_document_is_served() {
    let gateway = start(GatewayConfig::default()).await;
    let answer = gateway.ask("GET", "/openapi.json", "", "").await;
    let document: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["paths"]["/v1/jobs/{id}:cancel"]["post"].is_object());
}

#[tokio::test]
async fn sec_37_slow_clients_are_cut_and_others_are_served() {
    let limits = Limits {
        header_timeout: Duration::from_millis(200),
        body_idle_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let gateway = start(GatewayConfig { limits, ..GatewayConfig::default() }).await;
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
    let head = format!("POST {OPS}/check HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n");
    let begun = format!("{head}Content-Type: application/json\r\n\r\n{{");
    let (slow_body, healthy) =
        tokio::join!(gateway.raw(begun.as_bytes()), gateway.ask("GET", "/healthz", "", ""));
    assert_eq!((slow_body.status, healthy.status), (408, 200));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "a head that never ends is cut");
}

/// Pings are answered, so a connection of HTTP/2 would live for ever.
#[tokio::test]
async fn sec_38_connections_that_ask_nothing_are_closed() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const NO_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let limits = Limits { connection_idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let gateway = start(GatewayConfig { limits, ..GatewayConfig::default() }).await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    idle.write_all(&[PREFACE, NO_SETTINGS].concat()).await.unwrap();
    let mut kinds = Vec::new();
    let conversation = async {
        let mut head = [0; 9];
        while idle.read_exact(&mut head).await.is_ok() {
            let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            idle.read_exact(&mut body).await.unwrap();
            kinds.push(head[3]);
            if (head[3], head[4] & ACK) == (PING, 0) {
                head[4] |= ACK;
                // The server may have gone meanwhile.
                let _ = idle.write_all(&[&head[..], &body].concat()).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), conversation).await.expect("an idle connection is closed");
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

#[tokio::test]
async fn a_shutdown_lets_requests_end_and_says_so() {
    let gateway = start(GatewayConfig::default()).await;
    let idle = TcpStream::connect(gateway.address).await.unwrap();
    assert_eq!(gateway.ask("GET", "/healthz", "", "").await.status, 200);
    gateway.shutdown.cancel();
    let drained = tokio::time::timeout(Duration::from_secs(20), gateway.served).await.unwrap().unwrap();
    assert_eq!(drained, Drained::Completely);
    drop(idle);
    assert!(TcpStream::connect(gateway.address).await.is_err());
}
