//! Files that are packed by themselves: which are taken, and why the others are not.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Cursor, Read, Write};

use imageops_archive::{Error, ErrorKind, Limits, Packing, reason, unpack};

const ALL: [Packing; 3] = [Packing::Gzip, Packing::Xz, Packing::Zstd];

fn pack(content: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn read_within(packed: Vec<u8>, packing: Packing, limits: &Limits) -> Result<Vec<u8>, Error> {
    let mut file = unpack(Cursor::new(packed), packing, limits)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(Error::from_read)?;
    Ok(content)
}

fn read(packed: Vec<u8>, packing: Packing) -> Result<Vec<u8>, Error> {
    read_within(packed, packing, &Limits::default())
}

/// Bytes that pack a little.
fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u8).collect()
}

#[test]
fn what_was_packed_comes_out_in_one_piece_or_in_several() {
    for packing in ALL {
        for length in [0, 1, 70_000, 262_144, 262_145, 3_000_000] {
            let content = content(length);
            assert!(read(pack(&content, packing), packing).unwrap() == content, "{packing:?} {length}");
        }
        let two = [pack(b"one ", packing), pack(b"two", packing)].concat();
        assert_eq!(read(two, packing).unwrap(), b"one two", "{packing:?}");
    }
}

#[test]
fn what_is_not_packed_so_is_refused() {
    for packing in ALL {
        for other in ALL.into_iter().filter(|other| *other != packing) {
            let error = read(pack(b"content", other), packing).unwrap_err();
            assert_eq!((error.kind, error.reason), (ErrorKind::Invalid, reason::ARCHIVE_INVALID));
        }
        for bytes in [&b""[..], b"\x1f", b"a disk"] {
            assert_eq!(read(bytes.to_vec(), packing).unwrap_err().reason, reason::ARCHIVE_INVALID);
        }
    }
}

#[test]
fn a_cut_file_is_refused_at_every_length() {
    for packing in ALL {
        let packed = pack(&content(2_000), packing);
        for length in 0..packed.len() {
            let error = read(packed[..length].to_vec(), packing).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{packing:?} {length}: {error}");
        }
        let trailing = [&packed[..], b"garbage"].concat();
        assert!(read(trailing, packing).is_err(), "{packing:?}");
    }
}

#[test]
fn a_changed_byte_never_brings_other_content() {
    let content = content(20_000);
    for packing in ALL {
        let packed = pack(&content, packing);
        for at in (0..packed.len()).step_by(7) {
            let mut changed = packed.clone();
            changed[at] ^= 0x10;
            // Of gzip the time and the system in the head are in no sum, and say nothing of the content.
            if let Ok(read) = read(changed, packing) {
                assert!(read == content, "{packing:?} {at}");
            }
        }
    }
}

#[test]
fn sec_21_one_layer_only() {
    for packing in ALL {
        for inner in ALL {
            let error = read(pack(&pack(b"content", inner), packing), packing).unwrap_err();
            assert_eq!((error.kind, error.reason), (ErrorKind::Unsafe, reason::ARCHIVE_NESTED));
        }
        let error = read(pack(b"PK\x03\x04 and so on", packing), packing).unwrap_err();
        assert_eq!(error.reason, reason::ARCHIVE_NESTED);
    }
}

#[test]
fn sec_21_a_bomb_is_refused_and_an_empty_disk_is_not() {
    let limits = Limits { ratio_free_bytes: 1 << 20, ..Limits::default() };
    for packing in ALL {
        // Zeros of a raw disk become holes.
        let empty = pack(&vec![0; 64 << 20], packing);
        assert_eq!(read_within(empty.clone(), packing, &limits).unwrap().len(), 64 << 20);
        // The same in a qcow2 image, and any other byte, take room.
        let mut image = vec![0; 64 << 20];
        image[..4].copy_from_slice(b"QFI\xfb");
        for bomb in [image, vec![7; 64 << 20]] {
            let error =
                read_within(pack(&bomb, packing), packing, &limits).map(|read| read.len()).unwrap_err();
            assert_eq!((error.kind, error.reason), (ErrorKind::Unsafe, reason::ARCHIVE_BOMB), "{packing:?}");
        }
        let small = Limits { max_bytes: 10 << 20, ..Limits::default() };
        let error = read_within(empty, packing, &small).map(|read| read.len()).unwrap_err();
        assert_eq!((error.kind, error.reason), (ErrorKind::TooLarge, reason::ARCHIVE_TOO_LARGE));
    }
}

/// A frame that asks for a window of 2 GiB, and a block that asks for a dictionary of 512 MiB.
#[test]
fn sec_21_windows_are_bounded() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&content(1_000)).unwrap();
    let error = read(encoder.finish().unwrap(), Packing::Zstd).unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Unsupported, reason::ARCHIVE_UNSUPPORTED), "{error}");

    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(512 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc64).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(&content(1_000)).unwrap();
    let error = read(encoder.finish().unwrap(), Packing::Xz).unwrap_err();
    assert_eq!((error.kind, error.reason), (ErrorKind::Unsupported, reason::ARCHIVE_UNSUPPORTED), "{error}");
}

#[test]
fn a_failed_read_fails_again_and_a_failed_medium_is_not_the_files_fault() {
    for packing in ALL {
        let packed = pack(&content(600_000), packing);
        let mut cut = unpack(Cursor::new(&packed[..packed.len() / 2]), packing, &Limits::default()).unwrap();
        let mut sink = Vec::new();
        let first = Error::from_read(cut.read_to_end(&mut sink).unwrap_err());
        let second = Error::from_read(cut.read(&mut [0; 10]).unwrap_err());
        assert_eq!(first.reason, second.reason);

        let source = Cursor::new(&packed[..packed.len() / 2]).chain(Broken);
        let mut broken = unpack(source, packing, &Limits::default()).unwrap();
        let error = Error::from_read(broken.read_to_end(&mut Vec::new()).unwrap_err());
        assert_eq!(error.kind, ErrorKind::Io, "{packing:?}: {error}");
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the disk is gone"))
    }
}
