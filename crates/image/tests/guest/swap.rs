//! Linux swap space, against blkid and swaplabel.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imageops_image::compress::CompressOptions;
use imageops_image::disk::Disk;
use imageops_image::guest::Layout;
use imageops_image::reason;

use crate::peers::{compress_file, images, open, run_ok, text};
use crate::proofs::{Numbers, Patched, flipped, free_ranges, junk, outside, reasons, scan, total};

const PAGES: [u64; 4] = [4096, 8192, 16_384, 65_536];

/// Swap space on a device of `size` bytes that is full of what was swapped out.
fn make(target: &Path, size: u64, arguments: &[&str]) {
    junk(target, size);
    run_ok(
        "mkswap",
        &[&["-q", "-U", "00000000-1111-2222-3333-777777777777"], arguments, &[text(target)]].concat(),
    );
}

fn word(place: u64, value: u32) -> Vec<(u64, u8)> {
    (place..).zip(value.to_le_bytes()).collect()
}

fn bytes(place: u64, value: &[u8]) -> Vec<(u64, u8)> {
    (place..).zip(value.iter().copied()).collect()
}

fn layout_of(base: &Arc<dyn Disk>, bytes: Vec<(u64, u8)>) -> (Patched, Layout) {
    let disk = Patched { base: Arc::clone(base), bytes, size: None };
    let layout = scan(&disk);
    (disk, layout)
}

#[test]
fn the_first_page_is_the_same_and_the_rest_is_gone() {
    let test = "the_first_page_is_the_same_and_the_rest_is_gone";
    let Some(directory) = images(test, &["mkswap", "swaplabel", "blkid", "qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut sources = vec![(4096, directory.join("fs/swap.raw"))];
    for page in PAGES {
        let source = scratch.path().join(format!("{page}.raw"));
        make(&source, 3 << 20, &["-p", &page.to_string(), "-L", "some label"]);
        sources.push((page, source));
    }
    for (page, source) in sources {
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{page}");
        assert_eq!(layout.parts()[0].summary().content, "swap");
        let free = free_ranges(&*image.disk, &layout);
        assert_eq!(free, vec![page..image.disk.virtual_size_bytes()], "{page}");
        assert_eq!(layout.parts()[0].summary().free_bytes, total(&free));

        let (packed, raw) = (scratch.path().join("out.qcow2"), scratch.path().join("out.raw"));
        compress_file(&source, &packed, &CompressOptions::default()).unwrap();
        run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
        let (before, after) = (std::fs::read(&source).unwrap(), std::fs::read(&raw).unwrap());
        assert!(before[..page as usize] == after[..page as usize], "{page}");
        assert!(after[page as usize..].iter().all(|byte| *byte == 0), "{page}");
        // swaplabel reads 4 KiB pages alone.
        if page == 4096 {
            assert_eq!(run_ok("swaplabel", &[text(&source)]), run_ok("swaplabel", &[text(&raw)]));
        }
        let id = |path: &Path| run_ok("blkid", &["-p", "-o", "export", text(path)]).replace(text(path), "");
        assert!(id(&raw).contains("TYPE=swap"));
        assert_eq!(id(&source), id(&raw));
    }
}

#[test]
fn the_label_is_read() {
    let Some(_) = images("the_label_is_read", &["mkswap"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("swap.raw");
    make(&source, 1 << 20, &["-L", "some label"]);
    let layout = scan(&*open(&source).disk);
    assert_eq!(layout.parts()[0].summary().label.as_deref(), Some("some label"));
}

#[test]
fn what_lies_behind_the_last_page_and_bad_pages_are_kept() {
    let test = "what_lies_behind_the_last_page_and_bad_pages_are_kept";
    let Some(_) = images(test, &["mkswap"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("swap.raw");
    make(&source, 1 << 20, &[]);
    // The device was made larger later, and its end is no whole page.
    std::fs::File::options().write(true).open(&source).unwrap().write_all_at(&[7; 9000], 1 << 20).unwrap();
    let disk = open(&source).disk;
    let layout = scan(&*disk);
    assert_eq!(free_ranges(&*disk, &layout), vec![4096..1 << 20]);
    let bad = [word(1032, 3), word(1536, 9), word(1540, 4), word(1544, 255)].concat();
    let (disk, layout) = layout_of(&disk, bad);
    assert_eq!(reasons(&layout), Vec::<String>::new());
    let expected = [4096..4 * 4096, 5 * 4096..9 * 4096, 10 * 4096..255 * 4096];
    assert_eq!(free_ranges(&disk, &layout), expected);
    assert_eq!(layout.parts()[0].summary().free_bytes, total(&expected));
}

#[test]
fn every_skip_condition_keeps_all() {
    let Some(directory) = images("every_skip_condition_keeps_all", &["mkswap"]) else { return };
    let disk = open(&directory.join("fs/swap.raw")).disk;
    let hibernated: [&[u8]; 5] = [
        b"S1SUSPEND\0",
        b"S2SUSPEND\0",
        b"ULSUSPEND\0",
        b"LINHIB0001",
        b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c\0\0",
    ];
    let mut damages: Vec<_> =
        hibernated.iter().map(|mark| (bytes(4086, mark), reason::KEPT_HIBERNATED)).collect();
    damages.extend([
        (bytes(4086, b"SWAP-SPACE"), reason::KEPT_UNKNOWN_FEATURE),
        (word(1024, 0), reason::KEPT_UNKNOWN_FEATURE),
        (word(1024, 2), reason::KEPT_UNKNOWN_FEATURE),
        (word(1028, 4096), reason::KEPT_GEOMETRY),
        (word(1032, 1), reason::KEPT_GEOMETRY),
        (word(1032, 638), reason::KEPT_GEOMETRY),
        ([word(1032, 1), word(1536, 4096)].concat(), reason::KEPT_GEOMETRY),
        // The first page of a larger page size: in swap space, or left from another one.
        (bytes(65_526, b"SWAPSPACE2"), reason::KEPT_TWO_SIGNATURES),
        (bytes(16_374, b"S1SUSPEND\0"), reason::KEPT_HIBERNATED),
    ]);
    for (damage, expected) in damages {
        let (disk, layout) = layout_of(&disk, damage.clone());
        assert_eq!(reasons(&layout), [expected], "{damage:?}");
        assert_eq!(layout.parts()[0].summary().content, "swap");
        assert!(free_ranges(&disk, &layout).is_empty());
    }
    let short = Patched { base: disk, bytes: Vec::new(), size: Some((16 << 20) - 1) };
    assert_eq!(reasons(&scan(&short)), [reason::KEPT_GEOMETRY]);
}

#[test]
fn a_flipped_bit_never_drops_the_header() {
    let Some(_) = images("a_flipped_bit_never_drops_the_header", &["mkswap"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("swap.raw");
    let (mut flips, mut noticed) = (0_u64, 0_u64);
    for page in PAGES {
        make(&source, 2 << 20, &["-p", &page.to_string()]);
        let disk = open(&source).disk;
        let theirs = page..2 << 20;
        let mut numbers = Numbers(page);
        // Version, last page and number of bad pages; the mark; any place of the page.
        for (range, turns) in [(1024..1036, 300), (page - 10..page, 150), (0..page, 50)] {
            for _ in 0..turns {
                let place = range.start + numbers.below(range.end - range.start);
                let damaged = flipped(&disk, place, numbers.below(8) as u8);
                let ours = free_ranges(&damaged, &scan(&damaged));
                assert_eq!(outside(&ours, std::slice::from_ref(&theirs)), 0, "byte {place}");
                flips += 1;
                noticed += u64::from(total(&ours) < theirs.end - theirs.start);
            }
        }
    }
    assert_eq!(flips, 2000);
    assert!(noticed > flips * 3 / 4, "{noticed} of {flips} flips were noticed");
}

#[test]
fn each_part_of_a_disk_gives_its_own_answer() {
    let Some(directory) = images("each_part_of_a_disk_gives_its_own_answer", &[]) else { return };
    let disk = open(&directory.join("fs/mbr-logical.raw")).disk;
    let layout = scan(&*disk);
    let mut found = BTreeMap::new();
    for part in layout.parts() {
        let summary = part.summary();
        let range = summary.start_bytes..summary.start_bytes + summary.length_bytes;
        let mut free = Vec::new();
        part.free_within(&*disk, 0..disk.virtual_size_bytes(), &mut free).unwrap();
        assert!(free.iter().all(|piece| range.start <= piece.start && piece.end <= range.end));
        assert_eq!(total(&free), summary.free_bytes, "{}", summary.content);
        found.insert(summary.content.clone(), summary.free_bytes);
    }
    assert_eq!(found["swap"], (16 << 20) - 4096);
    assert!(found["fat16"] > 0 && found["ext4"] > 0);
}
