//! Damage of what is trusted leads to more that is kept, never to something used being dropped.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::pv::{self, DATA_START, EXTENT_BYTES, FIRST_AREA, Header, MIB};
use super::{peer_free, scattered};
use crate::peers::{images, open};
use crate::proofs::{Numbers, flipped, free_ranges, outside, scan, total};

#[test]
fn a_flipped_bit_of_the_metadata_never_drops_a_used_byte() {
    let test = "a_flipped_bit_of_the_metadata_never_drops_a_used_byte";
    let Some(_) = images(test, &["pvck", "mke2fs", "dumpe2fs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scattered(scratch.path());
    let theirs = peer_free(&source, &["root", "data", "home"], scratch.path());
    let disk = open(&source).disk;
    let before = total(&free_ranges(&*disk, &scan(&*disk)));
    assert!(before > 0);
    let text = length_of_text(&File::open(&source).unwrap());
    let area = FIRST_AREA.0;
    // The label's sector, the header's, and the text.
    let places = [512..1024, area..area + 512, area + 512..area + 512 + text];
    let (mut numbers, mut noticed) = (Numbers(1), 0);
    for turn in 0..2000 {
        let range = &places[turn % 3];
        let place = range.start + numbers.below(range.end - range.start);
        let damaged = flipped(&disk, place, numbers.below(8) as u8);
        let layout = scan(&damaged);
        let ours = free_ranges(&damaged, &layout);
        assert_eq!(outside(&ours, &theirs), 0, "bit of byte {place}");
        noticed += u64::from(total(&ours) < before);
    }
    // A checksum covers every bit.
    assert_eq!(noticed, 2000);
}

fn length_of_text(device: &File) -> u64 {
    let mut length = [0; 8];
    device.read_exact_at(&mut length, FIRST_AREA.0 + 48).unwrap();
    u64::from_le_bytes(length)
}

/// A description may say anything and have the right checksum.
#[test]
fn a_description_of_nonsense_is_kept_or_names_extents() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let file = pv::create(&path, 1);
    let pv = pv::whole_file(&file, "pv0", 12);
    let columns = [("pv0", 0), ("pv0", 3)];
    let segments = [pv::striped(0, 6, &columns, 8), pv::striped(6, 2, &[("pv0", 8)], 0)];
    let hidden = pv::volume("x", pv::HIDDEN, &[pv::striped(0, 1, &[("pv0", 11)], 0)]);
    let good =
        pv::group(3, &[("pv0", 12), ("pv1", 12)], &(pv::volume("root", pv::SEEN, &segments) + &hidden));
    pv.write_label(1, &[FIRST_AREA], |_| {});
    let tokens: [&[u8]; 12] =
        [b"{", b"}", b"[", b"]", b"=", b"\"", b",", b"0", b"99999999999", b"-1", b"\"pv0\", 7", b"\"root\""];
    let (mut numbers, mut read) = (Numbers(7), 0);
    for _ in 0..1500 {
        let mut text = good.clone().into_bytes();
        for _ in 0..=numbers.below(3) {
            let place = numbers.below(text.len() as u64) as usize;
            match numbers.below(3) {
                0 => text[place] ^= 1 << numbers.below(7),
                1 => drop(text.remove(place)),
                _ => drop(text.splice(place..place, tokens[numbers.below(12) as usize].iter().copied())),
            }
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        pv.write_area(FIRST_AREA, Header { text_offset: 512, ..Header::default() }, &text);
        let disk: Arc<_> = open(&path).disk;
        let layout = scan(&*disk);
        let free = free_ranges(&*disk, &layout);
        let extents = DATA_START..DATA_START + 12 * EXTENT_BYTES;
        assert_eq!(outside(&free, std::slice::from_ref(&extents)), 0, "{text}");
        read += u64::from(!free.is_empty());
    }
    assert!(read > 100, "{read}");
    assert_eq!(DATA_START, MIB);
}
