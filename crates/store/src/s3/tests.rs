//! The store against a real server, directly and through a proxy that does harm.
#![allow(clippy::unwrap_used)]

mod proxy;
mod server;

use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime};

use http::Method;

use super::*;
use crate::S3Settings;
use crate::suite::{Place as _, keys, noise, read_all, read_blob, stage, store_suite};
use proxy::{Harm, Proxy};
use server::{Bucket, SECRET};

store_suite!(Bucket);

const MIB: usize = 1 << 20;

/// A store behind a proxy.
struct Harmed {
    store: S3Store,
    proxy: Proxy,
    bucket: Bucket,
}

impl Harmed {
    /// `None` where there is no server of our own; the skip has been noted.
    fn open() -> Option<Self> {
        if let Some(reason) = Bucket::missing_own() {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        let bucket = Bucket::new();
        let proxy = Proxy::start(bucket.runtime.handle(), &bucket.address);
        let settings = S3Settings { endpoint: format!("http://{}", proxy.address), ..bucket.settings() };
        Some(Self { store: bucket.open_with(&settings).unwrap(), proxy, bucket })
    }

    fn stage(&self, key: &str, content: &[u8]) {
        self.store.discard_staged(key).unwrap();
        self.store.stage(key).unwrap().write_all(content).unwrap();
    }
}

fn is_completion(request: &http::Request<bytes::Bytes>) -> bool {
    request.method() == Method::POST && request.uri().query().is_some_and(|query| query.contains("uploadId"))
}

#[test]
fn settings_that_do_not_fit_the_server_are_told() {
    let Some(harmed) = Harmed::open() else { return };
    let settings = harmed.bucket.settings();
    drop(harmed.store);
    for (changed, expected) in [
        (S3Settings { bucket: "nothing".to_owned(), ..settings.clone() }, "bucket"),
        (S3Settings { secret_key: "wrong-secret".to_owned(), ..settings.clone() }, "access key"),
        (S3Settings { endpoint: "http://127.0.0.1:1".to_owned(), ..settings.clone() }, "cannot be reached"),
    ] {
        let error = harmed.bucket.open_with(&changed).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.to_string().contains(expected), "{text}");
        assert!(
            !text.contains(SECRET) && !text.contains("wrong-secret") && !text.contains("127.0.0.1"),
            "{text}"
        );
    }
}

#[test]
fn nothing_shows_the_secret() {
    let Some(harmed) = Harmed::open() else { return };
    let text = format!("{:?}", harmed.store);
    assert!(!text.contains(SECRET) && !text.contains("the-access-key"), "{text}");
}

#[test]
fn two_servers_share_a_bucket() {
    let Some(harmed) = Harmed::open() else { return };
    let staging = tempfile::TempDir::new().unwrap();
    let runtime = harmed.bucket.runtime.handle().clone();
    let other = S3Store::open_or_create(&harmed.bucket.settings(), staging.path(), runtime).unwrap();
    assert_eq!(other.id(), harmed.store.id());
    stage(&harmed.store, "s");
    harmed.store.publish("s", "b").unwrap();
    assert_eq!(read_blob(&other, "b"), crate::suite::CONTENT);
    assert!(matches!(other.open_staged("s"), Err(Error::NotFound)), "staged files are local");
}

#[test]
fn a_missing_stamp_is_told() {
    let Some(harmed) = Harmed::open() else { return };
    stage(&harmed.store, "s");
    harmed.store.publish("s", "b").unwrap();
    std::fs::remove_file(harmed.bucket.files().join("images/some/prefix/imageops-store")).unwrap();
    assert!(matches!(harmed.store.probe(), Err(Error::Gone(_))));
    drop(harmed.store);
    let refused = harmed.bucket.open_with(&harmed.bucket.settings()).unwrap_err();
    assert!(matches!(&refused, Error::Unusable(text) if text.contains("stamp")), "{refused:?}");
}

#[test]
fn reading_in_order_fetches_each_block_once() {
    let Some(harmed) = Harmed::open() else { return };
    let content = noise(3, 20 * MIB + 5);
    harmed.stage("s", &content);
    harmed.store.publish("s", "b").unwrap();
    let blob = harmed.store.open("b").unwrap();
    harmed.proxy.take_requests();
    let mut read = vec![0; content.len()];
    for (number, piece) in read.chunks_mut(MIB / 16).enumerate() {
        blob.read_exact_at(piece, (number * MIB / 16) as u64).unwrap();
    }
    assert!(read == content);
    assert_eq!(harmed.proxy.take_requests().len(), 21);
}

#[test]
fn an_object_that_was_exchanged_is_not_read() {
    let Some(harmed) = Harmed::open() else { return };
    harmed.stage("s", &noise(4, 3 * MIB));
    harmed.stage("t", &noise(5, 3 * MIB));
    harmed.store.publish("s", "b").unwrap();
    let blob = harmed.store.open("b").unwrap();
    let mut first = [0; 10];
    blob.read_exact_at(&mut first, 0).unwrap();
    harmed.store.remove("b").unwrap();
    harmed.store.publish("t", "b").unwrap();
    let error = blob.read_exact_at(&mut first, 2 * MIB as u64).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error:?}");
}

/// One request in ten is harmed, at random but the same in each run: no operation fails.
#[test]
fn rel_15_a_tenth_of_failures_is_not_noticed() {
    let Some(harmed) = Harmed::open() else { return };
    let content = noise(6, 9 * MIB);
    for harm in [
        Harm::Status(500),
        Harm::Status(503),
        Harm::Status(429),
        Harm::AnswerLost,
        Harm::Truncated,
        Harm::Slow,
    ] {
        let (mut dice, mut harmed_requests) = (noise(7, 100_000).into_iter(), 0);
        let (sender, receiver) = std::sync::mpsc::channel();
        harmed.proxy.choose(move |_| {
            if dice.next().unwrap_or(255) >= 26 {
                return Harm::None;
            }
            harmed_requests += 1;
            let _ = sender.send(harmed_requests);
            harm
        });
        for number in 0..6 {
            let (staged, blob) = (format!("s-{number}"), format!("b-{number}"));
            let content = if number % 3 == 0 { &content[..] } else { &content[..MIB + number] };
            harmed.stage(&staged, content);
            harmed.store.publish(&staged, &blob).unwrap_or_else(|error| panic!("{harm:?}: {error:?}"));
            let read = read_all(&*harmed.store.open(&blob).unwrap()).unwrap();
            assert!(read == content, "{harm:?}");
        }
        assert_eq!(harmed.store.list().unwrap().len(), 6, "{harm:?}");
        for number in 0..6 {
            harmed.store.remove(&format!("b-{number}")).unwrap();
        }
        harmed.store.probe().unwrap();
        assert!(receiver.try_iter().last().is_some_and(|count| count > 5), "{harm:?}: the test does harm");
        harmed.proxy.choose(|_| Harm::None);
        harmed.store.sweep_incomplete(SystemTime::now() + Duration::from_secs(1)).unwrap();
        assert_eq!(harmed.bucket.part_files().len(), 0, "{harm:?}: parts without an upload");
    }
}

/// Requests that are sent again only by who knows that they may be: puts on a condition, and what is posted.
#[test]
fn rel_15_whatever_lost_its_answer_is_sent_again() {
    let Some(harmed) = Harmed::open() else { return };
    let content = noise(12, 9 * MIB);
    for harm in [Harm::AnswerLost, Harm::Silence] {
        for length in [MIB, 9 * MIB] {
            harmed.stage("s", &content[..length]);
            let mut met = std::collections::BTreeSet::new();
            // Each kind of request is harmed once.
            harmed.proxy.choose(move |request| {
                let query = request.uri().query().unwrap_or_default();
                let names =
                    query.split('&').map(|pair| pair.split('=').next().unwrap_or_default().to_owned());
                let kind = (request.method().to_string(), names.collect::<Vec<_>>());
                // The server may be at work on a completion for long.
                let is_patient = harm == Harm::Silence && is_completion(request);
                if !is_patient && met.insert(kind) { harm } else { Harm::None }
            });
            harmed.store.publish("s", "b").unwrap_or_else(|error| panic!("{harm:?}: {error:?}"));
            assert!(read_blob(&harmed.store, "b") == content[..length], "{harm:?}");
            harmed.store.remove("b").unwrap_or_else(|error| panic!("{harm:?}: {error:?}"));
        }
    }
}

/// A server that answers nothing but failures: refused at once by the breaker, served again when it recovers.
#[test]
fn rel_15_a_broken_server_is_refused_quickly() {
    let Some(harmed) = Harmed::open() else { return };
    stage(&harmed.store, "s");
    harmed.store.publish("s", "b").unwrap();
    let blob = harmed.store.open("b").unwrap();
    for harm in [Harm::Status(503), Harm::AnswerLost] {
        harmed.proxy.choose(move |_| harm);
        let refused = |what: Result<()>| assert!(matches!(what, Err(Error::Unavailable(_))), "{what:?}");
        let start = Instant::now();
        refused(harmed.store.probe());
        assert!(start.elapsed() < Duration::from_secs(4), "{harm:?}: {:?}", start.elapsed());
        // From now on quickly, whatever is asked.
        let (start, mut asked) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(3) {
            let before = Instant::now();
            refused(harmed.store.publish("s", "c"));
            refused(harmed.store.open("b").map(drop));
            refused(harmed.store.remove("b"));
            refused(harmed.store.list().map(drop));
            assert!(before.elapsed() < Duration::from_secs(2), "{harm:?}: {:?}", before.elapsed());
            asked += 4;
        }
        assert!(asked > 20, "{harm:?}: {asked}");
        harmed.proxy.choose(|_| Harm::None);
        let recovering = Instant::now();
        while harmed.store.probe().is_err() {
            assert!(recovering.elapsed() < Duration::from_secs(10), "{harm:?}");
            std::thread::yield_now();
        }
        assert_eq!(read_all(&*blob).unwrap(), crate::suite::CONTENT);
    }
}

/// rel_15: a server that takes requests and never answers.
#[test]
fn rel_15_silence_is_an_outage() {
    let Some(harmed) = Harmed::open() else { return };
    harmed.proxy.choose(|_| Harm::Silence);
    let error = harmed.store.probe().unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let start = Instant::now();
    assert!(matches!(harmed.store.list(), Err(Error::Unavailable(_))));
    harmed.proxy.choose(|_| Harm::None);
    while harmed.store.probe().is_err() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

/// The server acknowledges a part and stores other bytes.
#[test]
fn rel_16_other_bytes_in_a_part_are_found() {
    let Some(harmed) = Harmed::open() else { return };
    harmed.stage("s", &noise(8, 20 * MIB));
    for has_tag in [true, false] {
        let files = harmed.bucket.files().to_owned();
        harmed.proxy.choose(move |request| {
            if is_completion(request) {
                let part = std::fs::read_dir(&files).unwrap().find_map(|entry| {
                    let path = entry.unwrap().path();
                    path.to_string_lossy().contains(".part-").then_some(path)
                });
                let part = std::fs::File::options().read(true).write(true).open(part.unwrap()).unwrap();
                let mut byte = [0];
                part.read_exact_at(&mut byte, 4_000_000).unwrap();
                part.write_all_at(&[byte[0] ^ 1], 4_000_000).unwrap();
            }
            if request.method() == Method::HEAD && !has_tag { Harm::NoTag } else { Harm::None }
        });
        let error = harmed.store.publish("s", "b").unwrap_err();
        assert!(matches!(error, Error::Corrupt), "{error:?}");
        assert!(harmed.store.list().unwrap().is_empty(), "it does not stay");
        assert_eq!(harmed.bucket.part_files().len(), 0);
    }
    harmed.proxy.choose(|_| Harm::None);
    harmed.store.publish("s", "b").unwrap();
    assert!(read_blob(&harmed.store, "b") == noise(8, 20 * MIB));
}

#[test]
fn objects_without_tags_are_read_back() {
    let Some(harmed) = Harmed::open() else { return };
    harmed.proxy.choose(|request| if request.method() == Method::HEAD { Harm::NoTag } else { Harm::None });
    for size in [0, 1, 9 * MIB] {
        let content = noise(9, size);
        harmed.stage("s", &content);
        let blob = format!("b-{size}");
        for _ in 0..2 {
            harmed.store.publish("s", &blob).unwrap();
        }
        assert!(read_blob(&harmed.store, &blob) == content);
    }
}

/// The completion took place, but its answer was lost and the upload is no longer known.
#[test]
fn a_lost_answer_to_the_completion_is_no_failure() {
    let Some(harmed) = Harmed::open() else { return };
    let content = noise(10, 9 * MIB);
    harmed.stage("s", &content);
    let mut is_first = true;
    harmed.proxy.choose(move |request| {
        let is_lost = is_completion(request) && std::mem::take(&mut is_first);
        if is_lost { Harm::AnswerLost } else { Harm::None }
    });
    harmed.store.publish("s", "b").unwrap();
    assert!(read_blob(&harmed.store, "b") == content);
}

#[test]
fn uploads_that_were_cut_off_are_swept() {
    let Some(harmed) = Harmed::open() else { return };
    harmed.stage("s", &noise(11, 20 * MIB));
    // From the third part on nothing gets through, the abort neither: as after a crash.
    let mut parts = 0;
    harmed.proxy.choose(move |request| {
        parts += u32::from(request.uri().query().is_some_and(|query| query.contains("partNumber")));
        if parts >= 3 { Harm::Status(503) } else { Harm::None }
    });
    assert!(matches!(harmed.store.publish("s", "b"), Err(Error::Unavailable(_))));
    harmed.proxy.choose(|_| Harm::None);
    assert!(harmed.bucket.part_files().len() > 1, "the test does harm");
    // The breaker may still refuse.
    let start = Instant::now();
    let swept = loop {
        match harmed.store.sweep_incomplete(SystemTime::now() + Duration::from_secs(1)) {
            Ok(swept) => break swept,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(10), "{error:?}"),
        }
    };
    assert_eq!((swept, harmed.bucket.part_files().len()), (1, 0));
    harmed.store.publish("s", "b").unwrap();
    assert_eq!(keys(&harmed.store.list().unwrap()), ["b"]);
    assert_eq!(harmed.store.sweep_incomplete(SystemTime::now() + Duration::from_secs(1)).unwrap(), 0);
}

#[test]
fn young_uploads_are_not_swept() {
    let Some(harmed) = Harmed::open() else { return };
    let client = Client::new(&harmed.bucket.settings(), harmed.bucket.runtime.handle().clone()).unwrap();
    let begun = incomplete::Incomplete::begin(&client, "b").unwrap();
    assert_eq!(harmed.store.sweep_incomplete(SystemTime::now() - Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(harmed.bucket.part_files().len(), 1);
    drop(begun);
    assert_eq!(harmed.store.sweep_incomplete(SystemTime::now() + Duration::from_secs(1)).unwrap(), 1);
    assert_eq!(harmed.bucket.part_files().len(), 0);
}
