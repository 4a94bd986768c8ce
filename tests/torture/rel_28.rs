//! rel_28: clients at cross purposes. One of them wins, the others are told, and readers that began finish with the old
//! bytes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use imageops::v1::download_image_response::Message;
use imageops::v1::job::Result as JobResult;
use imageops::v1::{Digests, DownloadImageRequest, JobState};
use imageops_client::Client;
use tonic::Code;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback, Target};
use crate::run::{Run, beside, join};
use crate::support::Service;
use crate::support::jobs::{ended, image};
use crate::support::status::eventually;
use crate::work::{Output, WORKS};

const MIB: u64 = 1 << 20;
const ROUNDS: u64 = 100;

/// Two clients send other bytes under one identifier at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn rel_28_one_identifier_has_one_winner() {
    let mut run = Run::new("rel_28");
    let rounds = run.part_of(ROUNDS, 3);
    let service = run.service(|_| {});
    let roads = roads::present(service.http());
    let named: Vec<&'static Road> = roads.iter().copied().filter(|road| road.promises).collect();
    let (mut won, mut told, mut left) = (0, 0, 0);
    for _ in 0..rounds {
        for road in &named {
            // Of one length, so that no offset of one is out of place for the other.
            let (id, size_bytes) = (uuid::Uuid::new_v4(), run.spread(MIB, 4 * MIB));
            let ledger = Arc::new(Ledger::default());
            let both = [run.random.next(), run.random.next()]
                .map(|seed| ledger.begin(Entry::new(id, Content::new(seed, size_bytes))));
            let clients = both.map(|index| send(road, target(&service), &ledger, index));
            let results = clients.map(join);
            let winners = check_winner(&service, road, &ledger, &results).await;
            won += winners;
            told += results.iter().filter(|result| result.is_err()).count();
            left += usize::from(winners == 0);
        }
    }
    run.finish(&format!(
        "one identifier, two contents: {} races on {} roads; {won} acknowledged with their own bytes, {told} told no, {left} races without an image",
        rounds * named.len() as u64,
        named.len()
    ));
}

type Sending = std::thread::JoinHandle<Result<String, Setback>>;

/// One client: as many attempts as a broken connection wants.
fn send(road: &'static Road, target: Target, ledger: &Arc<Ledger>, index: usize) -> Sending {
    const ATTEMPTS_MAX: u32 = 10;
    let ledger = Arc::clone(ledger);
    beside(move || async move {
        let mut attempts = 1;
        loop {
            match road.attempt(target, &ledger, index).await {
                Err(Setback::Cut(_)) if attempts < ATTEMPTS_MAX => attempts += 1,
                result => return result,
            }
        }
    })
}

/// At most one image, whole and of one client; who was told of it is the one whose bytes it has. How many that were.
async fn check_winner(
    service: &Service,
    road: &Road,
    ledger: &Ledger,
    results: &[Result<String, Setback>; 2],
) -> usize {
    let client = service.client();
    let images = audit::images(&client).await;
    assert!(images.len() <= 1, "{}: expected one winner: {images:?}", road.name);
    let mut winners = 0;
    for (entry, result) in ledger.all().iter().zip(results) {
        let Ok(name) = result else { continue };
        winners += 1;
        let image = images.iter().find(|image| image.name == *name);
        let image = image.unwrap_or_else(|| panic!("{}: expected {name}, which was acknowledged", road.name));
        assert_eq!(
            image.digests.as_ref(),
            Some(&entry.digests),
            "{}: expected the bytes of the client that was told so",
            road.name
        );
        audit::compare(&client, name, entry).await;
    }
    for image in images {
        // An image that nobody was told of is whole as well.
        let entries = ledger.all();
        let entry = entries.iter().find(|entry| image.digests.as_ref() == Some(&entry.digests));
        audit::compare(
            &client,
            &image.name,
            entry.unwrap_or_else(|| panic!("{}: expected the bytes of one client: {image:?}", road.name)),
        )
        .await;
        remove(&client, &image.name).await;
    }
    winners
}

async fn remove(client: &Client, image: &str) {
    client.delete_image(image, "").await.unwrap();
    client.purge_image(image, "").await.unwrap();
}

/// So long that no buffer on the way holds it.
const LONG_BYTES: u64 = 16 * MIB;

/// A stored image.
async fn stored(run: &mut Run, service: &Service, size_bytes: u64) -> (String, Entry) {
    let ledger = Ledger::default();
    let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), size_bytes)));
    let name = roads::present(service.http())[0].attempt(target(service), &ledger, index).await.unwrap();
    (name, ledger.entry(index, |entry| entry.clone()))
}

/// The image is gone for all others, and the readers that had begun read it to its end.
#[tokio::test(flavor = "multi_thread")]
async fn rel_28_downloads_outlive_their_image() {
    let mut run = Run::new("rel_28");
    let rounds = run.part_of(ROUNDS / 10, 1);
    let service = run.service(|_| {});
    let client = service.client();
    for _ in 0..rounds {
        let (name, entry) = stored(&mut run, &service, LONG_BYTES).await;
        let request = DownloadImageRequest { image: name.clone(), ..DownloadImageRequest::default() };
        let mut messages = client.stub().download_image(request.clone()).await.unwrap().into_inner();
        let mut rest = TcpStream::connect(service.http()).unwrap();
        let path = name.replace("images/", "/v1/images/");
        write!(rest, "GET {path}/content HTTP/1.1\r\nhost: torture\r\nconnection: close\r\n\r\n").unwrap();
        let mut first = [0; 1];
        rest.read_exact(&mut first).unwrap();
        remove(&client, &name).await;
        eventually("bytes that are gone", || async { service.blobs().is_empty().then_some(()) }).await;
        assert_eq!(client.get_image(&name).await.unwrap_err().code(), Code::NotFound);
        let again = client.stub().download_image(request).await.unwrap_err();
        assert_eq!(again.code(), Code::NotFound);

        let whole = entry.content.bytes(0, entry.content.size_bytes);
        let mut bytes = Vec::new();
        while let Some(message) =
            messages.message().await.expect("expected a download that began to end well")
        {
            if let Some(Message::Chunk(chunk)) = message.message {
                bytes.extend_from_slice(&chunk.data);
            }
        }
        assert!(bytes == whole, "gRPC: expected the old bytes");
        let mut answer = Vec::new();
        rest.read_to_end(&mut answer).unwrap();
        assert!(answer.ends_with(&whole), "REST: expected the old bytes");
    }
    run.finish(&format!("{rounds} images removed during two downloads each, which ended with their bytes"));
}

/// The same for jobs that read an image.
#[tokio::test(flavor = "multi_thread")]
async fn rel_28_jobs_outlive_their_image() {
    let mut run = Run::new("rel_28");
    let rounds = run.part_of(ROUNDS / 10, 1);
    let service = run.service(|_| {});
    let client = service.client();
    let (mut succeeded, mut refused) = (0, 0);
    for _ in 0..rounds {
        for work in WORKS.iter().filter(|work| work.name.ends_with("image")) {
            let (name, entry) = stored(&mut run, &service, LONG_BYTES).await;
            let job = work.start(&client, &name, "").await.unwrap().name;
            // As soon as it runs, and perhaps a moment before it has opened its source.
            eventually("a job that is taken up", || async {
                (client.get_job(&job).await.unwrap().state() != JobState::Queued).then_some(())
            })
            .await;
            remove(&client, &name).await;
            let job = ended(&client, &job).await;
            if job.state() == JobState::Failed {
                let reason = job.error.unwrap().reason;
                assert!(
                    ["IMAGE_NOT_FOUND", "IMAGE_TRASHED"].contains(&reason.as_str()),
                    "{}: {reason}",
                    work.name
                );
                refused += 1;
            } else {
                assert_eq!(job.state(), JobState::Succeeded, "{}", work.name);
                succeeded += 1;
                if let Some(JobResult::Check(result)) = &job.result {
                    // A check takes no CRC.
                    let old = Digests { crc32: None, ..entry.digests.clone() };
                    assert_eq!(result.digests, Some(old), "{}: expected the old bytes", work.name);
                }
            }
            let made = audit::images(&client).await;
            let expected = usize::from(work.output == Output::Image && job.result.is_some());
            assert_eq!(made.len(), expected, "{}: expected no image but its output", work.name);
            for image in made {
                remove(&client, &image.name).await;
            }
        }
    }
    audit::check_store(&service).await;
    run.finish(&format!(
        "images removed under jobs: {succeeded} succeeded with the old bytes, {refused} found their source gone before they began"
    ));
}

/// Deleted, restored and purged by several clients at the same time: the image is there or gone, and its bytes with it.
#[tokio::test(flavor = "multi_thread")]
async fn rel_28_the_trash_has_one_answer() {
    let mut run = Run::new("rel_28");
    let rounds = run.part_of(ROUNDS, 5);
    let service = run.service(|_| {});
    let client = service.client();
    let (mut purged, mut kept) = (0, 0);
    for _ in 0..rounds {
        let (name, entry) = stored(&mut run, &service, MIB).await;
        let target = target(&service);
        let clients = [0, 1, 2, 3].map(|number| {
            let name = name.clone();
            beside(move || async move {
                let client = target.client();
                // Whoever comes too late is told so; that is not what is looked at here.
                match number {
                    0 | 1 => drop(client.delete_image(&name, "").await),
                    2 => drop(client.restore_image(&name).await),
                    _ => drop(client.purge_image(&name, "").await),
                }
            })
        });
        clients.into_iter().for_each(join);
        match client.get_image(&name).await {
            Err(error) => {
                assert_eq!(error.code(), Code::NotFound);
                purged += 1;
            }
            Ok(image) => {
                kept += 1;
                if image.delete_time.is_some() {
                    client.restore_image(&name).await.unwrap();
                }
                audit::compare(&client, &name, &entry).await;
                remove(&client, &name).await;
            }
        }
        audit::check_store(&service).await;
    }
    // A job on an image that is gone is refused at once.
    let gone = imageops::v1::CheckRequest {
        source: image(&format!("images/{}", uuid::Uuid::new_v4())),
        ..Default::default()
    };
    assert_eq!(client.check(gone).await.unwrap_err().code(), Code::NotFound);
    run.finish(&format!("{rounds} images deleted twice, restored and purged at once: {purged} gone, {kept} kept; bytes with the row"));
}

/// Two clients send the same parts with other bytes, and both merge. Each part is one client's, whole; one merge makes the
/// image, and the other finds no session. A part that comes during the merge does not land in what was merged.
#[tokio::test(flavor = "multi_thread")]
async fn rel_28_one_merge_makes_the_image() {
    let mut run = Run::new("rel_28");
    let rounds = run.part_of(ROUNDS, 3);
    let service = run.service(|_| {});
    let Some(road) = roads::present(service.http()).into_iter().find(|road| road.name == CHUNKS) else {
        run.finish("**without EdgeGallery chunks**: nothing was merged");
        return;
    };
    let client = service.client();
    for _ in 0..rounds {
        let (id, size_bytes) = (uuid::Uuid::new_v4(), run.spread(2 * MIB, 6 * MIB));
        let ledger = Arc::new(Ledger::default());
        let both = [run.random.next(), run.random.next()]
            .map(|seed| ledger.begin(Entry::new(id, Content::new(seed, size_bytes))));
        let results = both.map(|index| send(road, target(&service), &ledger, index)).map(join);
        let (made, refused): (Vec<_>, Vec<_>) = results.iter().partition(|result| result.is_ok());
        assert_eq!(made.len(), 1, "expected one merge that makes an image: {results:?}");
        assert!(refused.iter().all(|result| matches!(result, Err(Setback::Refused { .. }))), "{results:?}");
        let images = audit::images(&client).await;
        assert_eq!(images.len(), 1, "expected one image: {images:?}");
        let bytes = crate::support::jobs::download(&client, &images[0].name).await;
        check_parts(&bytes, &ledger.all());
        remove(&client, &images[0].name).await;
        // What the slower client sent behind the merge is a session of its own.
        roads::cancel_chunks(target(&service), &id.to_string());
    }
    audit::check_store(&service).await;
    run.finish(&format!(
        "two clients, the same parts, two merges: {rounds} rounds, one image each, of whole parts"
    ));
}

const CHUNKS: &str = "EdgeGallery chunks";

/// Each part holds the bytes of one client. There may be fewer parts than were sent: a merge takes what is there.
fn check_parts(bytes: &[u8], entries: &[Entry]) {
    let part_bytes = roads::chunk_bytes(entries[0].content.size_bytes);
    for (index, part) in bytes.chunks(part_bytes as usize).enumerate() {
        let offset_bytes = index as u64 * part_bytes;
        let of_one = |entry: &Entry| entry.content.bytes(offset_bytes, part.len() as u64) == part;
        assert!(entries.iter().any(of_one), "expected part {} to be one client's", index + 1);
    }
}
