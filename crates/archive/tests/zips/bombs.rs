//! SEC-21 and SEC-22: bombs are refused, empty disks are not.

use std::fs::File;
use std::io::{BufRead, BufWriter, Cursor, Write};
use std::time::Duration;

use imageops_archive::{Error, ErrorKind, Limits, Member, open, reason};

use crate::forge::{Part, STREAM_END, central, deflate_piece, end};

/// What one piece of a stream unpacks to.
const PIECE_BYTES: usize = 64 << 20;

/// A zip with one member, of `count` pieces of one byte repeated.
fn of_pieces(name: &str, byte: u8, count: usize, crc32: u32) -> Vec<u8> {
    let piece = deflate_piece(&vec![byte; PIECE_BYTES]);
    let mut part = Part::deflated(name, b"");
    part.crc32 = crc32;
    part.size = (count * PIECE_BYTES) as u64;
    part.compressed = (count * piece.len() + STREAM_END.len()) as u64;
    let part = if part.size > u64::from(u32::MAX) { part.long() } else { part };
    let mut bytes = part.local_header();
    (0..count).for_each(|_| bytes.extend(&piece));
    bytes.extend(STREAM_END);
    end(bytes, &central(&part, 0), 1, part.is_long)
}

/// Reads all, and returns how much that was.
fn drain<R: std::io::Read + std::io::Seek>(member: &mut Member<R>) -> Result<u64, Error> {
    let mut total = 0;
    loop {
        let length = member.fill_buf().map_err(Error::from_read)?.len();
        if length == 0 {
            return Ok(total);
        }
        member.consume(length);
        total += length as u64;
    }
}

fn drained(bytes: Vec<u8>, limits: &Limits) -> Result<u64, Error> {
    drain(&mut open(Cursor::new(bytes), limits)?)
}

fn assert_bomb(bytes: Vec<u8>) {
    let mut member = open(Cursor::new(bytes), &Limits::default()).unwrap();
    let error = drain(&mut member).unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Unsafe, reason::ARCHIVE_BOMB));
}

/// Time that this thread was on a processor: other work on the machine does not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// CRC-32 of 1 GiB of zeros.
const CRC_GIB: u32 = 0x5b64_c2b0;
/// CRC-32 of 100 GiB of zeros.
const CRC_100_GIB: u32 = 0xe9cf_0e8f;

#[test]
fn sec_21_a_gibibyte_of_one_letter_is_refused() {
    assert_bomb(of_pieces("disk.img", b'x', 16, 0));
    // Zeros are holes of a raw disk, and of nothing else.
    assert_bomb(of_pieces("disk.qcow2", 0, 16, CRC_GIB));
    assert_eq!(drained(of_pieces("disk.img", 0, 16, CRC_GIB), &Limits::default()).unwrap(), 1 << 30);
}

#[test]
fn sec_21_the_ratio_is_not_asked_of_what_is_small() {
    let limits = Limits { ratio_free_bytes: 64 << 20, ..Default::default() };
    let mut part = Part::deflated("disk.img", &[b'x'; 8 << 20]);
    part.crc32 ^= 1;
    // It is read to its end, where the checksum is found to be wrong.
    let error = drained(crate::zip(&[part]), &limits).unwrap_err();
    assert_eq!(error.reason, reason::ARCHIVE_DAMAGED);
    let strict = Limits { ratio_free_bytes: 1 << 20, ..Default::default() };
    let error = drained(crate::zip(&[Part::deflated("disk.img", &[b'x'; 8 << 20])]), &strict).unwrap_err();
    assert_eq!(error.reason, reason::ARCHIVE_BOMB);
}

#[test]
fn sec_21_members_by_the_thousand_are_refused_at_once() {
    let parts: Vec<_> = (0..20_000).map(|number| Part::stored(&number.to_string(), b"")).collect();
    let error = open(Cursor::new(crate::zip(&parts)), &Limits::default()).unwrap_err();
    assert_eq!(error.reason, reason::ARCHIVE_UNSAFE);
}

#[test]
fn sec_22_a_large_empty_disk_is_no_bomb() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("empty.zip");
    let bytes = of_pieces("disk.img", 0, 1600, CRC_100_GIB);
    assert!(bytes.len() < 200 << 20);
    BufWriter::new(File::create(&path).unwrap()).write_all(&bytes).unwrap();
    drop(bytes);
    let file = File::open(&path).unwrap();
    let small = Limits { max_bytes: (100 << 30) - 1, ..Default::default() };
    assert_eq!(open(&file, &small).unwrap_err().reason, reason::ARCHIVE_TOO_LARGE);

    let start = cpu_time();
    let mut member = open(&file, &Limits { max_bytes: 100 << 30, ..Default::default() }).unwrap();
    assert_eq!(drain(&mut member).unwrap(), 100 << 30);
    let taken = cpu_time() - start;
    assert!(taken < Duration::from_secs(60), "{taken:?}");
}
