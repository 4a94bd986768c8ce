//! rel_20: more uploads at once than the server takes. Each is taken, or told to come back and taken then; memory is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use imageops_client::{Client, RetryPolicy, UploadOptions};
use tonic::Code;

use crate::audit;
use crate::content::Content;
use crate::run::Run;
use crate::support::upload::upload;
use crate::support::usage::{p99, peak_bytes};

const UPLOADS: u64 = 1_000;
const CONNECTIONS: u64 = 100;
const UPLOAD_BYTES: u64 = 8 << 20;
/// Of the contract.
const PEAK_BYTES_MAX: u64 = 512 << 20;
/// Pause between two status calls of a client beside the uploads.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_20_a_thousand_uploads_at_once() {
    let mut run = Run::new("rel_20");
    let uploads = run.part_of(UPLOADS, 24);
    // An eighth finds a place at first, as of a thousand with the default limit.
    let service = run.service(|setup| {
        setup.arguments = vec!["--uploads-max".into(), uploads.div_ceil(8).to_string()];
    });
    let connections: Vec<_> =
        (0..run.part_of(CONNECTIONS, 6)).map(|_| service.client().with_retry(once())).collect();
    let known = upload(&service.client(), &run.random.bytes(1_000)).await.name;

    let over = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(ask_until(service.client(), known, Arc::clone(&over)));
    let refused = AtomicU64::new(0);
    let contents: Vec<_> = (0..uploads).map(|_| Content::new(run.random.next(), UPLOAD_BYTES)).collect();
    let all = contents.iter().zip(connections.iter().cycle()).map(|(content, client)| {
        let refused = &refused;
        async move { send(client, content, refused).await }
    });
    join_all(all).await;
    over.store(true, Ordering::Release);
    let mut waits = watching.await.unwrap();

    let client = service.client();
    assert_eq!(audit::images(&client).await.len() as u64, uploads + 1, "expected an image of each upload");
    assert_eq!(audit::open_uploads(&client).await.len(), 0, "expected no upload that is left over");
    audit::check_store(&service).await;
    let (peak, refused) = (peak_bytes(service.id()), refused.into_inner());
    assert!(refused > 0, "expected more uploads at once than the server takes");
    assert!(peak <= PEAK_BYTES_MAX, "expected at most {PEAK_BYTES_MAX} bytes of memory, not {peak}");
    run.finish(&format!(
        "{uploads} uploads over {} connections, told to come back {refused} times, all taken; peak {} MiB; {} status calls, \
         99 % within {} ms",
        connections.len(),
        peak >> 20,
        waits.len(),
        p99(&mut waits).as_millis()
    ));
}

/// The test itself counts and waits.
fn once() -> RetryPolicy {
    RetryPolicy { attempts_max: 1, ..RetryPolicy::default() }
}

/// Sends until it is taken; what is told beside success is when to come back.
async fn send(client: &Client, content: &Content, refused: &AtomicU64) {
    let id = Some(uuid::Uuid::new_v4());
    loop {
        let options = UploadOptions { id, ..UploadOptions::default() };
        let sent = client.upload(&mut content.reader(0, &Arc::default()), &options, |_| {}).await;
        match sent {
            Ok(uploaded) => {
                assert_eq!(uploaded.image.digests, Some(content.digests()), "expected its own bytes");
                return;
            }
            Err(error) => {
                assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
                let pause = error.retry_after().expect("a time to come back after");
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Asks for the image again and again; how long each answer took.
async fn ask_until(client: Client, image: String, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut waits = Vec::new();
    while !over.load(Ordering::Acquire) {
        let asked = Instant::now();
        client.get_image(&image).await.unwrap();
        waits.push(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    waits
}
