//! rel_23: downloads by clients that hardly read. Memory does not grow with time, and uploads go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::content::Content;
use crate::run::Run;
use crate::support::upload::upload;
use crate::support::usage::resident_bytes;

const READERS: u64 = 200;
const SECONDS: u64 = 60;
const MIB: u64 = 1 << 20;
/// What each reads at a time, ten times a second.
const SIP_BYTES: usize = 1 << 10;
/// What memory may move by itself, beside the uploads that come meanwhile.
const GROWTH_BYTES_MAX: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_23_slow_readers_cost_nothing_more_with_time() {
    let mut run = Run::new("rel_23");
    let (readers, seconds) = (run.part_of(READERS, 20), run.part_of(SECONDS, 6));
    let service = run.service(|_| {});
    let client = service.client();
    let image = upload(&client, &run.random.bytes(32 * MIB as usize)).await.name;
    let end = Instant::now() + Duration::from_secs(seconds);
    let reading = (0..readers).map(|_| tokio::spawn(sip(service.http(), image.clone(), end)));
    let reading: Vec<_> = reading.collect();

    // Once all have begun.
    sleep(Duration::from_secs(seconds) / 3).await;
    let before = resident_bytes(service.id());
    let mut uploads = 0;
    while Instant::now() < end {
        let content = Content::new(run.random.next(), 4 * MIB);
        let sent = client.upload(&mut content.reader(0, &Arc::default()), &Default::default(), |_| {}).await;
        assert_eq!(sent.unwrap().image.digests, Some(content.digests()), "expected its own bytes");
        uploads += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let after = resident_bytes(service.id());
    let read: u64 = join_all(reading).await.into_iter().map(|read| read.unwrap()).sum();
    assert!(uploads > 0, "expected uploads beside them");
    let growth = after.saturating_sub(before);
    assert!(growth <= GROWTH_BYTES_MAX, "expected memory to stay at {before} bytes, not {after}");
    run.finish(&format!(
        "{readers} downloads at 10 KiB/s for {seconds} s ({} KiB read), {uploads} uploads beside them; memory {} MiB, then {} MiB",
        read >> 10,
        before / MIB,
        after / MIB
    ));
}

/// Reads the answer sip by sip; how much it had.
async fn sip(server: SocketAddr, image: String, end: Instant) -> u64 {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = format!("GET /v1/{image}/content HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut sip, mut read) = (vec![0; SIP_BYTES], 0);
    while Instant::now() < end {
        let count = stream.read(&mut sip).await.unwrap();
        assert!(count > 0, "expected a download that goes on");
        if read == 0 {
            assert!(sip.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&sip));
        }
        read += count as u64;
        sleep(Duration::from_millis(100)).await;
    }
    read
}
