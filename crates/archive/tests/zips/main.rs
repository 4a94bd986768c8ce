//! Zips of every sort, made byte by byte and by peers: which are taken, and why the others are not.

#![allow(clippy::unwrap_used, missing_docs)]

mod bombs;
mod damage;
mod forge;
mod peers;
mod refused;

use std::io::{Cursor, Read};

use forge::{Part, zip};
use imageops_archive::{Error, ErrorKind, Limits, Member, open, reason};

type Opened = Result<Member<Cursor<Vec<u8>>>, Error>;

fn look(bytes: Vec<u8>) -> Opened {
    open(Cursor::new(bytes), &Limits::default())
}

/// Name and content of the image.
fn read(bytes: Vec<u8>) -> Result<(String, Vec<u8>), Error> {
    read_within(bytes, &Limits::default())
}

fn read_within(bytes: Vec<u8>, limits: &Limits) -> Result<(String, Vec<u8>), Error> {
    let mut member = open(Cursor::new(bytes), limits)?;
    let mut content = Vec::new();
    member.read_to_end(&mut content).map_err(Error::from_read)?;
    assert_eq!(content.len() as u64, member.size_bytes());
    assert_eq!(member.compressed_read_bytes(), member.compressed_bytes());
    Ok((member.base_name().to_owned(), content))
}

#[track_caller]
fn assert_refused(bytes: Vec<u8>, kind: ErrorKind, reason: &str) {
    let error = read(bytes).unwrap_err();
    assert_eq!((error.kind, error.reason), (kind, reason), "{error}");
}

#[test]
fn the_image_is_read_whole_stored_and_deflated() {
    let content: Vec<u8> = (0..1_000_000_u32).map(|index| (index / 7) as u8).collect();
    for content in [&content[..], b"x", b"", &[0; 70_000], &content[..262_144], &content[..262_145]] {
        for part in [Part::stored("pack/disk.img", content), Part::deflated("pack/disk.img", content)] {
            for part in [part.clone(), part.clone().with_descriptor(), part.clone().long()] {
                let (name, read) = read(zip(&[part])).unwrap();
                assert_eq!(name, "disk.img");
                assert!(read == content);
            }
        }
    }
}

#[test]
fn the_image_is_found_among_others() {
    let other = |name: &str| Part::stored(name, b"other");
    let parts = [
        Part::stored("pack/", b""),
        other("__MACOSX/pack/._disk.img"),
        other("pack/._disk.img"),
        other("__MACOSX/pack/disk.img"),
        other("README"),
        other("pack/disk.IMG"),
        other("pack/.img"),
        other("inner.zip"),
        Part::deflated("pack/deep/disk.qcow2", b"the disk"),
        other("pack/disk.vmdk"),
    ];
    assert_eq!(read(zip(&parts)).unwrap(), ("disk.qcow2".to_owned(), b"the disk".to_vec()));
    let without = [&parts[..8], &parts[9..]].concat();
    assert_refused(zip(&without), ErrorKind::NoImage, reason::ARCHIVE_NO_IMAGE);
    assert_refused(zip(&[]), ErrorKind::NoImage, reason::ARCHIVE_NO_IMAGE);
}

#[test]
fn of_several_images_the_first_is_taken_when_asked_for() {
    let parts = [Part::stored("b.img", b"first"), Part::stored("a.img", b"second")];
    assert_refused(zip(&parts), ErrorKind::Unsafe, reason::ARCHIVE_SEVERAL_IMAGES);
    let limits = Limits { take_first: true, ..Default::default() };
    assert_eq!(read_within(zip(&parts), &limits).unwrap(), ("b.img".to_owned(), b"first".to_vec()));
}

#[test]
fn a_failed_read_fails_again_and_never_gives_the_last_bytes() {
    let mut part = Part::stored("disk.img", &[7; 600_000]);
    part.crc32 ^= 1;
    let mut member = look(zip(&[part])).unwrap();
    let mut content = Vec::new();
    for _ in 0..3 {
        let error = Error::from_read(member.read_to_end(&mut content).unwrap_err());
        assert_eq!((error.kind, error.reason), (ErrorKind::Invalid, reason::ARCHIVE_DAMAGED));
    }
    assert!(content.len() < 600_000);
}

#[test]
fn what_is_longer_than_the_limit_is_refused_at_once() {
    let limits = Limits { max_bytes: 5, ..Default::default() };
    let of = |content: &[u8]| read_within(zip(&[Part::stored("disk.img", content)]), &limits);
    assert!(of(b"12345").is_ok());
    let error = of(b"123456").unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::TooLarge, reason::ARCHIVE_TOO_LARGE));
}
