//! Files that come whole: as one, after cuts, in ranges.

use std::sync::Arc;
use std::time::Duration;

use imageops_fetch::{Error, Limits};

use crate::names::{Names, gate};
use crate::source::{Reply, Source, limits, open};

/// Bytes that are different everywhere.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length as u64 / 8 + 1)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .take(length)
        .collect()
}

/// All of a source.
pub(crate) async fn fetch(source: &Source, limits: Limits) -> Result<Vec<u8>, Error> {
    let gate = gate(&Names::of(&[]), &["127.0.0.1"]);
    let url = gate.read(&format!("http://127.0.0.1:{}/disk.img", source.port())).unwrap();
    let mut fetch = open(&gate, &url, limits).await?;
    let mut all = Vec::new();
    while let Some(data) = fetch.next().await? {
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// Limits that make ranges of small files.
fn in_ranges() -> Limits {
    Limits { range_bytes: 100_000, ranges_from_bytes: 500_000, ..limits() }
}

#[tokio::test]
async fn a_file_comes_as_one_with_its_length_in_chunks_or_up_to_the_end() {
    let bytes = Arc::new(content(3 << 20));
    let sent = Arc::clone(&bytes);
    let source = Source::start(move |_, number| match number {
        0 => Reply::whole(&sent),
        1 => {
            let mut body = Vec::new();
            for chunk in sent.chunks(70_000) {
                body.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                body.extend([chunk, b"\r\n"].concat());
            }
            body.extend(b"0\r\n\r\n");
            Reply::head("200 OK", "transfer-encoding: chunked\r\n").with(&body)
        }
        2 => Reply::head("200 OK", "").with(&sent),
        _ => Reply::whole(b""),
    })
    .await;
    for _ in 0..3 {
        assert!(fetch(&source, limits()).await.unwrap() == *bytes);
    }
    assert!(fetch(&source, limits()).await.unwrap().is_empty());
    assert!(source.heads()[0].contains("accept-encoding: identity\r\n"), "{}", source.heads()[0]);
}

#[tokio::test]
async fn what_comes_slowly_is_handed_on_meanwhile() {
    let source = Source::start(|_, _| Reply::whole(&[7; 400]).trickle(Duration::from_millis(10))).await;
    let gate = gate(&Names::of(&[]), &["127.0.0.1"]);
    let url = gate.read(&format!("http://127.0.0.1:{}/disk.img", source.port())).unwrap();
    let slow = Limits { min_bytes_per_second: 1, ..limits() };
    let mut fetch = open(&gate, &url, slow).await.unwrap();
    let mut pieces = Vec::new();
    while let Some(data) = fetch.next().await.unwrap() {
        pieces.push(data.len());
    }
    assert_eq!(pieces.iter().sum::<usize>(), 400);
    assert!(pieces.len() > 1, "expected the first bytes before the last ones");
}

#[tokio::test]
async fn after_each_cut_it_goes_on_where_it_was() {
    let bytes = Arc::new(content(3 << 20));
    let sent = Arc::clone(&bytes);
    let source =
        Source::start(move |request, _| Reply::part_of(&sent, request).tagged("\"a\"").cut_after(700_000))
            .await;
    assert!(fetch(&source, limits()).await.unwrap() == *bytes);
    let heads = source.heads();
    assert_eq!(heads.len(), 5, "{heads:?}");
    assert!(heads[1].contains("range: bytes=700000-3145727\r\n"), "{}", heads[1]);
    assert!(heads[1].contains("if-range: \"a\"\r\n"), "{}", heads[1]);
}

#[tokio::test]
async fn what_has_no_strong_tag_is_not_gone_on_with() {
    for etag in ["W/\"a\"", "a"] {
        let source = Source::start(move |request, _| {
            Reply::part_of(&content(1 << 20), request).tagged(etag).cut_after(700_000)
        })
        .await;
        assert_eq!(fetch(&source, limits()).await, Err(Error::Cut));
        assert_eq!(source.requests(), 1);
    }
}

#[tokio::test]
async fn a_source_that_is_away_for_a_moment_is_asked_again() {
    let source = Source::start(|_, number| match number {
        0 => Reply::head("503 Service Unavailable", "content-length: 0\r\n"),
        1 => Reply::raw(""),
        _ => Reply::whole(b"there"),
    })
    .await;
    assert_eq!(fetch(&source, limits()).await.unwrap(), b"there");
    let source = Source::start(|_, _| Reply::head("502 Bad Gateway", "content-length: 0\r\n")).await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::Unreachable));
    assert_eq!(source.requests(), 3, "the tries are bounded");
}

#[tokio::test]
async fn ranges_come_at_once_and_are_put_in_order() {
    let bytes = Arc::new(content(1_234_567));
    let sent = Arc::clone(&bytes);
    let source = Source::start(move |request, _| Reply::part_of(&sent, request).tagged("\"a\"")).await;
    assert!(fetch(&source, in_ranges()).await.unwrap() == *bytes);
    let heads = source.heads();
    assert_eq!(heads.len(), 13);
    assert!(heads.iter().any(|head| head.contains("range: bytes=1200000-1234566\r\n")), "{heads:?}");
}

#[tokio::test]
async fn four_ranges_are_under_way_before_the_first_is_taken() {
    let source = Source::start(|request, _| Reply::part_of(&content(1 << 20), request).tagged("\"a\"")).await;
    let gate = gate(&Names::of(&[]), &["127.0.0.1"]);
    let url = gate.read(&format!("http://127.0.0.1:{}/", source.port())).unwrap();
    let fetch = open(&gate, &url, in_ranges()).await.unwrap();
    // Nothing is taken, and yet all four are asked for; no fifth.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while source.requests() < 4 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!(source.requests(), 4);
    drop(fetch);
}

#[tokio::test]
async fn ranges_go_on_after_cuts_too() {
    let bytes = Arc::new(content(1_000_000));
    let sent = Arc::clone(&bytes);
    let source = Source::start(move |request, number| {
        let reply = Reply::part_of(&sent, request).tagged("\"a\"");
        if number % 3 == 1 { reply.cut_after(33_333) } else { reply }
    })
    .await;
    assert!(fetch(&source, in_ranges()).await.unwrap() == *bytes);
}

#[tokio::test]
async fn a_dropped_fetch_leaves_its_source() {
    let source = Source::start(|_, _| Reply::head("200 OK", "").with(&[7; 65_536]).endless()).await;
    let gate = gate(&Names::of(&[]), &["127.0.0.1"]);
    let url = gate.read(&format!("http://127.0.0.1:{}/", source.port())).unwrap();
    let mut fetch = open(&gate, &url, limits()).await.unwrap();
    assert!(fetch.next().await.unwrap().is_some());
    drop(fetch);
}
