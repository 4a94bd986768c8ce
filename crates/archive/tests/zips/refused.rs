//! SEC-20: what no archive may have, one of each.

use imageops_archive::{ErrorKind, reason};

use crate::forge::{Part, central, deflate, end, zip};
use crate::{assert_refused, look, read};

const INVALID: (ErrorKind, &str) = (ErrorKind::Invalid, reason::ARCHIVE_INVALID);
const UNSAFE: (ErrorKind, &str) = (ErrorKind::Unsafe, reason::ARCHIVE_UNSAFE);
const ENCRYPTED: (ErrorKind, &str) = (ErrorKind::Encrypted, reason::ARCHIVE_ENCRYPTED);

fn image() -> Part {
    Part::stored("disk.img", b"the disk")
}

#[track_caller]
fn refused(bytes: Vec<u8>, (kind, reason): (ErrorKind, &str)) {
    assert_refused(bytes, kind, reason);
}

#[test]
fn sec_20_names_never_lead_anywhere() {
    for (name, base) in [
        ("../../etc/disk.img", "disk.img"),
        ("/etc/disk.img", "disk.img"),
        ("C:\\windows\\disk.img", "disk.img"),
        ("..\\..\\disk.img", "disk.img"),
        ("C:disk.img", "C:disk.img"),
        ("a/../disk.img", "disk.img"),
        ("\u{fc}.img", "\u{fc}.img"),
    ] {
        assert_eq!(look(zip(&[Part::stored(name, b"x")])).unwrap().base_name(), base);
    }
    refused(zip(&[Part::stored("a\0b.img", b"x")]), UNSAFE);
    refused(zip(&[Part::stored("disk\r\n.img", b"x")]), UNSAFE);
    refused(zip(&[image(), Part::stored("", b"x")]), UNSAFE);
    let old = Part { name: b"disk\xb4\xff.img".to_vec(), flags: 0, ..image() };
    assert_eq!(look(zip(&[old])).unwrap().base_name(), "disk\u{fffd}\u{fffd}.img");
}

#[test]
fn sec_20_links_and_devices() {
    for mode in [0o120_777, 0o020_644, 0o060_644, 0o010_644, 0o140_644] {
        refused(zip(&[image().mode(mode)]), UNSAFE);
        refused(zip(&[image(), Part::stored("other", b"/etc/passwd").mode(mode)]), UNSAFE);
        // The same in the old extra field.
        let mut extra = vec![0x6e, 0x75, 14, 0, 0, 0, 0, 0];
        extra.extend((mode as u16).to_le_bytes());
        extra.extend([0; 8]);
        refused(zip(&[image(), Part { extra, ..Part::stored("other", b"") }]), UNSAFE);
    }
    for mode in [0, 0o644, 0o100_644] {
        assert!(read(zip(&[image().mode(mode)])).is_ok());
    }
    // A directory with the name of an image is none.
    assert_refused(
        zip(&[Part::stored("disk.img", b"").mode(0o040_755)]),
        ErrorKind::NoImage,
        reason::ARCHIVE_NO_IMAGE,
    );
    refused(zip(&[image(), Part::stored("folder/", b"content")]), INVALID);
}

#[test]
fn sec_20_more_than_64_members() {
    let members = |count: usize| {
        let others = (1..count).map(|number| Part::stored(&format!("{number}.txt"), b""));
        zip(&[image()].into_iter().chain(others).collect::<Vec<_>>())
    };
    assert!(read(members(64)).is_ok());
    refused(members(65), UNSAFE);
}

#[test]
fn sec_20_more_than_one_disk() {
    assert_refused(
        zip(&[image(), Part::stored("other.iso", b"x")]),
        ErrorKind::Unsafe,
        reason::ARCHIVE_SEVERAL_IMAGES,
    );
    refused(zip(&[Part { volume: 1, ..image() }]), UNSAFE);
    let mut bytes = zip(&[image()]);
    let length = bytes.len();
    bytes[length - 18] = 1;
    refused(bytes, UNSAFE);
}

#[test]
fn sec_20_names_twice() {
    for (one, other) in
        [("a.txt", "a.txt"), ("a.txt", "A.TXT"), ("a/b", "a\\b"), ("a", "a/"), ("\u{e9}", "\u{c9}")]
    {
        refused(zip(&[image(), Part::stored(one, b""), Part::stored(other, b"")]), UNSAFE);
    }
}

#[test]
fn sec_20_encrypted_members() {
    for flag in [1, 1 << 6, 1 << 13] {
        let with = |part: Part| Part { flags: part.flags | flag, ..part };
        refused(zip(&[with(image())]), ENCRYPTED);
        refused(zip(&[image(), with(Part::stored("other", b""))]), ENCRYPTED);
    }
    refused(zip(&[Part { method: 99, ..Part::deflated("disk.img", b"x") }]), ENCRYPTED);
}

#[test]
fn sec_20_methods_that_are_not_read() {
    for method in [1, 6, 9, 12, 14, 93, 95] {
        let part = Part { method, ..image() };
        assert_refused(zip(std::slice::from_ref(&part)), ErrorKind::Unsupported, reason::ARCHIVE_UNSUPPORTED);
        // What is not taken may be packed in whatever way.
        let other = Part { name: b"other".to_vec(), ..part };
        assert!(read(zip(&[image(), other])).is_ok());
    }
}

#[test]
fn sec_20_headers_and_directory_that_disagree() {
    for part in [
        Part { local_name: Some(b"disk.iso".to_vec()), ..image() },
        Part { local_method: Some(8), ..image() },
        Part { local_crc32: Some(1), ..image() },
        Part { local_crc32: Some(0), ..image() },
        Part { local_size: Some(9), ..image() },
        Part { local_size: Some(0), ..image() },
        Part { local_compressed: Some(9), ..image() },
        Part { size: 9, local_size: Some(8), ..image() },
        Part { compressed: 7, local_compressed: Some(7), ..image() },
        Part { size: 9, ..image() },
        Part { local_size: Some(9), ..image().long() },
        Part { local_size: Some(9), ..image().with_descriptor() },
        Part { local_crc32: Some(7), ..image().with_descriptor() },
    ] {
        refused(zip(&[part]), INVALID);
    }
    // The same of members that are not taken: another reader may take them.
    let other = Part { local_name: Some(b"b".to_vec()), ..Part::stored("a", b"x") };
    refused(zip(&[image(), other]), INVALID);
}

#[test]
fn sec_20_descriptors_that_disagree() {
    let right = image().with_descriptor();
    let descriptor = right.descriptor.clone().unwrap();
    assert!(read(zip(std::slice::from_ref(&right))).is_ok());
    assert!(read(zip(&[Part { descriptor: Some(descriptor[4..].to_vec()), ..right.clone() }])).is_ok());
    let long = [&descriptor[..8], &8_u64.to_le_bytes(), &8_u64.to_le_bytes()].concat();
    assert!(read(zip(&[Part { descriptor: Some(long.clone()), ..right.clone() }])).is_ok());
    assert!(read(zip(&[Part { descriptor: Some(long[4..].to_vec()), ..right.clone() }])).is_ok());
    for at in 0..descriptor.len() {
        let mut wrong = descriptor.clone();
        wrong[at] ^= 1;
        refused(zip(&[Part { descriptor: Some(wrong), ..right.clone() }]), INVALID);
    }
    for length in [0, 1, 11, 13, 15] {
        refused(zip(&[Part { descriptor: Some(descriptor[..length].to_vec()), ..right.clone() }]), INVALID);
    }
    // Something follows that nobody announced.
    refused(zip(&[Part { descriptor: Some(descriptor), ..image() }]), INVALID);
}

#[test]
fn sec_20_bytes_that_belong_to_no_member() {
    let whole = zip(&[image()]);
    for junk in [&b"MZ"[..], &image().local_header(), &whole] {
        refused([junk, &whole].concat(), INVALID);
    }
    refused([&whole[..], b"junk"].concat(), INVALID);
    // A hidden member between two that the directory knows.
    let (first, hidden) = (image(), Part::stored("hidden.img", b"other"));
    let mut bytes = [first.local_header(), first.bytes.clone(), hidden.local_header(), hidden.bytes].concat();
    let offset = bytes.len() as u64;
    let last = Part::stored("last", b"x");
    bytes.extend([last.local_header(), last.bytes.clone()].concat());
    let directory = [central(&first, 0), central(&last, offset)].concat();
    refused(end(bytes, &directory, 2, false), INVALID);
}

#[test]
fn sec_20_two_ends() {
    // The comment of one archive is the end of another.
    let mut bytes = zip(&[image()]);
    let other = zip(&[]);
    let length = bytes.len();
    bytes[length - 2..].copy_from_slice(&(other.len() as u16).to_le_bytes());
    bytes.extend(other);
    refused(bytes, INVALID);
    // A comment that is none is no harm.
    let mut bytes = zip(&[image()]);
    let length = bytes.len();
    bytes[length - 2..].copy_from_slice(&4_u16.to_le_bytes());
    bytes.extend(b"text");
    assert!(read(bytes).is_ok());
}

#[test]
fn sec_20_counts_that_lie() {
    for (at, value) in [(14, 0_u8), (14, 2), (12, 0), (12, 2)] {
        let mut bytes = zip(&[image()]);
        let length = bytes.len();
        bytes[length - at] = value;
        assert!(read(bytes).is_err(), "{at}");
    }
    for at in [14, 12] {
        // Both counts of the short record say less than the directory holds.
        let mut bytes = zip(&[image(), Part::stored("other", b"")]);
        let length = bytes.len();
        (bytes[length - 14], bytes[length - 12]) = (1, 1);
        refused(bytes, INVALID);
        // The long record says other than the short one.
        let mut bytes = zip(&[image().long()]);
        let length = bytes.len();
        bytes[length - at..length - at + 2].copy_from_slice(&2_u16.to_le_bytes());
        assert!(read(bytes).is_err());
    }
}

#[test]
fn sec_21_members_that_overlap() {
    // Many members of one content, and one inside of another.
    let part = Part::deflated("disk.img", &[7; 100_000]);
    let local = [part.local_header(), part.bytes.clone()].concat();
    let other = Part { name: b"other.txt".to_vec(), local_name: Some(b"disk.img".to_vec()), ..part.clone() };
    let directory = [central(&part, 0), central(&other, 0)].concat();
    refused(end(local, &directory, 2, false), UNSAFE);
    let inner = Part::stored("inner.txt", b"x");
    let outer = Part::stored("outer.img", &[inner.local_header(), inner.bytes.clone()].concat());
    let place = outer.local_header().len() as u64;
    let directory = [central(&outer, 0), central(&inner, place)].concat();
    refused(end([outer.local_header(), outer.bytes].concat(), &directory, 2, false), UNSAFE);
}

#[test]
fn sec_21_one_layer_only() {
    for content in [
        zip(&[image()]),
        b"\x1f\x8b\x08\0rest".to_vec(),
        b"\xfd7zXZ\0rest".to_vec(),
        b"\x28\xb5\x2f\xfdrest".to_vec(),
    ] {
        assert_refused(
            zip(&[Part::deflated("disk.img", &content)]),
            ErrorKind::Unsafe,
            reason::ARCHIVE_NESTED,
        );
        assert_refused(
            zip(&[Part::stored("inner.zip", &content)]),
            ErrorKind::NoImage,
            reason::ARCHIVE_NO_IMAGE,
        );
    }
}

#[test]
fn sec_20_streams_that_disagree() {
    let damaged = (ErrorKind::Invalid, reason::ARCHIVE_DAMAGED);
    let right = Part::deflated("disk.img", &[7; 5000]);
    let with_bytes = |bytes: Vec<u8>| Part { compressed: bytes.len() as u64, bytes, ..right.clone() };
    refused(zip(&[Part { crc32: 1, ..right.clone() }]), damaged);
    refused(zip(&[Part { crc32: 1, ..image() }]), damaged);
    refused(zip(&[Part { size: 5001, ..right.clone() }]), damaged);
    refused(zip(&[Part { size: 4999, ..right.clone() }]), damaged);
    refused(zip(&[Part { size: 0, ..right.clone() }]), damaged);
    refused(zip(&[with_bytes(right.bytes[..right.bytes.len() - 1].to_vec())]), damaged);
    refused(zip(&[with_bytes([&right.bytes[..], b"more"].concat())]), damaged);
    refused(zip(&[with_bytes(vec![0xff; 40])]), damaged);
    refused(zip(&[with_bytes(Vec::new())]), damaged);
    refused(zip(&[with_bytes(deflate(&[8; 5000]))]), damaged);
}
