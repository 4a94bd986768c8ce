//! SEC-37 of the security contract: thousands of connections that bring the head of a request, or the bytes of an upload, one
//! by one and never all of it. Others are served meanwhile, nothing grows, and the slow ones are let go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout_at};

use crate::audit;
use crate::run::Run;
use crate::support::status::eventually;
use crate::support::upload::upload;
use crate::support::usage::{open_files, p99, peak_bytes};

/// Of the contract.
const HEADS: u64 = 5_000;
const UPLOADS: u64 = 2_000;
/// Longer than the server waits for a head, or for bytes that are worth a place.
const SECONDS: u64 = 90;
const MIB: u64 = 1 << 20;
/// As for as many uploads that are not slow (rel_20).
const PEAK_BYTES_MAX: u64 = 512 * MIB;
/// Between two bytes of a head: the head is late long before it is whole.
const HEAD_PAUSE: Duration = Duration::from_secs(2);
/// Between two bytes of an upload, as the contract has it.
const UPLOAD_PAUSE: Duration = Duration::from_secs(10);
/// Between two status calls of a client that is well.
const PAUSE: Duration = Duration::from_millis(20);

/// What the server did with those that are slow.
#[derive(Default)]
struct LetGo {
    heads: AtomicU64,
    uploads: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_37_thousands_that_hardly_send() {
    let mut run = Run::new("sec_37");
    let (heads, uploads) = (run.part_of(HEADS, 50), run.part_of(UPLOADS, 20));
    let seconds = run.part_of(SECONDS, 14);
    let service = run.service(|setup| setup.arguments = vec!["--log".into(), "warn".into()]);
    let known = upload(&service.client(), &run.random.bytes(1_000)).await.name;
    let files = open_files(service.id());

    let let_go = Arc::new(LetGo::default());
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut slow = Vec::new();
    for number in 0..heads + uploads {
        let (server, let_go) = (service.http(), Arc::clone(&let_go));
        slow.push(tokio::spawn(async move {
            while tokio::time::Instant::now() < end {
                if number < heads {
                    let head = "GET /v1/images HTTP/1.1\r\nhost: a\r\nx-slow: ";
                    trickle(server, head, HEAD_PAUSE, end).await;
                    let_go.heads.fetch_add(1, Ordering::Relaxed);
                } else {
                    let head = "POST /v1/images HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
                    trickle(server, head, UPLOAD_PAUSE, end).await;
                    let_go.uploads.fetch_add(1, Ordering::Relaxed);
                    // As who is told to come back does.
                    sleep(HEAD_PAUSE).await;
                }
            }
        }));
    }
    let client = service.client();
    let mut waits = Vec::new();
    while tokio::time::Instant::now() < end {
        let asked = Instant::now();
        client.get_image(&known).await.expect("an answer beside those that are slow");
        waits.push(asked.elapsed());
        sleep(PAUSE).await;
    }
    join_all(slow).await.into_iter().for_each(|ended| ended.unwrap());

    let peak = peak_bytes(service.id());
    assert!(peak <= PEAK_BYTES_MAX, "expected at most {PEAK_BYTES_MAX} bytes of memory, not {peak}");
    let (heads_let_go, uploads_let_go) =
        (let_go.heads.load(Ordering::Relaxed) - heads, let_go.uploads.load(Ordering::Relaxed) - uploads);
    assert!(heads_let_go > 0, "expected heads that are late to be let go");
    upload(&client, &run.random.bytes(1_000)).await;
    eventually("connections that are closed", || async {
        (open_files(service.id()) <= files + 8).then_some(())
    })
    .await;
    assert_eq!(audit::images(&client).await.len(), 2, "expected an image of nobody who was slow");
    run.finish(&format!(
        "{heads} heads a byte each {} s and {uploads} uploads a byte each {} s, for {seconds} s: {heads_let_go} and \
         {uploads_let_go} were let go and came again; {} status calls beside them, 99 % within {} ms; peak {} MiB",
        HEAD_PAUSE.as_secs(),
        UPLOAD_PAUSE.as_secs(),
        waits.len(),
        p99(&mut waits).as_millis(),
        peak / MIB
    ));
}

/// Sends a byte now and then, until the server has had enough or the time is over.
async fn trickle(server: SocketAddr, head: &str, pause: Duration, end: tokio::time::Instant) {
    let Ok(mut stream) = TcpStream::connect(server).await else { return };
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let mut answer = [0; 512];
    loop {
        let next = (tokio::time::Instant::now() + pause).min(end);
        match timeout_at(next, stream.read(&mut answer)).await {
            // It is refused, or its connection closed.
            Ok(_) => return,
            Err(_) if next == end => return,
            Err(_) => {}
        }
        if stream.write_all(b"a").await.is_err() {
            return;
        }
    }
}
