//! SEC-36: sources that are slow, endless, or lie.

use std::sync::Arc;
use std::time::{Duration, Instant};

use imageops_fetch::{Error, Limits};
use tokio::time::timeout;

use crate::source::{Reply, Source, limits};
use crate::whole::{content, fetch};

#[tokio::test]
async fn sec_36_a_byte_now_and_then_is_too_slow() {
    let trickle = |_: &_, _| Reply::whole(&[7; 100_000]).trickle(Duration::from_millis(20));
    let source = Source::start(trickle).await;
    let started = Instant::now();
    assert_eq!(fetch(&source, limits()).await, Err(Error::TooSlow));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn sec_36_silence_after_the_head_is_too_slow() {
    let silent = |_: &_, _| Reply::whole(&[7; 10]).trickle(Duration::from_secs(3_600));
    let source = Source::start(silent).await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::TooSlow));
}

/// What a source that breaks off again and again ends with, without what it may take for all of the file.
async fn fetch_from_breaker(limits: Limits, answer: fn(Reply) -> Reply) -> Result<Vec<u8>, Error> {
    let bytes = content(1_000_000);
    let source =
        Source::start(move |request, _| answer(Reply::part_of(&bytes, request).tagged("\"a\""))).await;
    timeout(Duration::from_secs(15), fetch(&source, limits)).await.expect("it ends after a window")
}

#[tokio::test]
async fn sec_36_no_answer_begins_a_new_window() {
    let (slow, pause) = (Err(Error::TooSlow), Duration::from_millis(400));
    for ranges in [1, 4] {
        let limits = Limits { ranges, range_bytes: 250_000, ranges_from_bytes: 1, ..limits() };
        // One byte, and many, before each cut.
        assert_eq!(fetch_from_breaker(limits.clone(), |reply| reply.cut_after(1)).await, slow);
        let trickle = |reply: Reply| reply.trickle(Duration::from_millis(20)).cut_after(20);
        assert_eq!(fetch_from_breaker(limits.clone(), trickle).await, slow);
        // The time before a head, and before the next try.
        let late = |reply: Reply| reply.late(Duration::from_millis(400)).cut_after(1_000);
        assert_eq!(fetch_from_breaker(limits.clone(), late).await, slow);
        let limits = Limits { back_off: pause, ..limits };
        assert_eq!(fetch_from_breaker(limits, |reply| reply.cut_after(1_000)).await, slow);
    }
}

#[tokio::test]
async fn sec_36_who_breaks_off_and_is_fast_enough_is_not_blamed() {
    // Four windows and more, with several times what is asked for in each.
    let answer = |reply: Reply| reply.late(Duration::from_millis(20)).cut_after(10_000);
    assert_eq!(fetch_from_breaker(limits(), answer).await.unwrap().len(), 1_000_000);
}

#[tokio::test]
async fn sec_36_what_never_ends_is_left_at_the_limit() {
    let endless = |_: &_, _| Reply::head("200 OK", "").with(&[7; 65_536]).endless();
    let source = Source::start(endless).await;
    let limits = Limits { max_bytes: 5 << 20, ..limits() };
    assert_eq!(fetch(&source, limits).await, Err(Error::TooLarge { limit_bytes: 5 << 20 }));
}

#[tokio::test]
async fn sec_36_a_declared_length_past_the_limit_costs_nothing() {
    let source = Source::start(|_, _| Reply::head("200 OK", "content-length: 1099511627776\r\n")).await;
    let limits = Limits { max_bytes: 1 << 30, ..limits() };
    assert_eq!(fetch(&source, limits).await, Err(Error::TooLarge { limit_bytes: 1 << 30 }));
}

#[tokio::test]
async fn sec_36_fewer_bytes_than_were_told_are_no_file() {
    let source =
        Source::start(|_, _| Reply::head("200 OK", "content-length: 1000\r\n").with(&[7; 900])).await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::Cut));
    // Nor with a tag: each try again brings nothing.
    let source = Source::start(|request, _| match request.range() {
        None => Reply::head("200 OK", "content-length: 1000\r\n").tagged("\"a\"").with(&[7; 900]),
        Some((first, last)) => {
            let head = format!("content-range: bytes {first}-{last}/1000\r\ncontent-length: 100\r\n");
            Reply::head("206 Partial Content", &head).tagged("\"a\"")
        }
    })
    .await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::Cut));
    assert_eq!(source.requests(), 3);
}

#[tokio::test]
async fn sec_36_more_bytes_than_were_told_are_not_taken() {
    let source =
        Source::start(|_, _| Reply::head("200 OK", "content-length: 900\r\n").with(&[7; 1_000])).await;
    assert_eq!(fetch(&source, limits()).await.unwrap().len(), 900);
}

#[tokio::test]
async fn sec_36_two_lengths_are_none() {
    for head in [
        "content-length: 4\r\ncontent-length: 5\r\n",
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "content-length: -1\r\n",
        "content-length: 99999999999999999999\r\n",
    ] {
        let source =
            Source::start(move |_, _| Reply::head("200 OK", head).with(b"4\r\nabcd\r\n0\r\n\r\n")).await;
        let result = fetch(&source, limits()).await;
        assert!(result.is_err(), "{head:?}: {result:?}");
    }
}

#[tokio::test]
async fn sec_36_a_file_that_changes_in_the_middle_is_not_mixed() {
    // Cut, and another tag afterwards: as a whole answer, and as a part of another file.
    for partial in [false, true] {
        let source = Source::start(move |request, number| {
            let (bytes, etag) =
                if number == 0 { (vec![1; 1_000_000], "\"a\"") } else { (vec![2; 1_000_000], "\"b\"") };
            match (number, partial) {
                (0, _) => Reply::part_of(&bytes, request).tagged(etag).cut_after(500_000),
                (_, true) => Reply::part_of(&bytes, request).tagged(etag),
                (_, false) => Reply::whole(&bytes).tagged(etag),
            }
        })
        .await;
        assert_eq!(fetch(&source, limits()).await, Err(Error::Changed), "{partial}");
    }
    // Another length.
    let source = Source::start(|request, number| {
        let bytes = content(if number == 0 { 1_000_000 } else { 1_000_001 });
        match request.range() {
            None => Reply::part_of(&bytes, request).tagged("\"a\"").cut_after(500_000),
            Some((first, last)) => {
                let head = format!("content-range: bytes {first}-{last}/1000001\r\n");
                Reply::head("206 Partial Content", &head).with(&bytes[first..=last])
            }
        }
    })
    .await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::Changed));
}

#[tokio::test]
async fn sec_36_ranges_of_two_versions_are_not_mixed() {
    let (old, new) = (Arc::new(content(1 << 20)), Arc::new(vec![3; 1 << 20]));
    let source = Source::start(move |request, number| {
        let (bytes, etag) = if number < 6 { (&old, "\"a\"") } else { (&new, "\"b\"") };
        match request.header("if-range") {
            Some(wanted) if wanted != etag => Reply::whole(bytes).tagged(etag),
            _ => Reply::part_of(bytes, request).tagged(etag),
        }
    })
    .await;
    let limits = Limits { range_bytes: 65_536, ranges_from_bytes: 1, ..limits() };
    assert_eq!(fetch(&source, limits).await, Err(Error::Changed));
}

/// A part has the tag of its whole: without it, or with a weak one, it may be of another file.
#[tokio::test]
async fn sec_36_parts_without_the_tag_of_the_whole_are_not_mixed_in() {
    for tag in ["", "etag: W/\"a\"\r\n"] {
        let source = Source::start(move |request, _| match request.range() {
            None => Reply::part_of(&content(1_000_000), request).tagged("\"a\"").cut_after(500_000),
            Some((first, last)) => {
                let head = format!("content-range: bytes {first}-{last}/1000000\r\n{tag}");
                Reply::head("206 Partial Content", &head).with(&vec![2; last - first + 1])
            }
        })
        .await;
        assert_eq!(fetch(&source, limits()).await, Err(Error::Changed), "{tag:?}");
    }
}

#[tokio::test]
async fn sec_36_another_range_than_was_asked_for_is_refused() {
    let source = Source::start(|request, _| match request.range() {
        None => Reply::part_of(&content(1_000_000), request).tagged("\"a\"").cut_after(10),
        Some(_) => Reply::head("206 Partial Content", "content-range: bytes 0-999999/1000000\r\n")
            .with(&content(1_000_000)),
    })
    .await;
    assert!(matches!(fetch(&source, limits()).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn sec_36_heads_are_bounded() {
    let source = Source::start(|_, _| {
        Reply::head("200 OK", &format!("x-filler: {}\r\ncontent-length: 1\r\n", "a".repeat(66_000)))
            .with(b"x")
    })
    .await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::Unreachable));
    let many = "x-filler: a\r\n".repeat(5_000);
    let source = Source::start(move |_, _| Reply::head("200 OK", &many).with(b"x")).await;
    assert_eq!(fetch(&source, limits()).await, Err(Error::Unreachable));
}

#[tokio::test]
async fn sec_36_what_is_packed_on_the_wire_is_refused() {
    for encodings in
        ["content-encoding: gzip\r\n", "content-encoding: identity\r\ncontent-encoding: gzip\r\n"]
    {
        let head = format!("{encodings}content-length: 1\r\n");
        let source = Source::start(move |_, _| Reply::head("200 OK", &head).with(b"x")).await;
        assert!(matches!(fetch(&source, limits()).await, Err(Error::Invalid(_))), "{encodings:?}");
    }
}

#[tokio::test]
async fn what_the_source_refuses_is_told_as_one_category() {
    for status in [
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "410 Gone",
        "206 Partial Content",
        "204 No Content",
    ] {
        let source = Source::start(move |_, _| Reply::head(status, "content-length: 0\r\n")).await;
        assert_eq!(fetch(&source, limits()).await, Err(Error::Refused), "{status}");
        assert_eq!(source.requests(), 1);
    }
}
