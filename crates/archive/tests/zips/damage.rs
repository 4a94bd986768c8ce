//! Every cut and every flipped bit of small archives.

use crate::forge::{Part, zip};
use crate::read;

fn archives() -> Vec<Vec<u8>> {
    let content: Vec<u8> = (0..300_u16).map(|index| (index / 3) as u8).collect();
    let other = Part::stored("pack/", b"");
    vec![
        zip(&[other.clone(), Part::stored("pack/disk.img", &content)]),
        zip(&[Part::deflated("disk.qcow2", &content), other.clone()]),
        zip(&[Part::deflated("disk.img", &content).with_descriptor()]),
        zip(&[Part::stored("disk.img", &content).long(), other]),
    ]
}

#[test]
fn sec_20_every_cut_is_an_error() {
    for archive in archives() {
        assert!(read(archive.clone()).is_ok());
        for length in 0..archive.len() {
            assert!(read(archive[..length].to_vec()).is_err(), "{length} bytes");
        }
    }
}

/// Whatever is changed: never a panic, and never other content than was packed.
#[test]
fn sec_20_no_damage_gives_other_content() {
    for archive in archives() {
        let (_, content) = read(archive.clone()).unwrap();
        for at in 0..archive.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = archive.clone();
                damaged[at] ^= change;
                if let Ok((_, read)) = read(damaged) {
                    assert!(read == content, "byte {at}");
                }
            }
        }
    }
}
