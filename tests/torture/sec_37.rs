//! SEC-37 of the security contract: thousands of connections that bring the head of a request, or the bytes of an upload, one
//! by one and never all of it. Others are served meanwhile, nothing grows, and the slow ones are let go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

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
const UPLOAD_HEAD: &str = "POST /v1/images HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
/// So long the server looks at how little an upload brings.
const MEASURED: Duration = Duration::from_secs(60);
/// Between two status calls of a client that is well.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of a connection that is slow.
enum Came {
    /// The time was over first.
    Held,
    /// It was refused before its second byte: there was no place.
    Refused,
    /// It had a place, and was let go.
    LetGo,
}

/// How often.
#[derive(Default)]
struct Counts {
    refused: AtomicU64,
    let_go: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_37_thousands_that_hardly_send() {
    let mut run = Run::new("sec_37");
    let (heads, uploads) = (run.part_of(HEADS, 50), run.part_of(UPLOADS, 20));
    let seconds = run.part_of(SECONDS, 14);
    let service = run.service(|setup| setup.arguments = vec!["--log".into(), "warn".into()]);
    let known = upload(&service.client(), &run.random.bytes(1_000)).await.name;
    let files = open_files(service.id());

    let (of_heads, of_uploads) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut slow = Vec::new();
    for number in 0..heads + uploads {
        let (head, pause, counts) = match number < heads {
            true => ("GET /v1/images HTTP/1.1\r\nhost: a\r\nx-slow: ", HEAD_PAUSE, &of_heads),
            false => (UPLOAD_HEAD, UPLOAD_PAUSE, &of_uploads),
        };
        slow.push(tokio::spawn(be_slow(service.http(), head, pause, end, Arc::clone(counts))));
    }
    let client = service.client();
    let mut waits = Vec::new();
    while Instant::now() < end {
        let asked = Instant::now();
        client.get_image(&known).await.expect("an answer beside those that are slow");
        waits.push(asked.elapsed());
        sleep(PAUSE).await;
    }
    join_all(slow).await.into_iter().for_each(|ended| ended.unwrap());

    let peak = peak_bytes(service.id());
    assert!(peak <= PEAK_BYTES_MAX, "expected at most {PEAK_BYTES_MAX} bytes of memory, not {peak}");
    let [heads_let_go, heads_refused] = of_heads.read();
    let [uploads_let_go, uploads_refused] = of_uploads.read();
    assert!(heads_let_go > 0, "expected heads that are late to be let go");
    assert_eq!(heads_refused, 0, "expected room for as many connections");
    let is_long = Duration::from_secs(seconds) > MEASURED + UPLOAD_PAUSE;
    assert!(uploads_let_go > 0 || !is_long, "expected uploads that bring nothing to be let go");
    upload(&client, &run.random.bytes(1_000)).await;
    eventually("connections that are closed", || async {
        (open_files(service.id()) <= files + 8).then_some(())
    })
    .await;
    assert_eq!(audit::images(&client).await.len(), 2, "expected an image of nobody who was slow");
    run.finish(&format!(
        "{heads} heads a byte each {} s and {uploads} uploads a byte each {} s, for {seconds} s: {heads_let_go} heads were let \
         go, {uploads_let_go} uploads, {uploads_refused} times there was no place for one; {} status calls beside them, 99 % \
         within {} ms; peak {} MiB",
        HEAD_PAUSE.as_secs(),
        UPLOAD_PAUSE.as_secs(),
        waits.len(),
        p99(&mut waits).as_millis(),
        peak / MIB
    ));
}

impl Counts {
    fn read(&self) -> [u64; 2] {
        [&self.let_go, &self.refused].map(|count| count.load(Ordering::Relaxed))
    }
}

/// One slow client: as often as it is let go it comes again.
async fn be_slow(server: SocketAddr, head: &str, pause: Duration, end: Instant, counts: Arc<Counts>) {
    while Instant::now() < end {
        match trickle(server, head, pause, end).await {
            Came::Held => return,
            Came::Refused => counts.refused.fetch_add(1, Ordering::Relaxed),
            Came::LetGo => counts.let_go.fetch_add(1, Ordering::Relaxed),
        };
        sleep(HEAD_PAUSE).await;
    }
}

/// Sends a byte now and then, until the server has had enough or the time is over.
async fn trickle(server: SocketAddr, head: &str, pause: Duration, end: Instant) -> Came {
    let mut stream = TcpStream::connect(server).await.expect("a connection that is taken");
    let mut answer = [0; 512];
    if stream.write_all(head.as_bytes()).await.is_err() {
        return Came::Refused;
    }
    for sent in 0.. {
        let next = (Instant::now() + pause).min(end);
        match timeout_at(next, stream.read(&mut answer)).await {
            Ok(_) if sent == 0 => return Came::Refused,
            // It is refused, or its connection closed.
            Ok(_) => return Came::LetGo,
            Err(_) if next == end => return Came::Held,
            Err(_) => {}
        }
        if stream.write_all(b"a").await.is_err() {
            return Came::LetGo;
        }
    }
    Came::Held
}
